"""The arm's kinematics and its default controller, turned around: from where the tool is to go to an action."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import numpy as np

BASE = np.array([-0.615, 0.0, 0.0])  # where the suite puts the robot
TOOL = "panda_hand_tcp"
ARM = 7  # joints; the two fingers follow
DELTA = 0.1  # radians that the controller adds to a joint for an action of 1
PACE = 0.03  # radians that a joint makes in a step, at most
GAIN = 1.8  # of what is missing; the joints make about 0.4 of what they are told in one step
FAR, TURN = 0.08, 0.6  # metres and radians that are asked for at once, so that the solution found is the near one
OPEN, CLOSED = 1.0, -1.0


class Arm:
    """Actions float32 [8] of `pd_joint_delta_pos`, always within its bounds, for the Panda with its wrist camera."""

    def __init__(self) -> None:
        self._model, self._tool = _model()

    def toward(
        self,
        joints: np.ndarray,
        place: np.ndarray,
        yaw: float = 0.0,
        gripper: float = CLOSED,
        tilt: float = 0.0,
        gain: float = GAIN,
    ) -> np.ndarray:
        """A step of the tool toward `place` (metres, world), pointing down and turned by `yaw`.

        joints: the part of that name of the observation. tilt: lean forward, which reaches further. Where nothing
        reaches the place, the arm stays.
        """
        q = joints[:9].astype(np.float64)
        now = yaw_of(joints)
        yaw = now + float(np.clip(wrapped(yaw - now), -TURN, TURN))
        step = place - tool(joints)
        place = tool(joints) + step * min(1.0, FAR / max(FAR, float(np.linalg.norm(step))))
        solution = self._solve(q, place, yaw, tilt)
        action = np.zeros(ARM + 1, np.float32)
        action[ARM] = gripper
        if solution is not None:
            wish = gain * (solution[:ARM] - q[:ARM]) / DELTA
            action[:ARM] = wish / max(1.0, float(np.abs(wish).max()))
        return action

    def steps_to(self, joints: np.ndarray, place: np.ndarray) -> float:
        """About how many steps the tool takes to a place with its yaw at 0; infinite where it does not reach it."""
        where = tool(joints)
        q = begin = joints[:9].astype(np.float64)
        parts = max(1, round(float(np.linalg.norm(place - where)) / FAR))
        for part in range(1, parts + 1):
            solution = self._solve(q, where + (place - where) * part / parts, 0.0, 0.0)
            if solution is None:
                return float("inf")
            q = solution
        return float(np.abs(q - begin)[:ARM].max()) / PACE

    def _solve(self, q: np.ndarray, place: np.ndarray, yaw: float, tilt: float) -> np.ndarray | None:
        """Joint positions near `q` that bring the tool there; None where there are none."""
        import sapien

        half, lean = yaw / 2, -tilt / 2
        turn = np.array([np.cos(half), 0.0, 0.0, np.sin(half)])
        down = np.array([0.0, 1.0, 0.0, 0.0])
        forward = np.array([np.cos(lean), 0.0, np.sin(lean), 0.0])
        pose = sapien.Pose(place - BASE, product(forward, product(turn, down)))
        mask = np.array([1] * ARM + [0, 0], np.int32)
        solution, found, _ = self._model.compute_inverse_kinematics(
            self._tool, pose, initial_qpos=q, active_qmask=mask, max_iterations=200
        )
        return solution if found or np.abs(solution[:ARM] - q[:ARM]).max() < 1.0 else None


def still(gripper: float = CLOSED) -> np.ndarray:
    """The action float32 [8] that leaves the arm where it is."""
    action = np.zeros(ARM + 1, np.float32)
    action[ARM] = gripper
    return action


def tool(joints: np.ndarray) -> np.ndarray:
    """Where the tool centre is: [3], metres."""
    return joints[18:21].astype(np.float64)


def yaw_of(joints: np.ndarray) -> float:
    """How far the tool is turned about the vertical; 0 with the fingers apart along y."""
    w, x, y, z = joints[21:25].astype(np.float64)
    forward = np.array([1 - 2 * (y * y + z * z), 2 * (x * y + w * z)])  # where the tool's x axis points
    return float(np.arctan2(forward[1], forward[0]))


def is_static(joints: np.ndarray) -> bool:
    """Whether the suite takes the arm for standing still: no joint faster than 0.2 rad/s."""
    return bool(np.abs(joints[9 : 9 + ARM]).max() <= 0.2)


def wrapped(angle: float) -> float:
    """The same angle in [-pi, pi)."""
    return float((angle + np.pi) % (2 * np.pi) - np.pi)


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The product of two quaternions (w, x, y, z)."""
    w, v, s, u = a[0], a[1:], b[0], b[1:]
    return np.array([w * s - v @ u, *(w * u + s * v + np.cross(v, u))])


@lru_cache(maxsize=1)
def _model() -> tuple[Any, int]:
    """Pinocchio's model of the arm, as ManiSkill's own controllers use it, and the number of the tool's link."""
    from mani_skill import PACKAGE_ASSET_DIR
    from sapien.wrapper.pinocchio_model import PinocchioModel

    description = (PACKAGE_ASSET_DIR / "robots/panda/panda_v3.urdf").read_text()
    moving = re.findall(r'<joint name="([^"]+)" type="(?:revolute|prismatic)"', description)
    links = re.findall(r'<link name="([^"]+)"', description)
    model = PinocchioModel(description, [0, 0, -9.81])
    model.set_joint_order(moving)
    model.set_link_order(links)
    return model, links.index(TOOL)
