"""The arm's kinematics and its default controller, turned around: from where the tool is to go to an action."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.optimize import lsq_linear

BASE = np.array([-0.615, 0.0, 0.0])  # where the suite puts the robot
TOOL = "panda_hand_tcp"
ARM = 7  # joints; the two fingers follow
DELTA = 0.1  # radians that the controller adds to a joint for an action of 1
PACE = 0.03  # radians that a joint makes in a step, at most
GAIN = 1.8  # of what is missing; the joints make about 0.4 of what they are told in one step
FAR, TURN = 0.08, 0.6  # metres and radians that are asked for at once, so that the solution found is the near one
OPEN, CLOSED = 1.0, -1.0
# What a joint makes of what it is told in a step, and the seconds for which it goes on at its speed when told nothing:
# a fit to recorded episodes.
MADE = np.array([0.23, 0.37, 0.30, 0.36, 0.39, 0.39, 0.39])
COASTS = np.array([0.023, 0.004, 0.013, 0.006, 0.0, 0.0, 0.0])
REST = np.array([0.0, 0.1, 0.0, -2.1, 0.0, 2.2, np.pi / 4])  # a posture over the middle of the table
# Metres that a radian of tilt, off the posture and of movement count as, and what a metre of height counts as.
UPRIGHT, POSTURE, DAMPED, LEVEL = 0.03, 0.004, 0.02, 3.0


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
        action = still(gripper)
        if solution is not None:
            wish = gain * (solution[:ARM] - q[:ARM]) / DELTA
            action[:ARM] = wish / max(1.0, float(np.abs(wish).max()))
        return action

    def glide(self, joints: np.ndarray, place: np.ndarray, gripper: float = CLOSED) -> np.ndarray:
        """The fastest step toward `place` (metres, world), whichever way the tool is turned.

        All joints take part, which is up to twice as fast as with the tool held straight: a bounded least squares of
        what is left to the place, of the tool's tilt, and of how far the joints are from a posture of rest.
        """
        q, speed = joints[:9].astype(np.float64), joints[9:].astype(np.float64)[:ARM]
        moves, turns = self._jacobian(joints)
        down = rotation(joints)[:, 2]
        leans = np.cross(turns.T, down).T[:2]  # how the tool's axis moves sideways
        made, coast = MADE * DELTA, COASTS * speed
        axes, identity = np.array([1.0, 1.0, LEVEL]), np.eye(ARM)
        rows = np.concatenate([axes[:, None] * moves, UPRIGHT * leans, POSTURE * identity, DAMPED * identity])
        left = place - tool(joints)
        wanted = [axes * left, -UPRIGHT * down[:2], POSTURE * (REST - q[:ARM]), np.zeros(ARM)]
        found = lsq_linear(rows * made, np.concatenate(wanted) - rows @ coast, (-1.0, 1.0), method="bvls")
        return np.append(np.clip(found.x, -1.0, 1.0), gripper).astype(np.float32)

    def stops_at(self, joints: np.ndarray) -> np.ndarray:
        """Where the tool is after the next step when the arm is told to stand still: [3], metres."""
        moves, _ = self._jacobian(joints)
        return tool(joints) + moves @ (COASTS * joints[9 : 9 + ARM])

    def _jacobian(self, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What a radian of each joint moves the tool by [3, 7], metres, and turns it by [3, 7], in the world's axes."""
        local = self._model.compute_single_link_local_jacobian(joints[:9].astype(np.float64), self._tool)
        both = rotation(joints) @ np.asarray(local)[:, :ARM].reshape(2, 3, ARM)
        return both[0], both[1]

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


def rotation(joints: np.ndarray) -> np.ndarray:
    """How the tool is turned: a matrix [3, 3] whose columns are its axes in the world."""
    w, x, y, z = joints[21:25].astype(np.float64)
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip


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
