"""Scores of groups of rows: one number for each run, so that seeds can be compared and resampled.

A run's score on a task is its metric, averaged over the variants of the task, which are one policy's and no separate
evidence. Returns are normalised where the task has a reference: 0 is random play, 1 the expert.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from callbacks.evaluation.outcomes import RETURN, Measure
from callbacks.report.gather import Group
from callbacks.report.row import Row, normalised
from callbacks.report.show import NUMBERED
from callbacks.report.statistics import (
    CONFIDENCE,
    Interval,
    Mean,
    Scores,
    above,
    bootstrap_of_seeds,
    difference_interval,
    interquartile_mean,
    percentiles,
    resampled,
    success_interval,
    wilson,
)
from envs.vector import SUCCESS

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


def score(group: Group, row: Row, chosen: Collection[str] | None = None) -> float:
    """The score of a run of a group on its task, over the chosen variants or all of its own.

    All runs of a task are on one scale: that of the group's references, or as they were measured.
    """
    value, reference = row.score(chosen), group.references.get(row.task)
    return value if row.metric != RETURN or reference is None else normalised(value, reference)


def scores(group: Group) -> dict[str, list[float]]:
    """task -> the score of each seed."""
    return {task: [score(group, row) for row in rows] for task, rows in group.by_task().items()}


def common(ours: Group, theirs: Group) -> tuple[dict[str, Mean], dict[str, Mean]]:
    """The means of two groups on the tasks of both, in the variants of both."""
    found: tuple[dict[str, Mean], dict[str, Mean]] = ({}, {})
    of = ours.by_task(), theirs.by_task()
    for task in of[0]:
        if task not in of[1]:
            continue
        both = set(variants(of[0][task])) & set(variants(of[1][task]))
        kept = [[row for row in rows[task] if both & set(row.outcomes)] for rows in of]
        if all(kept):
            for means, group, rows in zip(found, (ours, theirs), kept, strict=True):
                means[task] = Mean([score(group, row, both) for row in rows], by_episodes(group, rows, both))
    return found


def by_episodes(group: Group, rows: Sequence[Row], chosen: Collection[str]) -> Interval:
    """The interval of the mean score of rows of one task, as far as their episodes tell it.

    The variants of a row are no separate evidence: together they count as one.
    """
    of = [[outcome.metrics[group.metric] for name, outcome in row.outcomes.items() if name in chosen] for row in rows]
    middle = float(np.mean([score(group, row, chosen) for row in rows]))
    if all(measure.is_share for measures in of for measure in measures):
        played = round(sum(float(np.mean([len(measure.values) for measure in measures])) for measures in of))
        return wilson(round(middle * played), played)
    errors = [float(np.mean([measure.error for measure in measures])) for measures in of]
    reach = float(np.linalg.norm(errors)) / len(errors) * float(norm.ppf((1 + CONFIDENCE) / 2))
    if group.metric == RETURN and (reference := group.references.get(rows[0].task)) is not None:
        reach /= abs(reference["expert"] - reference["random"])
    return middle - reach, middle + reach


def has_seeds(of: Scores) -> bool:
    """Whether every task has more than one run, without which nothing is known of other seeds."""
    return all(len(values) > 1 for values in of.values())


@dataclass(frozen=True)
class Comparison:
    """Two groups on their tasks: the mean difference, and how probable it is that a run of the first scores above.

    The interval of the difference is Welch's, that of the probability a bootstrap of the seeds within each task; None
    where a task has one run, or nothing that varies.
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
            return "not known"
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
        a, b = (np.asarray(of[task].seeds, np.float64) for of in (x, y))
        wins = above(a, b)
        exact.append((float(a.mean() - b.mean()), float(wins.mean())))
        # How often each run is drawn: means over resampled runs are products with these.
        shares = [rng.multinomial(len(of), [1 / len(of)] * len(of), RESAMPLES) / len(of) for of in (a, b)]
        drawn.append(((shares[0] @ wins) * shares[1]).sum(axis=1))
    known = all(len(mean.seeds) > 1 for mean in (*x.values(), *y.values()))
    reach = difference_interval([*x.values()], [*y.values()]) if known else None
    if reach is not None and ours.metric == SUCCESS:
        reach = max(reach[0], -1.0), min(reach[1], 1.0)
    difference, probability = np.mean(exact, axis=0)
    return Comparison(
        len(x),
        float(difference),
        reach,
        float(probability),
        percentiles(np.mean(drawn, axis=0)) if known else None,
    )


def over_all(of: Scores) -> dict[str, float | Interval | None]:
    """Mean over tasks of their means over seeds, and the interquartile mean of all runs, with their intervals.

    Every task weighs the same, so there is no interquartile mean where tasks have other numbers of seeds.
    """
    known, rng = has_seeds(of), np.random.default_rng(0)
    drawn = [resampled(values, rng, RESAMPLES) for values in of.values()]
    found: dict[str, float | Interval | None] = {
        "mean": float(np.mean([np.mean(values) for values in of.values()])),
        "95 %": percentiles(np.mean([means.mean(axis=1) for means in drawn], axis=0)) if known else None,
        "interquartile mean": None,
        "95 % of it": None,
    }
    if len({len(values) for values in of.values()}) == 1:
        found["interquartile mean"] = float(interquartile_mean(np.concatenate([*of.values()])[None])[0])
        found["95 % of it"] = percentiles(interquartile_mean(np.concatenate(drawn, axis=1))) if known else None
    return found
