"""Gymnasium environments whose episode is a function of its seed alone."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import gymnasium

from envs.vector import Observation


class Seeded(gymnasium.Env[Any, Any]):
    """An environment that says how the episode of a seed begins; without a seed the next one is drawn."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """The first observation of the episode of this seed."""
        super().reset(seed=seed)
        return self.begin(int(self.np_random.integers(2**31)) if seed is None else seed), {}

    @abstractmethod
    def begin(self, seed: int) -> Observation:
        """The first observation of the episode of this seed."""
