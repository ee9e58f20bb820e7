"""Dropout: how much is dropped, by how much the rest is scaled, and that the seed decides which."""

from __future__ import annotations

import pytest
import torch

from elmur.dropout import Dropout

X = torch.linspace(1, 2, 40_003).view(1, -1)  # no multiple of four


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_share_of_p_is_dropped_and_the_rest_scaled(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    out = Dropout(p)(X.to(dtype))
    assert out.shape == X.shape and out.dtype == dtype
    assert (out == 0).double().mean().item() == pytest.approx(p, abs=4 * (p * (1 - p) / X.numel()) ** 0.5)
    ratio = (out / X)[out != 0]
    assert ratio.min().item() == pytest.approx(1 / (1 - p), rel=2e-4)
    assert ratio.max().item() == pytest.approx(ratio.min().item(), rel=1e-6), "every kept number by the same factor"


def test_places_are_dropped_independently() -> None:
    """Neighbours come from one drawn number: all 16 patterns of four are as frequent as they should be."""
    torch.manual_seed(0)
    kept = (Dropout(0.5)(torch.ones(64_000)) != 0).long().view(-1, 4)
    counts = torch.bincount(kept @ torch.tensor([8, 4, 2, 1]), minlength=16)
    assert (counts - 1000).abs().max() < 5 * 1000**0.5


def test_the_global_seed_decides() -> None:
    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        out: torch.Tensor = Dropout(0.3)(X)
        return out

    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))


def test_the_gradient_goes_where_numbers_were_kept() -> None:
    x = torch.ones(1000, requires_grad=True)
    out = Dropout(0.25)(x)
    out.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, out.detach())


@pytest.mark.parametrize(("p", "training"), [(0.5, False), (0.0, True)])
def test_nothing_is_dropped(p: float, training: bool) -> None:
    assert torch.equal(Dropout(p).train(training)(X), X)


def test_everything_is_dropped() -> None:
    assert not Dropout(1.0)(X).any()
