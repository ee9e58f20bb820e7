"""How tokens and writes are dated: hand-written dates, and step by step."""

from __future__ import annotations

import pytest
import torch

from elmur.clock import Chronological, StepRule
from elmur.published.quirks import DatedByStart, Mirrored

START = torch.tensor([0, 20])


@pytest.mark.parametrize(
    ("rule", "per_step", "tokens", "write"),
    [
        (Chronological(), 1, [[0, 1, 2], [20, 21, 22]], [2, 22]),
        (Chronological(), 2, [[0, 0, 1, 1, 2, 2], [20, 20, 21, 21, 22, 22]], [2, 22]),
        (Mirrored(), 1, [[2, 1, 0], [22, 21, 20]], [2, 22]),
        (Mirrored(), 2, [[5, 4, 3, 2, 1, 0], [45, 44, 43, 42, 41, 40]], [5, 45]),
        (DatedByStart(), 1, [[0, 1, 2], [20, 21, 22]], [0, 20]),
        (DatedByStart(), 2, [[0, 1, 2, 3, 4, 5], [40, 41, 42, 43, 44, 45]], [0, 40]),
    ],
)
def test_dates_of_three_steps(rule: StepRule, per_step: int, tokens: list[list[int]], write: list[int]) -> None:
    assert rule.token_steps(START, 3, per_step).tolist() == tokens
    assert rule.write_step(START, 3, per_step).tolist() == write
    assert rule.token_steps(START, 3, per_step).dtype == torch.int64


@pytest.mark.parametrize("per_step", [1, 2, 3])
def test_chronological_tells_how_much_time_went_by(per_step: int) -> None:
    """A token of environment step t is t - s away from a segment whose last step was s, wherever segments are cut."""
    rule, written = Chronological(), Chronological().write_step(torch.tensor([0]), 5, per_step).item()
    for start, num_steps in ((5, 5), (5, 2), (7, 3), (995, 5)):
        steps = rule.token_steps(torch.tensor([start]), num_steps, per_step)[0].tolist()
        for token, step in enumerate(steps):
            assert step - written == (start + token // per_step) - 4


@pytest.mark.parametrize("per_step", [1, 2, 3])
def test_the_published_dates(per_step: int) -> None:
    """K = 5: a write is dated 5 f - 1 (4, 9, 14), the newest date of its tokens; with rotary positions 0."""
    assert Mirrored().write_step(torch.tensor([0]), 5, per_step).item() == 5 * per_step - 1
    assert Mirrored().token_steps(torch.tensor([0]), 5, per_step)[0, 0].item() == 5 * per_step - 1
    assert DatedByStart().write_step(torch.tensor([5]), 5, per_step).item() == 5 * per_step
