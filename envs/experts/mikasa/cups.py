"""The shell game: a ball is seen, three cups come down, and one of them is under a ball now. Touch, push or lift it."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from envs.experts.mikasa.arm import CLOSED, OPEN, tool
from envs.experts.mikasa.carry import LEAN, Gripper
from envs.experts.mikasa.motion import Player, Seen
from envs.experts.mikasa.touch import AWAIT, descend

BALL = 3  # after the three cups
TOP = np.array([0.0, 0.0, 0.06])  # over a cup's centre: 0.02 above its bottom, which is up; the suite asks for 0.08
BEHIND, HEIGHT = 0.085, 0.035  # metres from a cup's middle from where to push it, and how high
GOAL, SPARE = 0.1, 0.03  # metres that the suite wants a cup to be pushed by; it is content with 0.08 less
HANDLE, HEADING = 0.051, np.radians(136.0)  # of the handle in ShellGamePick, from the cup's middle; 133 to 139 degrees
LIFTED = 0.13  # metres above the table


class Cup(Player):
    """Remembers where the ball was while the cups were up."""

    gripper = CLOSED
    _ball: np.ndarray | None = None
    _cup: int | None = None

    def act(self, seen: Seen) -> np.ndarray:
        if seen.visible[BALL]:
            self._ball = seen.places[BALL].copy()
        if self._ball is None or not seen.visible[:BALL].all():
            return self.arm.toward(seen.joints, AWAIT, gripper=self.gripper)
        if self._cup is None:
            self._cup = int(np.linalg.norm(seen.places[:BALL, :2] - self._ball[:2], axis=1).argmin())
        return self.play(seen, seen.places[self._cup], self._ball)

    @abstractmethod
    def play(self, seen: Seen, cup: np.ndarray, ball: np.ndarray) -> np.ndarray:
        """The next action, float32 [8], for the cup's place now and the ball's at first, [3] each, metres."""


class TouchCup(Cup):
    """Stands over the cup."""

    def play(self, seen: Seen, cup: np.ndarray, ball: np.ndarray) -> np.ndarray:
        return descend(self.arm, seen, cup + TOP)


class PushCup(Cup):
    """Comes down between the robot and the cup, and pushes that away until it is where it is wanted, or nearly."""

    _down = False

    def play(self, seen: Seen, cup: np.ndarray, ball: np.ndarray) -> np.ndarray:
        where = tool(seen.joints)
        start = np.array([cup[0] - BEHIND, cup[1], HEIGHT])
        self._down = self._down or bool(np.linalg.norm(start - where) < 0.015)
        if not self._down:
            return descend(self.arm, seen, start)
        wanted = ball[0] + GOAL - SPARE
        lean = LEAN * float(np.clip(where[0] / 0.2, 0.0, 1.0))
        ahead = np.clip(wanted - cup[0], 0.0, 0.05)
        return self.arm.toward(seen.joints, np.array([where[0] + ahead, cup[1], HEIGHT]), tilt=lean)


class PickCup(Cup, Gripper):
    """Grips the cup's handle from above and lifts it."""

    gripper = OPEN
    _handle: np.ndarray | None = None

    def play(self, seen: Seen, cup: np.ndarray, ball: np.ndarray) -> np.ndarray:
        if self._handle is None:
            self._handle = cup + HANDLE * np.array([np.cos(HEADING), np.sin(HEADING), 0.0])
        if not self.held:
            return self.grip(seen.joints, self._handle, HEADING - np.pi)
        return self.arm.toward(seen.joints, np.array([*self._handle[:2], LIFTED]), HEADING - np.pi)
