"""The scripted T-Maze policy: walk right, keep the hint in mind, turn at the junction."""

from __future__ import annotations

import numpy as np

from envs.experts.history import HistoryPolicy
from envs.tmaze import FLAG, HINT, PART, RIGHT, TOWARD_NEGATIVE, TOWARD_POSITIVE
from envs.vector import Observation


class TMazeExpert(HistoryPolicy):
    """Optimal from the observation history alone: L + 1 steps, always the right goal."""

    def start(self, num_envs: int, seed: int = 0) -> None:
        """Forget all hints."""
        self._turn = np.full(num_envs, TOWARD_NEGATIVE)

    def act(self, observation: Observation, is_first: np.ndarray) -> np.ndarray:
        """Actions int64 [N]: right in the corridor, at the junction toward the hint of the first observation."""
        state = observation[PART]
        toward_hint = np.where(state[:, HINT] > 0, TOWARD_POSITIVE, TOWARD_NEGATIVE)
        np.copyto(self._turn, toward_hint, where=is_first)
        return np.where(state[:, FLAG] > 0, self._turn, RIGHT)
