"""Expert at MultiarmedBandit: posterior mean plus a bonus that shrinks as the episode runs out."""

from __future__ import annotations

import numpy as np

from envs.experts.history import HistoryPolicy, shares
from envs.vector import Observation

ARMS = {"Easy": 10, "Medium": 20, "Hard": 30}
PULLS = {"Easy": 200, "Medium": 400, "Hard": 600}
# Found by simulation; Thompson sampling, for comparison, scores 0.08 to 0.1 less.
SPREAD, PATIENCE = 0.6, 0.5


class Bandit(HistoryPolicy):
    """The arm with the highest index, the lowest arm among equals.

    An arm pays with a probability that is uniform a priori; after w successes in n pulls it is Beta(1 + w, 1 + n - w),
    with mean m and variance v. Its index is `m + sqrt(v * SPREAD * log(1 + pulls left / (arms * PATIENCE * (n + 1))))`.
    """

    def __init__(self, level: str) -> None:
        self._arms, self._pulls = ARMS[level], PULLS[level]
        super().__init__(level)

    def start(self, num_envs: int, seed: int = 0) -> None:
        """Forget everything."""
        self._won = np.zeros((num_envs, self._arms))
        self._pulled = np.zeros((num_envs, self._arms))
        self._index = np.zeros((num_envs, self._arms))

    def act(self, observation: Observation, is_first: np.ndarray) -> np.ndarray:
        """The arm to pull."""
        self._won[is_first] = 0.0
        self._pulled[is_first] = 0.0
        rows = np.flatnonzero(~is_first)
        arm = observation["previous_action"][rows, 0] - 1
        self._won[rows, arm] += observation["observation"][rows, 0]
        self._pulled[rows, arm] += 1.0
        trials = self._pulled + 2.0
        mean = (self._won + 1.0) / trials
        variance = mean * (1.0 - mean) / (trials + 1.0)
        left = np.maximum(self._pulls - self._pulled.sum(axis=1, keepdims=True), 0.0)
        patience = self._arms * PATIENCE * (self._pulled + 1.0)
        self._index = mean + np.sqrt(SPREAD * variance * np.log1p(left / patience))
        return self._index.argmax(axis=1)

    def preferences(self) -> np.ndarray:
        """float32 [N, arms], see envs.rollout.PreferringPolicy: an arm is worth its index."""
        return shares(self._index)
