"""Learning rates as functions of progress against traces by hand, and which parameters decay."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from elmur.optim import Constant, WarmupCosine, adamw
from elmur.published.quirks import PublishedTokenCosine, adamw_on_all
from tests.elmur.samples import make_model


def test_constant() -> None:
    assert [Constant()(updates, 10 * updates) for updates in (0, 1, 10**6)] == [1.0, 1.0, 1.0]


def test_warmup_then_half_a_cosine_then_the_floor() -> None:
    schedule = WarmupCosine(total_updates=12, warmup=1 / 3, floor=0.2)
    # Rising by quarters; a cosine over 8 updates from 1 to 0.2, half way (0.6) at its fourth; then flat.
    found = [schedule(updates, 0) for updates in (0, 1, 2, 3, 4, 8, 12, 13, 1000)]
    assert found == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 0.6, 0.2, 0.2, 0.2])
    quarter = 0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2
    assert schedule(6, 0) == pytest.approx(quarter)
    assert schedule(5, 0) == schedule(5, 10**9), "driven by updates, not by steps"


def test_warmup_may_be_nothing_or_everything() -> None:
    assert WarmupCosine(2, 0.0)(0, 0) == 1.0 and WarmupCosine(2, 0.0)(2, 0) == pytest.approx(0.0)
    assert [WarmupCosine(2, 1.0, 0.1)(n, 0) for n in (0, 1, 2)] == pytest.approx([0.5, 1.0, 1.0])


@pytest.mark.parametrize(("warmup", "total"), [(1.5, 4), (-0.1, 4), (0.1, 0)])
def test_a_warmup_that_is_no_share_of_the_run_is_refused(warmup: float, total: int) -> None:
    with pytest.raises(ValueError, match=f"found warmup={warmup}, total_updates={total}"):
        WarmupCosine(total, warmup)


def test_the_published_rule() -> None:
    schedule = PublishedTokenCosine(warmup_steps=100, final_tokens=300, lr_end_factor=0.1)
    assert schedule(0, 0) == 1.0, "the very first update takes the full rate"
    assert schedule(1, 25) == 0.25 and schedule(2, 99) == 0.99
    assert schedule(3, 100) == 1.0, "at the end of the warm-up"
    assert schedule(4, 200) == pytest.approx(0.5) and schedule(5, 300) == 0.1
    # Not clamped: after twice the span it is at the full rate again.
    assert schedule(6, 500) == pytest.approx(1.0)
    assert schedule(7, 600) == pytest.approx(0.5)


def decay_of(optimizer: torch.optim.AdamW, parameter: torch.Tensor) -> float:
    (found,) = [g["weight_decay"] for g in optimizer.param_groups if any(p is parameter for p in g["params"])]
    return float(found)


def test_only_matrices_decay() -> None:
    model = make_model(token_format="sra")
    optimizer = adamw(model, lr=0.3, betas=(0.5, 0.6), weight_decay=0.7)
    assert all((g["lr"], g["betas"], g["fused"]) == (0.3, (0.5, 0.6), True) for g in optimizer.param_groups)
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    vectors = {id(p) for p in model.parameters() if p.ndim == 1}
    assert tables and vectors
    for parameter in model.parameters():
        decays = id(parameter) not in tables | vectors
        assert decay_of(optimizer, parameter) == (0.7 if decays else 0.0)
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))


def test_everything_decays_where_that_is_asked() -> None:
    model = make_model()
    (group,) = adamw_on_all(model, weight_decay=0.7).param_groups
    assert group["weight_decay"] == 0.7 and len(group["params"]) == len(list(model.parameters()))


def test_frozen_parameters_are_left_out() -> None:
    model = make_model()
    model.head.requires_grad_(False)
    held = [p for g in adamw(model).param_groups for p in g["params"]]
    frozen = list(model.head.parameters())
    assert frozen and not any(p is one for p in held for one in frozen)
