"""Reach and touch: the object, or the objects, that were shown."""

from __future__ import annotations

import numpy as np

from envs.experts.mikasa.arm import Arm, is_static, still, tool
from envs.experts.mikasa.motion import Player, Seen

ABOVE = np.array([0.0, 0.0, 0.025])  # the point over an object's centre where the suite takes it for touched
OVER = np.array([0.0, 0.0, 0.035])  # within the 0.05 that the single object asks for, and clear of it
NEAR = 0.018  # metres from there that count; the suite's 0.02, with a little to spare
SLOPE, CLEARANCE = 0.8, 0.08  # on its way the tool keeps above a cone round the place, so that it touches no other


class Touch(Player):
    """Remembers the one object that was shown alone, and touches it when there are several. Then stays there."""

    def __init__(self, arm: Arm) -> None:
        super().__init__(arm)
        self._wanted: int | None = None

    def act(self, seen: Seen) -> np.ndarray:
        if seen.visible.sum() == 1:
            self._wanted = int(seen.visible.argmax())
        if self._wanted is None or seen.visible.sum() < 2:
            return still()
        return descend(self.arm, seen, seen.places[self._wanted] + OVER)


class TouchAll(Player):
    """Remembers every object that was shown before the table was empty, and touches them all.

    in_order: as they were shown, else the nearest one first. A touched object is known as such from the arm alone.
    """

    def __init__(self, arm: Arm, in_order: bool) -> None:
        super().__init__(arm)
        self._in_order = in_order
        self._shown: list[int] = []
        self._empty = False
        self._target: int | None = None

    def act(self, seen: Seen) -> np.ndarray:
        visible = np.flatnonzero(seen.visible).tolist()
        self._empty = self._empty or not visible
        if not self._empty:
            self._shown += [number for number in visible if number not in self._shown]
        if not self._empty or not visible:
            return still()
        where = tool(seen.joints)
        if is_static(seen.joints):
            distance = np.linalg.norm(seen.places + ABOVE - where, axis=1)
            touched = [number for number in self._shown if distance[number] < NEAR]
            self._shown = [number for number in self._shown if number not in touched]
            self._target = None if self._target in touched else self._target
        if not self._shown:
            return self.arm.toward(seen.joints, np.array([where[0], where[1], 0.2]))
        if self._target is None:
            flat = np.linalg.norm((seen.places - where)[:, :2], axis=1)
            self._target = self._shown[0] if self._in_order else min(self._shown, key=lambda number: flat[number])
        return descend(self.arm, seen, seen.places[self._target] + ABOVE)


def descend(arm: Arm, seen: Seen, place: np.ndarray) -> np.ndarray:
    """A step toward a place, from above."""
    away = float(np.linalg.norm((place - tool(seen.joints))[:2]))
    lift = min(CLEARANCE, SLOPE * max(0.0, away - 0.01))
    return arm.toward(seen.joints, place + np.array([0.0, 0.0, lift]))
