"""Episodes of the published MIKASA-Robo archive (npz: rgb, joints, action, reward, success, done) as ours."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from elmur.spec import Field, Image, TaskSpec, Vector
from envs.mikasa import check_task, length_of
from envs.mikasa.scene import JOINTS
from envs.mikasa.sim import CAMERAS, SIZE, MikasaError
from envs.rollout import Trajectory

ACTIONS = 8
SHAPES: dict[str, tuple[int, ...]] = {
    "rgb": (SIZE, SIZE, 3 * len(CAMERAS)), "joints": (JOINTS,), "action": (ACTIONS,), "reward": (), "success": (),
    "done": (),
}  # fmt: skip


class PublishedEpisodes:
    """Turns the arrays of one file into an episode of a task: `read(arrays) -> Trajectory`.

    rgb uint8 [T, 128, 128, 6]: the base camera's colours, then those of the hand's. joints float [T, 25]. action float
    [T, 8]: means of the oracle's policy, not clipped. reward, success, done [T]: dense, whether the goal is met at
    this step, and whether the episode is over after it. T is the suite's length, whatever is reached on the way.
    Needs neither the suite nor a simulator.
    """

    keys: tuple[str, ...] = tuple(SHAPES)
    made_with: Mapping[str, str] = {"mani_skill": "3.0.0b15"}  # which the suite was pinned to

    def __init__(self, id: str, observation: str = "rgb", joints: bool = False) -> None:
        check_task(id)
        if observation != "rgb":
            raise MikasaError(
                f"{id}: the published archive holds pictures, not observation={observation}; add observation=rgb"
            )
        parts: dict[str, Field] = {camera: Image(3, SIZE, SIZE) for camera in CAMERAS}
        parts |= {"joints": Vector(JOINTS)} if joints else {}
        self.spec = TaskSpec(id, parts, Vector(ACTIONS, (-1.0,) * ACTIONS, (1.0,) * ACTIONS), length_of(id))

    def read(self, arrays: Mapping[str, np.ndarray]) -> Trajectory:
        """The episode. Raises ValueError where the arrays are not as above; values are checked by the writer."""
        length = self.spec.horizon
        for key, shape in SHAPES.items():
            found, kinds = arrays[key], "u" if key == "rgb" else "f" if key == "action" else "biuf"
            if (
                found.shape != (length, *shape)
                or found.dtype.kind not in kinds
                or (key == "rgb" and found.itemsize > 1)
            ):
                wanted = {"u": "uint8", "f": "float"}.get(kinds, "numbers")
                expected = f"{wanted} {[length, *shape]}"
                raise ValueError(f"{key}: expected {expected}, found {found.dtype} {list(found.shape)}")
        for key in ("joints", "reward", "success", "done"):
            if not np.isfinite(arrays[key]).all():
                raise ValueError(f"{key}: expected finite numbers, found others at step {_first_bad(arrays[key])}")
        if arrays["done"][:-1].any():
            raise ValueError(f"done: expected the end of the episode last, found it at step {arrays['done'].argmax()}")
        pictures = arrays["rgb"].transpose(0, 3, 1, 2)
        observation = {name: pictures[:, 3 * i : 3 * i + 3] for i, name in enumerate(CAMERAS)}
        if "joints" in self.spec.observation:
            observation["joints"] = arrays["joints"].astype(np.float32)
        action, reward = arrays["action"].astype(np.float32), arrays["reward"].astype(np.float32)
        return Trajectory(observation, action, reward, False, True, np.ones(len(reward), np.bool_))


def _first_bad(values: np.ndarray) -> int:
    bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    return int(bad.argmax())
