"""Figures over seeds and tasks against ones worked out by hand, by enumeration or by scipy's own tests."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from callbacks.report.statistics import (
    above,
    bootstrap,
    bootstrap_of_seeds,
    bootstrap_of_tasks,
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


def test_improvement_is_mann_whitneys_u() -> None:
    rng = np.random.default_rng(0)
    for _ in range(3):
        ours, theirs = rng.normal(0.5, 1, 5).round(1).tolist(), rng.normal(0.0, 1, 4).round(1).tolist()
        assert above(ours, theirs).sum() == pytest.approx(stats.mannwhitneyu(ours, theirs).statistic)
        assert (above(ours, theirs) + above(theirs, ours).T == 1).all(), "ties count half for each"


def test_a_profile_counts_runs_above_each_threshold() -> None:
    scores = {"a": [0.1, 0.9], "b": [0.5, 0.5, 0.5, 1.0]}
    assert performance_profile(scores, [0.0, 0.5, 0.95]).tolist() == [1.0, (1 / 2 + 1 / 4) / 2, (0 + 1 / 4) / 2]
