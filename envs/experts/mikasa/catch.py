"""Intercept a rolling ball: stand in its way until it has stopped, grip it, and carry it where it was to roll."""

from __future__ import annotations

import numpy as np

from envs.experts.mikasa.arm import CLOSED, OPEN, still, tool
from envs.experts.mikasa.carry import Gripper
from envs.experts.mikasa.motion import Seen

BALL, GOAL = 0, 1
RADIUS = 0.02
LOOK = 4  # steps after which the ball rolls instead of sliding, and its speed can be told
SLOWED = 0.006  # metres per step below which the ball has been stopped
FINGER = 0.055  # metres from between the open fingers to the outside of one
STANDS = np.linspace(-0.45, 0.5, 20)  # where along the ball's way the arm could stand
SPARE = 3.0  # steps that the arm is to be there before the ball


class Catch(Gripper):
    """Stops the ball with the outside of a finger, grips it, and carries it to the goal where there is one."""

    _steps = 0
    _before: np.ndarray | None = None
    _stand: np.ndarray | None = None
    _stopped = False

    def act(self, seen: Seen) -> np.ndarray:
        ball = seen.places[BALL]
        speed = np.zeros(3) if self._before is None else ball - self._before
        self._before, self._steps = ball.copy(), self._steps + 1
        if self._steps <= LOOK:
            return self.arm.toward(seen.joints, np.array([ball[0], 0.0, 0.1]), 0.0, OPEN)
        if self.held:
            return self._carried(seen)
        if self._stand is None:
            self._stand = self._choose(seen.joints, ball, speed)
        near = abs(ball[1] - self._stand[1]) < 0.12
        self._stopped = self._stopped or (near and speed[1] < SLOWED)
        if not self._stopped:
            way = max(0.0, self._stand[1] - FINGER - RADIUS - ball[1])
            ahead = way / max(speed[1], 1e-3)
            return self.arm.toward(seen.joints, np.array([ball[0] + speed[0] * ahead, *self._stand[1:]]), 0.0, OPEN)
        where = tool(seen.joints)
        if np.linalg.norm((ball - where)[:2]) > 0.03 and where[2] < 0.055:  # up first, beside the ball
            return self.arm.toward(seen.joints, np.array([where[0], where[1], 0.1]), 0.0, OPEN)
        return self.grip(seen.joints, ball, 0.0, ahead=2 * speed * np.array([1.0, 1.0, 0.0]))

    def _choose(self, joints: np.ndarray, ball: np.ndarray, speed: np.ndarray) -> np.ndarray:
        """The first place on the ball's way that the arm reaches before the ball."""
        stands = [np.array([ball[0], y, RADIUS]) for y in STANDS]
        spare = []
        for stand in stands:
            arrives = (stand[1] - FINGER - RADIUS - ball[1]) / max(speed[1], 1e-3)
            spare.append(arrives - self.arm.steps_to(joints, stand))
        first = next((i for i, steps in enumerate(spare) if steps > SPARE), int(np.argmax(spare)))
        return stands[first]

    def _carried(self, seen: Seen) -> np.ndarray:
        """With the ball between the fingers: to the goal, else stand still."""
        if len(seen.places) <= GOAL:
            return still(CLOSED)
        goal = seen.places[GOAL]
        return self.arm.toward(seen.joints, np.array([goal[0], goal[1], RADIUS + 0.005]), 0.0, CLOSED)
