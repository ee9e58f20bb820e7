"""Mean and deviation of vectors, gathered shard by shard and combined exactly."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
SMALLEST = 1e-6  # a component that deviates less is constant, and scaling it up would only amplify rounding


@dataclass
class Moments:
    """Count, mean and sum of squared deviations of rows, per component (float64)."""

    count: int = 0
    mean: Array = field(default_factory=lambda: np.zeros(1))
    m2: Array = field(default_factory=lambda: np.zeros(1))

    def add(self, rows: Array) -> None:
        """Take in the rows `[n, size]`."""
        rows = rows.astype(np.float64)
        mean = rows.mean(axis=0)
        self.merge(Moments(len(rows), mean, ((rows - mean) ** 2).sum(axis=0)))

    def merge(self, other: Moments) -> None:
        """Take in what another gathered (Chan, Golub and LeVeque 1979: exact, and stable for large means)."""
        count = self.count + other.count
        if count == 0:
            return
        difference = other.mean - self.mean
        self.mean = self.mean + difference * (other.count / count)
        self.m2 = self.m2 + other.m2 + difference**2 * (self.count * other.count / count)
        self.count = count

    def mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and population deviation per component; 1 where a component is constant."""
        std = np.sqrt(self.m2 / max(self.count, 1))
        return tuple(self.mean.tolist()), tuple(np.where(std < SMALLEST, 1.0, std).tolist())

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, from which `from_json` makes the same moments again."""
        return {"count": self.count, "mean": self.mean.tolist(), "m2": self.m2.tolist()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Moments:
        """The moments that `to_json` wrote. Raises KeyError, TypeError or ValueError on anything else."""
        return cls(int(data["count"]), np.asarray(data["mean"], np.float64), np.asarray(data["m2"], np.float64))
