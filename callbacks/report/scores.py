"""Scores of groups of rows: one number for each run, so that seeds can be compared and resampled.

A run's score on a task is its metric, averaged over the variants of the task, which are one policy's and no separate
evidence. Returns are normalised where the task has a reference: 0 is random play, 1 the expert.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from callbacks.evaluation.outcomes import RETURN, Measure
from callbacks.report.gather import Group
from callbacks.report.row import Row
from callbacks.report.show import NUMBERED
from callbacks.report.statistics import (
    Interval,
    Scores,
    above,
    bootstrap_of_seeds,
    interquartile_mean,
    mean,
    percentiles,
    resampled,
    success_interval,
)

RESAMPLES = 2000  # of a comparison: there are many


def measures(rows: Sequence[Row], variant: str, metric: str) -> list[Measure]:
    """The metric of each row that was judged in this variant."""
    return [row.outcomes[variant].metrics[metric] for row in rows if variant in row.outcomes]


def interval(of: Sequence[Measure]) -> Interval | None:
    """The interval of the mean over seeds; of one seed, that of its episodes."""
    if all(measure.is_share for measure in of):
        return success_interval([[bool(value) for value in measure.values] for measure in of])
    return bootstrap_of_seeds({"": [one.mean for one in of]}) if len(of) > 1 else of[0].interval


def by_number(names: Collection[str]) -> list[str]:
    """Names of variants in the order of the numbers that they end in; as they come where one has none."""
    found = {name: NUMBERED.match(name) for name in dict.fromkeys(names)}
    if not all(found.values()):
        return list(found)
    return sorted(found, key=lambda name: int(found[name][1]))  # type: ignore[index]


def variants(rows: Sequence[Row]) -> list[str]:
    """The variants in which any of the rows was judged."""
    return by_number([name for row in rows for name in row.outcomes])


def score(row: Row, chosen: Collection[str] | None = None) -> float:
    """The score of a run on its task, over the chosen variants or all of its own."""
    value = row.score(chosen)
    share = row.normalised(value) if row.metric == RETURN else None
    return value if share is None else share


def scores(group: Group) -> dict[str, list[float]]:
    """task -> the score of each seed."""
    return {task: [score(row) for row in rows] for task, rows in group.by_task().items()}


def common(ours: Group, theirs: Group) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """The scores of two groups on the tasks of both, in the variants of both."""
    found: tuple[dict[str, list[float]], dict[str, list[float]]] = ({}, {})
    of = ours.by_task(), theirs.by_task()
    for task in of[0]:
        if task not in of[1]:
            continue
        both = set(variants(of[0][task])) & set(variants(of[1][task]))
        kept = [[row for row in rows[task] if both & set(row.outcomes)] for rows in of]
        if all(kept):
            for scored, rows in zip(found, kept, strict=True):
                scored[task] = [score(row, both) for row in rows]
    return found


def has_seeds(of: Scores) -> bool:
    """Whether every task has more than one run, without which nothing is known of other seeds."""
    return all(len(values) > 1 for values in of.values())


@dataclass(frozen=True)
class Comparison:
    """Two groups on their tasks: the mean difference, and how probable it is that a run of the first scores above.

    The intervals are over seeds, resampled within each task; None where a task has one run.
    """

    tasks: int
    difference: float
    difference_interval: Interval | None
    probability: float
    probability_interval: Interval | None

    @property
    def says(self) -> str:
        """What the interval of the difference shows."""
        if self.difference_interval is None:
            return "one seed: not known"
        low, high = self.difference_interval
        return "higher" if low > 0 else "lower" if high < 0 else "no difference shown"


def compared(ours: Group, theirs: Group) -> Comparison | None:
    """The comparison of two groups; None where they have no task in common.

    P(X > Y) + P(X = Y) / 2 over all pairs of runs of a task, averaged over tasks (Mann and Whitney's U).
    """
    x, y = common(ours, theirs)
    if not x:
        return None
    rng = np.random.default_rng(0)
    exact: list[tuple[float, float]] = []
    drawn = []
    for task in x:
        a, b = np.asarray(x[task], np.float64), np.asarray(y[task], np.float64)
        wins = above(a, b)
        exact.append((float(a.mean() - b.mean()), float(wins.mean())))
        # How often each run is drawn: means over resampled runs are products with these.
        shares = [rng.multinomial(len(of), [1 / len(of)] * len(of), RESAMPLES) / len(of) for of in (a, b)]
        drawn.append((shares[0] @ a - shares[1] @ b, ((shares[0] @ wins) * shares[1]).sum(axis=1)))
    known = has_seeds(x) and has_seeds(y)
    (difference, probability), (differences, probabilities) = (np.mean(of, axis=0) for of in (exact, drawn))
    return Comparison(
        len(x),
        float(difference),
        percentiles(differences) if known else None,
        float(probability),
        percentiles(probabilities) if known else None,
    )


def over_all(of: Scores) -> dict[str, float | Interval | None]:
    """Mean and interquartile mean over tasks and seeds with their intervals, resampled within each task."""
    known, rng = has_seeds(of), np.random.default_rng(0)
    runs = np.concatenate([np.asarray(values, np.float64) for values in of.values()])[None]
    drawn = np.concatenate([resampled(values, rng, RESAMPLES) for values in of.values()], axis=1)
    return {
        "mean": float(mean(runs)[0]),
        "95 %": percentiles(mean(drawn)) if known else None,
        "interquartile mean": float(interquartile_mean(runs)[0]),
        "95 % of it": percentiles(interquartile_mean(drawn)) if known else None,
    }
