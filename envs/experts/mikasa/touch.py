"""Reach and touch: the object, or the objects, that were shown."""

from __future__ import annotations

import numpy as np

from envs.experts.mikasa.arm import BASE, Arm, is_static, still, tool
from envs.experts.mikasa.motion import Player, Seen

ABOVE = np.array([0.0, 0.0, 0.025])  # the point over an object's centre where the suite takes it for touched
OVER = np.array([0.0, 0.0, 0.035])  # within the 0.05 that the single object asks for, and clear of it
GRAZE = np.array([0.0, 0.0, 0.036])  # within that, and so high that the tool goes straight over all cubes
HIGHER = 0.012  # on long ways, on which it may sink for a few steps
CENTRE = np.array([-0.05, 0.0, 0.08])  # over the middle of the table, to start from
NEAR = 0.018  # metres from there that count; the suite's 0.02, with a little to spare
SLOPE, CLEARANCE = 0.8, 0.035  # on its way the tool keeps above a cone round the place, so that it touches no other
AWAIT, READY = np.array([-0.12, 0.0, 0.2]), np.array([-0.05, 0.0, 0.1])  # while a cue is shown, in nobody's view; then


class Touch(Player):
    """Remembers the one object that was shown alone, and touches it when there are several. Then stays there."""

    _wanted: int | None = None

    def act(self, seen: Seen) -> np.ndarray:
        if seen.visible.sum() == 1:
            self._wanted = int(seen.visible.argmax())
        if self._wanted is None or seen.visible.sum() < 2:
            return self.arm.toward(seen.joints, AWAIT if seen.visible.any() else READY)
        return descend(self.arm, seen, seen.places[self._wanted] + OVER)


class TouchAll(Player):
    """Remembers every object that was shown before the table was empty, and touches them all.

    in_order: as they were shown, else from one side to the other. A touched object is known as such from the arm alone.
    The tool glides over the cubes without being lifted: it counts as touching within a sphere that reaches above them,
    and only while the arm stands still. Seven in a fixed order leave 11 steps for each.
    """

    _empty = False

    def __init__(self, arm: Arm, in_order: bool) -> None:
        super().__init__(arm)
        self._shown: list[int] = []
        self._planned = in_order

    def act(self, seen: Seen) -> np.ndarray:
        visible = np.flatnonzero(seen.visible).tolist()
        self._empty = self._empty or not visible
        if not self._empty:
            self._shown += [number for number in visible if number not in self._shown]
        if not self._empty or not visible:
            if visible:
                return self.arm.toward(seen.joints, AWAIT)
            return self.arm.glide(seen.joints, CENTRE)
        where = tool(seen.joints)
        if is_static(seen.joints):
            distance = np.linalg.norm(seen.places + ABOVE - where, axis=1)
            self._shown = [number for number in self._shown if distance[number] >= NEAR]
        if not self._shown:
            return still()
        if not self._planned:
            self._planned, self._shown = True, sweep(self._shown, seen.places, where)
        place = seen.places[self._shown[0]]
        if np.linalg.norm(place + ABOVE - self.arm.stops_at(seen.joints)) < NEAR:
            return still()
        away = float(np.linalg.norm((place - where)[:2]))
        lift = min(HIGHER, SLOPE * max(0.0, away - 0.04))
        return self.arm.glide(seen.joints, place + GRAZE + np.array([0.0, 0.0, lift]))


def sweep(numbers: list[int], places: np.ndarray, where: np.ndarray) -> list[int]:
    """The objects in the order of their direction from the arm's base, from the end that is nearer to `where`."""
    directions = np.arctan2(places[:, 1], places[:, 0] - BASE[0])
    order = sorted(numbers, key=lambda number: float(directions[number]))
    first, last = (float(np.linalg.norm(places[order[i]] - where)) for i in (0, -1))
    return order if first <= last else order[::-1]


def descend(arm: Arm, seen: Seen, place: np.ndarray) -> np.ndarray:
    """A step toward a place, from above."""
    away = float(np.linalg.norm((place - tool(seen.joints))[:2]))
    lift = min(CLEARANCE, SLOPE * max(0.0, away - 0.01))
    return arm.toward(seen.joints, place + np.array([0.0, 0.0, lift]))
