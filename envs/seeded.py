"""Gymnasium environments whose episode is a function of its seed alone."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import gymnasium
from gymnasium import spaces

from elmur.spec import Discrete, TaskSpec
from envs.spaces import space_of
from envs.vector import Observation


class Seeded(gymnasium.Env[Any, Any]):
    """An environment that says how the episode of a seed begins; without a seed the next one is drawn.

    task_spec: what a policy may know of the task; both spaces follow from it.
    """

    def __init__(self, task_spec: TaskSpec) -> None:
        self.task_spec, action = task_spec, task_spec.action
        self.observation_space = spaces.Dict({name: space_of(part) for name, part in task_spec.observation.items()})
        self.action_space = spaces.Discrete(action.sizes[0]) if isinstance(action, Discrete) else space_of(action)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """The first observation of the episode of this seed."""
        super().reset(seed=seed)
        return self.begin(int(self.np_random.integers(2**31)) if seed is None else seed), {}

    @abstractmethod
    def begin(self, seed: int) -> Observation:
        """The first observation of the episode of this seed."""
