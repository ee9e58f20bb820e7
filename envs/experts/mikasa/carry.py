"""Grip an object on the table, and slide or turn it: push and return, rotate."""

from __future__ import annotations

import numpy as np

from envs.experts.mikasa.arm import CLOSED, OPEN, still, tool, wrapped, yaw_of
from envs.experts.mikasa.motion import Player, Seen

CUBE, GOAL, CHANGED_GOAL = 0, 1, 2
AT, TURNED = 0.012, 0.06  # metres and radians within which the fingers may close
SHORT, LEAN = 0.04, 0.45  # metres before the goal's middle, and radians: it is at the end of the arm's reach
CLOSING = 4  # steps that the fingers take
SLOPE, CLEARANCE = 2.0, 0.08


class Gripper(Player):
    """A player that comes down over a place with open fingers and closes them; `held` from then on."""

    _closing = 0  # steps so far

    @property
    def held(self) -> bool:
        return self._closing >= CLOSING

    def grip(self, joints: np.ndarray, place: np.ndarray, yaw: float, ahead: float | np.ndarray = 0.0) -> np.ndarray:
        """The next action, float32 [8]. ahead: how far the object will have moved when the arm gets there."""
        turned = abs(wrapped(yaw - yaw_of(joints)))
        if self._closing or (np.linalg.norm(place - tool(joints)) < AT and turned < TURNED):
            self._closing += 1
            return still(CLOSED)
        place = place + ahead
        away = place - tool(joints)
        lift = min(CLEARANCE, SLOPE * max(0.0, float(np.linalg.norm(away[:2])) + 0.1 * turned - 0.01))
        return self.arm.toward(joints, place + np.array([0.0, 0.0, lift]), yaw, OPEN)


class TakeItBack(Gripper):
    """Slides the cube into the goal until that changes its colour, then back to where the cube was at first."""

    _home: np.ndarray | None = None
    _returning = False

    def act(self, seen: Seen) -> np.ndarray:
        cube = seen.places[CUBE]
        if self._home is None:
            self._home = cube.copy()
        self._returning = self._returning or bool(seen.visible[CHANGED_GOAL])
        if not self.held:
            return self.grip(seen.joints, cube, 0.0)
        goal = seen.places[CHANGED_GOAL if seen.visible[CHANGED_GOAL] else GOAL]
        short = (self._home - goal) * min(1.0, SHORT / max(1e-6, float(np.linalg.norm(self._home - goal))))
        aim = self._home if self._returning else goal + short
        lean = float(np.clip(tool(seen.joints)[0] / 0.2, 0.0, 1.0))
        return self.arm.toward(seen.joints, np.array([aim[0], aim[1], 0.022 + 0.01 * lean]), tilt=LEAN * lean)


class Rotate(Gripper):
    """Grips the peg in its middle and turns it by the angle that was told, from the heading that it had at first."""

    HEIGHT = 0.022  # of the tool; the peg is 0.05 high
    REACH = (-1.9, 3.2)  # yaws that the wrist turns to

    _heading: float | None = None  # at first, when `_angle`, `_yaw` and `_place` are settled too

    def act(self, seen: Seen) -> np.ndarray:
        assert seen.heading is not None
        if seen.told is not None and self._heading is None:
            self._heading, self._angle = seen.heading, seen.told
            self._yaw = self._best(seen.heading, seen.told, yaw_of(seen.joints))
            self._place = np.array([*seen.places[0][:2], self.HEIGHT])
        if self._heading is None:
            return still(OPEN)
        if not self.held:
            return self.grip(seen.joints, self._place, self._yaw)
        left = wrapped(self._heading + self._angle - seen.heading)
        return self.arm.toward(seen.joints, self._place, yaw_of(seen.joints) + left)

    def _best(self, heading: float, angle: float, now: float) -> float:
        """The nearest turn of the tool that has the fingers across the peg, within reach before and after."""
        low, high = self.REACH
        turns = [wrapped(heading) + k * np.pi for k in (-2, -1, 0, 1, 2)]
        within = [turn for turn in turns if low <= turn <= high and low <= turn + angle <= high]
        return min(within, key=lambda turn: abs(turn - now))
