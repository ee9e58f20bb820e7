"""An environment whose steps take as long as they are told to, by a clock of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from elmur.spec import Image, TaskSpec, Vector
from envs.vector import SUCCESS, TimeStep

HORIZON = 12
SPEC = TaskSpec("slow", {"camera": Image(3, 16, 16), "state": Vector(2)}, Vector(2, (-1.0,) * 2, (1.0,) * 2), HORIZON)


class Slow:
    """Episodes of 12 steps, each of which takes `seconds` by `clock`, and a reset `resetting`."""

    metrics = (SUCCESS,)
    clock = 0.0

    def __init__(self, num_envs: int, seconds: float = 0.0, resetting: float = 0.0, spec: TaskSpec = SPEC) -> None:
        self.num_envs, self.spec, self.seconds, self.resetting, self.count = num_envs, spec, seconds, resetting, 0

    def seen(self) -> dict[str, np.ndarray]:
        return {
            name: np.zeros((self.num_envs, *part.shape), np.uint8 if isinstance(part, Image) else np.float32)
            for name, part in self.spec.observation.items()
        }

    def reset(self, seeds: Sequence[int | None]) -> dict[str, np.ndarray]:
        Slow.clock += self.resetting
        self.count = 0
        return self.seen()

    def step(self, action: np.ndarray, active: np.ndarray) -> TimeStep:
        Slow.clock += self.seconds
        self.count += 1
        none, every = np.zeros(self.num_envs, np.bool_), np.ones(self.num_envs, np.bool_)
        over = active & (self.count >= HORIZON)
        return TimeStep(self.seen(), np.zeros(self.num_envs, np.float32), none, over, every, {SUCCESS: over})

    def close(self) -> None: ...
