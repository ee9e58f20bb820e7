"""A share with its interval, as every table of this room has it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from callbacks.report.statistics import Interval, percentiles, resampled, wilson


@dataclass(frozen=True)
class Share:
    """A share of 0 to 1 and its interval of 95 %; none where nothing was counted, whose value is nan."""

    value: float
    interval: Interval | None = None

    @classmethod
    def of(cls, won: int, played: int) -> Share:
        """Of episodes that went one way or the other: Wilson's interval."""
        return cls(won / played, wilson(won, played))

    @classmethod
    def mean(cls, shares: Sequence[float]) -> Share:
        """The mean of one share for each episode: the bootstrap over episodes."""
        if not len(shares):
            return cls(math.nan)
        drawn = resampled(list(shares), np.random.default_rng(0)).mean(axis=1)
        return cls(float(np.mean(shares)), percentiles(drawn))

    def __str__(self) -> str:
        if self.interval is None:
            return "–"
        low, high = self.interval
        return f"{self.value:.2f} ({low:.2f} to {high:.2f})"
