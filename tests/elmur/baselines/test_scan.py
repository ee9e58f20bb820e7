"""The scan over time against a plain loop, its gradient against finite differences, and very long sequences."""

from __future__ import annotations

import pytest
import torch

from elmur.baselines import scan as scan_module
from elmur.baselines.scan import SHORT, scan


def draw(steps: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Decays of lengths from 0 to 1.3, updates and an initial state, for two lanes of 3 x 2 numbers."""
    g = torch.Generator().manual_seed(steps)
    decay = torch.rand(2, steps, 3, 2, generator=g, dtype=torch.float64) * 1.3
    decay[:, ::5] = 0.0
    turn = torch.randn(decay.shape, generator=g, dtype=torch.float64) if dtype.is_complex else torch.zeros_like(decay)
    update, initial = (torch.randn(shape, generator=g, dtype=dtype) for shape in (decay.shape, (2, *decay.shape[2:])))
    return torch.polar(decay, turn).to(dtype) if dtype.is_complex else decay, update, initial


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("steps", [1, 2, SHORT, SHORT + 1, 100, 121, 130])
def test_it_is_the_loop(steps: int, dtype: torch.dtype) -> None:
    decay, update, state = draw(steps, dtype)
    found = scan(decay, update, state)
    for t in range(steps):
        state = decay[:, t] * state + update[:, t]
        assert (found[:, t] - state).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("short", [2, SHORT])
def test_its_gradient(monkeypatch: pytest.MonkeyPatch, short: int, dtype: torch.dtype) -> None:
    monkeypatch.setattr(scan_module, "SHORT", short)
    assert torch.autograd.gradcheck(scan, [part.requires_grad_() for part in draw(7, dtype)])


def test_a_decay_that_is_no_parameter_costs_no_gradient() -> None:
    decay, update, initial = draw(3)
    scan(decay, update.requires_grad_(), initial).sum().backward()
    assert decay.grad is None and update.grad is not None


@pytest.mark.parametrize("decay", [0.0, 1e-30, 0.5, 0.99999, 1.0])
def test_a_hundred_thousand_steps(decay: float) -> None:
    """The geometric series in closed form, with decays whose products are far below the smallest number."""
    steps = 100_000
    found = scan(torch.full((1, steps, 1), decay), torch.ones(1, steps, 1), torch.ones(1, 1))[0, :, 0].double()
    a, t = torch.tensor(decay).double(), torch.arange(1, steps + 1)
    expected = 1.0 + t if decay == 1.0 else a**t + (1 - a**t) / (1 - a)
    assert ((found - expected).abs() / expected).max() < 1e-3
