"""Figures over seeds and tasks against ones worked out by hand, by enumeration or by scipy's own tests."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from callbacks.report.statistics import (
    Mean,
    above,
    bootstrap,
    bootstrap_of_seeds,
    bootstrap_of_tasks,
    difference_interval,
    interquartile_mean,
    mean,
    performance_profile,
    success_interval,
    wilson,
)


def test_wilson_by_its_formula() -> None:
    won, played, z = 7, 20, 1.959963984540054
    p = won / played
    middle = (p + z**2 / (2 * played)) / (1 + z**2 / played)
    reach = z / (1 + z**2 / played) * np.sqrt(p * (1 - p) / played + z**2 / (4 * played**2))
    assert wilson(won, played) == pytest.approx((middle - reach, middle + reach))


def test_seeds_that_differ_widen_the_interval_of_success() -> None:
    """One seed always wins, one always loses: 100 episodes each say little about the mean over seeds."""
    low, high = success_interval([[True] * 100, [False] * 100])
    assert (low, high) == (0.0, 1.0)
    alike = success_interval([[True] * 50 + [False] * 50] * 2)
    assert alike == pytest.approx(wilson(100, 200))
    assert success_interval([[True] * 3]) == wilson(3, 3)


def test_the_bootstrap_of_a_mean_against_all_resamples() -> None:
    """Two tasks of three seeds have 27 resamples each: the exact percentiles of their mean."""
    scores = {"a": [0.0, 0.3, 1.0], "b": [0.5, 0.6, 0.9]}
    means = [
        (np.mean(one) + np.mean(other)) / 2
        for one in itertools.product(scores["a"], repeat=3)
        for other in itertools.product(scores["b"], repeat=3)
    ]
    found = bootstrap(scores, mean)
    assert found == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.02)


def test_the_bootstrap_of_means_against_their_error() -> None:
    """The mean over 30 tasks of means over 3 to 7 seeds: its error, from the spread within tasks."""
    rng = np.random.default_rng(1)
    scores = {str(task): (0.5 + 0.2 * rng.standard_normal(3 + task % 5)).tolist() for task in range(30)}
    error = np.sqrt(sum(np.var(values) / len(values) for values in scores.values())) / 30
    middle = np.mean([np.mean(values) for values in scores.values()])
    found = bootstrap_of_seeds(scores)
    assert found == pytest.approx((middle - 1.96 * error, middle + 1.96 * error), abs=0.1 * error)


def test_tasks_that_are_drawn_too_widen_the_interval() -> None:
    scores = {"easy": [1.0] * 3, "hard": [0.0] * 3}
    assert bootstrap(scores, mean) == (0.5, 0.5)
    assert bootstrap_of_tasks(scores) == (0.0, 1.0)


def test_the_interquartile_mean_is_the_mean_of_the_middle_half() -> None:
    values = np.array([[5.0, -100.0, 1.0, 2.0, 3.0, 4.0, 100.0, 6.0]])
    assert interquartile_mean(values)[0] == np.mean([2.0, 3.0, 4.0, 5.0])


def test_seeds_that_score_the_same_leave_the_interval_of_their_episodes() -> None:
    """Newcombe 1998, table II, method 10: 56 of 70 less 48 of 80 is 0.0524 to 0.3339; here by two equal seeds each."""
    ours, theirs = Mean([28 / 35, 28 / 35], wilson(56, 70)), Mean([24 / 40, 24 / 40], wilson(48, 80))
    assert difference_interval([ours], [theirs]) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert difference_interval([theirs], [ours]) == pytest.approx((-0.3339, -0.0524), abs=5e-5)
    assert difference_interval([Mean([1.0, 1.0], (1.0, 1.0))], [Mean([0.0, 0.0], (0.0, 0.0))]) is None


def test_the_difference_of_several_tasks_by_a_loop() -> None:
    """Welch's and Satterthwaite's t of the mean over tasks, a linear combination of six means."""
    ours = [[0.1, 0.4, 0.2], [0.9, 0.8], [0.5, 0.7, 0.6, 0.9]]
    theirs = [[0.3, 0.2], [0.5, 0.9, 0.1], [0.6, 0.1]]
    found = difference_interval(*([Mean(seeds, (0.0, 0.0)) for seeds in side] for side in (ours, theirs)))
    terms = [np.var(seeds, ddof=1) / len(seeds) / 9 for side in (ours, theirs) for seeds in side]
    freedom = sum(terms) ** 2 / sum(
        term**2 / (len(seeds) - 1) for term, seeds in zip(terms, [*ours, *theirs], strict=True)
    )
    middle = np.mean([np.mean(a) - np.mean(b) for a, b in zip(ours, theirs, strict=True)])
    assert found == pytest.approx(stats.t(freedom, middle, sum(terms) ** 0.5).interval(0.95))


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("spread", [0.0, 0.05])
def test_a_difference_is_seldom_shown_where_there_is_none(seeds: int, spread: float) -> None:
    """Two of the same kind, seeds of 100 episodes: 5 % at most; the bootstrap over seeds said 33 % and 19 %."""
    rng, wrong, tries = np.random.default_rng(seeds), 0, 300

    def side() -> Mean:
        won = rng.binomial(100, np.clip(rng.normal(0.9, spread, seeds), 0, 1))
        return Mean((won / 100).tolist(), wilson(int(won.sum()), 100 * seeds))

    for _ in range(tries):
        found = difference_interval([side()], [side()])
        assert found is not None
        wrong += found[0] > 0 or found[1] < 0
    assert wrong / tries < 0.05 + 2 * (0.05 * 0.95 / tries) ** 0.5


def test_variants_are_no_more_episodes() -> None:
    """Five of ten in each of three variants are 5 of 10, whose interval is Wilson's."""
    assert success_interval([([True] * 5 + [False] * 5) * 3], variants=3) == wilson(5, 10)


def test_improvement_is_mann_whitneys_u() -> None:
    rng = np.random.default_rng(0)
    for _ in range(3):
        ours, theirs = rng.normal(0.5, 1, 5).round(1).tolist(), rng.normal(0.0, 1, 4).round(1).tolist()
        assert above(ours, theirs).sum() == pytest.approx(stats.mannwhitneyu(ours, theirs).statistic)
        assert (above(ours, theirs) + above(theirs, ours).T == 1).all(), "ties count half for each"


def test_a_profile_counts_runs_above_each_threshold() -> None:
    scores = {"a": [0.1, 0.9], "b": [0.5, 0.5, 0.5, 1.0]}
    assert performance_profile(scores, [0.0, 0.5, 0.95]).tolist() == [1.0, (1 / 2 + 1 / 4) / 2, (0 + 1 / 4) / 2]
