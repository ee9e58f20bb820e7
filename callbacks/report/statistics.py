"""Figures over seeds and tasks with their intervals, as the field reports them.

Scores are arrays by task, one number per seed: `{"tmaze": [1.0, 0.9, 1.0], ...}`. Intervals are at 95 %. Aggregates
follow Agarwal et al. 2021 (Deep RL at the Edge of the Statistical Precipice): seeds are resampled within each task.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 10_000

Array = NDArray[np.float64]
Scores = Mapping[str, Sequence[float]]
Interval = tuple[float, float]


def wilson(won: int, played: int) -> Interval:
    """Wilson's interval of a share of episodes. Raises ValueError for no episodes."""
    interval = stats.binomtest(won, played).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def success_interval(successes: Sequence[Sequence[bool]], variants: int = 1) -> Interval:
    """The interval of the mean success over seeds, from each seed's episodes.

    Wilson's of all episodes together tells nothing of how seeds differ, and a bootstrap over seeds nothing where all
    are alike; this reaches as far as either. With one seed it is Wilson's. variants: in how many each episode was
    played, by the same policy from the same seed, which counts as one episode.
    """
    won, played = sum(sum(one) for one in successes), sum(len(one) for one in successes)
    low, high = wilson(round(won / variants), round(played / variants))
    if len(successes) == 1:
        return low, high
    over_seeds = bootstrap({"": [float(np.mean(one)) for one in successes]}, mean)
    return min(low, over_seeds[0]), max(high, over_seeds[1])


def mean_and_error(values: Sequence[float], otherwise: float) -> tuple[float, float]:
    """Mean over seeds and its standard error; of a single one `otherwise`, the error of its own episodes."""
    return float(np.mean(values)), float(stats.sem(values)) if len(values) > 1 else otherwise


def mean(scores: Array) -> Array:
    """Mean over tasks and seeds: `[resamples, tasks x seeds] -> [resamples]`."""
    return scores.mean(axis=-1)


def interquartile_mean(scores: Array) -> Array:
    """Mean of the middle half of all runs, which neither one lucky task nor one hopeless task moves."""
    return stats.trim_mean(scores, 0.25, axis=-1)


def bootstrap(scores: Scores, statistic: Callable[[Array], Array]) -> Interval:
    """The interval of a statistic over all runs: percentiles over resamples of the seeds within each task."""
    rng = np.random.default_rng(0)
    drawn = [resampled(values, rng) for values in scores.values()]
    return percentiles(statistic(np.concatenate(drawn, axis=1)))


def bootstrap_of_seeds(scores: Scores) -> Interval:
    """The interval of the mean over tasks of their means over seeds, however many seeds each has."""
    return percentiles(_means(scores, np.random.default_rng(0)).mean(axis=0))


def bootstrap_of_tasks(scores: Scores) -> Interval:
    """The same where tasks are drawn too: for what would be said of others of their kind."""
    rng = np.random.default_rng(0)
    means = _means(scores, rng)
    task = rng.integers(len(means), size=means.shape)
    resample = rng.integers(RESAMPLES, size=means.shape)  # a task that is drawn twice brings two resamples of its seeds
    return percentiles(means[task, resample].mean(axis=0))


def _means(scores: Scores, rng: np.random.Generator) -> Array:
    """`[tasks, RESAMPLES]`: means over resampled seeds."""
    return np.stack([resampled(values, rng).mean(axis=1) for values in scores.values()])


def resampled(values: Sequence[float], rng: np.random.Generator, number: int = RESAMPLES) -> Array:
    """`[number, seeds]`: the seeds of one task, drawn with replacement."""
    array = np.asarray(values, np.float64)
    return array[rng.integers(len(array), size=(number, len(array)))]


def percentiles(values: Array) -> Interval:
    """The interval that holds the middle 95 %."""
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Mean:
    """The mean of one group on one task: the score of each seed, and its interval if episodes alone differed."""

    seeds: Sequence[float]
    of_episodes: Interval


def difference_interval(ours: Sequence[Mean], theirs: Sequence[Mean]) -> Interval | None:
    """The interval of the mean difference over tasks, on each of which both have two seeds or more.

    Welch's t: variances of all means summed, degrees of freedom by Welch and Satterthwaite. Two or three seeds that
    score the same are no proof that others would: the interval of their episodes stands in for them, joined as by
    Newcombe (1998, method 10). None where episodes do not differ either.
    """
    variances: list[tuple[float, int]] = []  # of a mean, and its degrees of freedom
    below = above = middle = 0.0
    for sign, side in ((1, ours), (-1, theirs)):
        for one in side:
            mean_of, (low, high) = float(np.mean(one.seeds)), one.of_episodes
            middle += sign * mean_of
            if np.ptp(one.seeds) > 1e-9 * abs(mean_of):
                variances.append((float(np.var(one.seeds, ddof=1)) / len(one.seeds), len(one.seeds) - 1))
            else:
                reaches = max(mean_of - low, 0.0) ** 2, max(high - mean_of, 0.0) ** 2
                below, above = below + reaches[sign < 0], above + reaches[sign > 0]
    if variances:
        total = sum(variance for variance, _ in variances)
        freedom = total**2 / sum(variance**2 / of for variance, of in variances)
        squared = total * float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) ** 2
        below, above = below + squared, above + squared
    if not below + above:
        return None
    return (middle - math.sqrt(below)) / len(ours), (middle + math.sqrt(above)) / len(ours)


def above(ours: Sequence[float] | Array, theirs: Sequence[float] | Array) -> Array:
    """`[a, b]`: 1 where a run of ours scores above one of theirs, 1/2 where they are equal.

    The sum is Mann and Whitney's U, and the mean P(X > Y) + P(X = Y) / 2.
    """
    x, y = np.asarray(ours)[:, None], np.asarray(theirs)[None]
    return (x > y) + 0.5 * (x == y)


def performance_profile(scores: Scores, thresholds: Sequence[float]) -> Array:
    """The share of runs that score above each threshold, every task weighing the same: `[thresholds]`."""
    tau = np.asarray(thresholds)[:, None]
    return np.mean([(np.asarray(values)[None] > tau).mean(axis=1) for values in scores.values()], axis=0)


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
        return cls(float(np.mean(shares)), bootstrap_of_seeds({"": shares}))

    def __str__(self) -> str:
        if self.interval is None:
            return "–"
        low, high = self.interval
        return f"{self.value:.2f} ({low:.2f} to {high:.2f})"
