"""Recorded episodes as environments that show them again, whatever is done: a policy can be watched, not judged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.columns import Array
from data.index import build_index
from elmur.spec import TaskSpec
from envs.vector import TimeStep, check_active, check_seeds


class Replay:
    """N rows of the episodes in a folder of shards: the seed, modulo their number, says which; all ends with it.

    Rewards are those that were recorded, and earned by other actions.
    """

    metrics: Sequence[str] = ()

    def __init__(self, num_envs: int, root: Path | str) -> None:
        self.num_envs, self._index = num_envs, build_index(root, verify=False)
        self._rows: list[dict[str, Array]] = [{} for _ in range(num_envs)]
        self._at = np.zeros(num_envs, np.int64)

    @property
    def spec(self) -> TaskSpec:
        """The task of the shards."""
        return self._index.spec

    def reset(self, seeds: Sequence[int | None]) -> dict[str, Array]:
        """The first observations of the episodes of these seeds; None keeps a row as it is."""
        for row, seed in enumerate(check_seeds(seeds, self.num_envs)):
            if seed is not None:
                self._rows[row], self._at[row] = self._index.episode(seed % len(self._index)), 0
            elif not self._rows[row]:
                self._rows[row] = self._index.episode(0)
        return self._shown()

    def step(self, action: Any, active: Array) -> TimeStep:
        """The next observations where `active`; after the last one the episode is over, and shows it still."""
        check_active(active, self.num_envs)
        ends = np.array([len(row["reward"]) for row in self._rows]) - 1
        reward = (
            np.array([row["reward"][at] for row, at in zip(self._rows, self._at, strict=True)], np.float32) * active
        )
        over = active & (self._at >= ends)
        terminal = np.array([bool(row["terminated"][0]) for row in self._rows])
        self._at = np.minimum(self._at + active, ends)
        return TimeStep(self._shown(), reward, over & terminal, over & ~terminal, np.ones(self.num_envs, np.bool_), {})

    def close(self) -> None:
        """Nothing is held open."""

    def _shown(self) -> dict[str, Array]:
        return {
            part: np.stack([row[f"observation/{part}"][at] for row, at in zip(self._rows, self._at, strict=True)])
            for part in self._index.spec.observation
        }
