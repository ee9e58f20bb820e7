"""What a model card says of results: each number by the interval that it has."""

from __future__ import annotations

import numpy as np
from scipy.stats import binomtest

from callbacks.evaluation.outcomes import Measure, Outcome
from callbacks.export.card import card, results
from callbacks.report.row import Row
from elmur.testing import CHOOSE

RETURNS = (1.0, 2.0, 6.0)
MEAN = f"3.000 ± {np.std(RETURNS, ddof=1) / np.sqrt(3):.3f}"


def row(metric: str, **measured: Measure) -> Row:
    outcome = Outcome([0, 1, 2], {**measured, "return": Measure.of(RETURNS)}, 5.0, 1.0)
    return Row(task="t", model="gru", seed=0, metric=metric, outcomes={"all": outcome})


def test_a_share_has_wilsons_interval_and_a_return_its_error() -> None:
    low, high = binomtest(2, 3).proportion_ci(0.95, method="wilson")
    assert results(row("success", success=Measure.of([True, False, True]))) == [
        "| variant | episodes | success | return |", "|---|---|---|---|",
        f"| all | 3 | 0.667 ({low:.3f} to {high:.3f}) | {MEAN} |", "",
        "In brackets: 95 % interval of Wilson; behind ±: standard error of the mean.",
    ]  # fmt: skip
    assert "| 0.500 |" in results(row("success", success=Measure(0.5)))[2], "a row of before, which kept the mean alone"


def test_a_return_stands_once_and_nothing_is_called_wilsons() -> None:
    assert results(row("return")) == [
        "| variant | episodes | return |", "|---|---|---|", f"| all | 3 | {MEAN} |", "",
        "Behind ±: standard error of the mean.",
    ]  # fmt: skip


def test_a_policy_that_was_not_judged_says_so() -> None:
    text = card("gru", CHOOSE, {"trained": None}, None, {})
    assert "## Results\n\nnot evaluated\n" in text and "trained" not in text
