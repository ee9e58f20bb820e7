"""bfloat16 autocast: forward, backward and acting run with every feed-forward, finite and close to float32."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from elmur import moe
from elmur.feedforward import MLP, SwiGLU
from elmur.memory import LRU
from elmur.model import ELMUR, Banks, MemoryDesign
from elmur.moe import MixtureOfExperts
from elmur.positional import Alibi, Learnable, Position, Relative, Rope, Sinusoidal, Yarn
from elmur.published.quirks import PublishedRelative
from elmur.residual import PostNorm, PreNorm, Residual
from tests.elmur.samples import SPEC, make_batch, noise, step_by_step

# Every routed expert is picked: which are picked is a jump, so that rounding could change the outcome as a whole.
experts = partial(MixtureOfExperts, num_experts=2, top_k=3, n_shared_experts=1, routed_d_ff=8, shared_d_ff=16)
FEW = partial(MixtureOfExperts, num_experts=8, top_k=3, n_shared_experts=1, routed_d_ff=8, shared_d_ff=16)
FEEDFORWARDS: list[Callable[..., torch.nn.Module]] = [MLP, SwiGLU, experts]
POSITIONS: list[Callable[..., Position]] = [
    Relative, PublishedRelative, Rope, Yarn, Alibi, Sinusoidal, Learnable
]  # fmt: skip


def make(**changes: object) -> ELMUR:
    torch.manual_seed(0)
    memory = MemoryDesign(memory_size=3, memory_init_std=1.0, write=LRU(0.7))
    return ELMUR(SPEC, d_model=32, dropout=0.0, dropatt=0.0, memory=memory, **changes)  # type: ignore[arg-type]


def learn(model: ELMUR, low: bool) -> tuple[list[torch.Tensor], Banks, dict[str, torch.Tensor]]:
    """Predictions, memory and gradients of three segments in one graph."""
    memory, total, predictions = model.initial_memory(2, noise()), torch.zeros(()), []
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        for k in range(3):
            batch = make_batch(2, 4, 4 * k, seed=k, dtype=torch.float32)
            output, memory = model(batch, memory)
            predictions.append(output.prediction)
            total = total + model.head.loss(output.prediction, batch.action, batch.loss_mask, 0.1)
            if output.balance_loss is not None:
                total = total + output.balance_loss
    total.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return predictions, memory, gradients


def apart(low: torch.Tensor, full: torch.Tensor) -> float:
    """Relative, by norm."""
    assert low.isfinite().all()
    return float((low.detach().float() - full.detach()).norm() / full.detach().norm())


@pytest.mark.parametrize("feedforward", FEEDFORWARDS, ids=["mlp", "swiglu", "experts"])
@pytest.mark.parametrize("residual", [PreNorm, PostNorm])
def test_learning(feedforward: Callable[..., torch.nn.Module], residual: type[Residual]) -> None:
    model = make(feedforward=feedforward, residual=residual)
    predictions, memory, gradients = learn(model, low=True)
    expected, expected_memory, expected_gradients = learn(model, low=False)
    assert max(apart(low, full) for low, full in zip(predictions, expected, strict=True)) < 0.05
    for low, full in zip(memory, expected_memory, strict=True):
        assert low.slots.dtype == torch.float32 and apart(low.slots, full.slots) < 0.05
        assert torch.equal(low.written_at, full.written_at)
    assert gradients.keys() == expected_gradients.keys()
    both = [torch.cat([g[name].flatten() for name in expected_gradients]) for g in (gradients, expected_gradients)]
    assert apart(*both) < 0.2


@pytest.mark.parametrize("least", [-(2**40), 2**40], ids=["sorted", "dense"])
def test_picking_few_of_many_experts(least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moe, "SORTING_SAVES", least)
    predictions, memory, gradients = learn(make(feedforward=FEW), low=True)
    assert all(found.isfinite().all() for found in (*predictions, memory[0].slots, *gradients.values()))
    assert gradients["layers.0.feedforward.router.weight"].abs().max() > 0


@pytest.mark.parametrize("position", POSITIONS)
@torch.no_grad()
def test_acting(position: Callable[..., Position]) -> None:
    model = make(position=position, feedforward=experts, token_format="sra").eval()
    memory, batch = model.initial_memory(2, noise()), make_batch(2, 4, dtype=torch.float32)
    expected = model(batch, memory)[0].prediction
    with torch.autocast("cpu", torch.bfloat16):
        assert apart(model(batch, memory)[0].prediction, expected) < 0.05
        prediction, after = step_by_step(model, batch, memory)
    assert apart(prediction, expected) < 0.05
    assert after[0].slots.isfinite().all()
