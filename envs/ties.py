"""An expert that varies: of the actions that it prefers most it does any one, so that its data cover all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from envs.rollout import PreferringPolicy
from envs.vector import Observation

# Keeps these draws apart from those of an environment with the same seed.
STREAM = 0x71E5


class DrawnTies:
    """Acts as its expert would, but draws among the actions that the expert holds equally good.

    The draws follow from the seed of each episode, so it does not matter which episodes are played together.
    """

    def __init__(self, expert: PreferringPolicy) -> None:
        self.expert = expert
        self._rows: list[np.random.Generator] = []

    def start(self, num_envs: int, seed: int = 0) -> None:
        """Forget everything; `seed` serves where episodes have none of their own."""
        self.expert.start(num_envs, seed)
        self.seed_episodes([seed + row for row in range(num_envs)])

    def seed_episodes(self, seeds: Sequence[int]) -> None:
        """Let the episodes that begin next draw by these seeds, one for each environment."""
        self._rows = [np.random.default_rng([seed, STREAM]) for seed in seeds]

    def act(self, observation: Observation, is_first: np.ndarray) -> np.ndarray:
        """Actions int64 [N]."""
        self.expert.act(observation, is_first)
        held = self.expert.preferences()
        best = held == held.max(axis=1, keepdims=True)
        drawn = np.array([row.random() for row in self._rows])
        number = (drawn * best.sum(axis=1)).astype(np.int64)  # which of the best ones, from 0
        return (best.cumsum(axis=1) > number[:, None]).argmax(axis=1)

    def preferences(self) -> np.ndarray:
        """float32 [N, A], those of the expert."""
        return self.expert.preferences()

    def observe(self, action: np.ndarray, reward: np.ndarray) -> None:
        """The expert takes note."""
        self.expert.observe(action, reward)
