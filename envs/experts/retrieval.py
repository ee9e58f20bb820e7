"""The scripted policy of associative retrieval: note each key's value, and answer with it."""

from __future__ import annotations

import numpy as np

from envs.retrieval import ASKED, KEY, PART, VALUE
from envs.vector import Observation


class RetrievalExpert:
    """Always right, from the observation history alone."""

    def __init__(self) -> None:
        self.start(1)

    def start(self, num_envs: int, seed: int = 0) -> None:
        """Forget all pairs. Nothing is drawn, so the seed has no effect."""
        self._notes: list[dict[int, int]] = [{} for _ in range(num_envs)]

    def act(self, observation: Observation, is_first: np.ndarray) -> np.ndarray:
        """Actions int64 [N]: the value of the key that is asked for, 0 where nothing is asked."""
        answers = np.zeros(len(is_first), np.int64)
        for i, shown in enumerate(observation[PART].tolist()):
            if is_first[i]:
                self._notes[i] = {}
            if shown[ASKED]:
                answers[i] = self._notes[i].get(shown[KEY], 0)
            elif shown[KEY]:
                self._notes[i][shown[KEY]] = shown[VALUE] - 1
        return answers

    def observe(self, action: np.ndarray, reward: np.ndarray) -> None:
        """Nothing to note: what matters is in the observations."""
