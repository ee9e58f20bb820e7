"""What goes on from segment to segment: trained or as published, and a state of another model."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from elmur.baselines.gtrxl import GTrXL
from elmur.baselines.memory_tokens import AsPublished, MemoryTokens, Trained
from elmur.baselines.rate import RATE
from elmur.baselines.rmt import RMT
from elmur.baselines.trxl import TrXL
from elmur.baselines.valve import CrossAttentionValve, PublishedValve, Valve
from elmur.sequence_model import SequenceModel
from elmur.testing import random_steps, stepped
from tests.elmur.samples import SPEC

small: dict[str, Any] = {"d_model": 16, "n_head": 2, "dropout": 0.0, "dropatt": 0.0}


def made(kind: Any, **changes: Any) -> Any:
    torch.manual_seed(0)
    return kind(SPEC, **{**small, **changes}).double().eval()


def reach(model: SequenceModel) -> tuple[bool, set[str]]:
    """Whether the loss of a second segment reaches the first one's observations, and the parameters of its gradient."""
    first, second = (random_steps(SPEC, 2, 3, seed=seed) for seed in (0, 1))
    first.observation["state"].requires_grad_()
    memory = model(first, model.initial_memory(2))[1]
    model(second, memory)[0].prediction.sum().backward()
    named = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    return first.observation["state"].grad is not None, named


def test_trained_tokens_pass_the_gradient_and_published_ones_do_not() -> None:
    through, named = reach(made(RATE, tokens=Trained, mem_len=5))
    assert through and {"memory_tokens.first", "valve.attention.query.weight"} <= named
    through, named = reach(made(RATE, tokens=AsPublished, valve=PublishedValve, mem_len=5))
    assert not through and not any(name.startswith(("valve", "memory_tokens")) for name in named)
    assert reach(made(RMT, tokens=Trained))[0] and not reach(made(RMT, tokens=AsPublished))[0]


@pytest.mark.parametrize("kind", [TrXL, GTrXL])
def test_cached_states_are_read_and_never_trained(kind: Any) -> None:
    model = made(kind, mem_len=12)
    first, other, second = (random_steps(SPEC, 2, 3, seed=seed) for seed in (0, 1, 2))
    after = [model(second, model(batch, model.initial_memory(2))[1])[0].prediction for batch in (first, other)]
    assert (after[0] - after[1]).abs().max() > 1e-3
    assert not reach(model)[0]


def test_trained_tokens_differ_at_the_start_and_published_ones_do_not() -> None:
    trained, published = Trained(16, 3).first, AsPublished(16, 3).first
    assert (trained[0] - trained[1]).abs().max() > 0.1 and (trained[1] - trained[2]).abs().max() > 0.1
    assert torch.equal(published, published[:1].expand(3, -1)) and published[0].std() > 0.3


@torch.no_grad()
@pytest.mark.parametrize(("tokens", "consistent"), [(partial(AsPublished, num_mem_tokens=n), n < 3) for n in (1, 2, 3)])
def test_where_the_published_model_keeps_step_and_window_apart(tokens: Any, consistent: bool) -> None:
    """As its docstring says: with 3 tokens or more, and 2 layers."""
    model: RATE = made(RATE, tokens=tokens, n_layer=2)
    torch.nn.init.normal_(model.memory_tokens.first)  # type: ignore[union-attr]
    segment = random_steps(SPEC, 2, 5)
    prediction, _ = stepped(model, segment, model.initial_memory(2))
    apart = (prediction - model(segment, model.initial_memory(2))[0].prediction).abs().max()
    assert (apart < 1e-10) == consistent
    assert consistent or apart > 1e-5


@torch.no_grad()
def test_published_memory_at_the_end_of_a_window_lacks_the_last_action() -> None:
    model: RATE = made(RATE, tokens=AsPublished)
    segment = random_steps(SPEC, 2, 4)
    other = random_steps(SPEC, 2, 4)
    other.action[:, -1] = (other.action[:, -1] + 1) % 3
    states = [stepped(model, batch, model.initial_memory(2))[1].tokens for batch in (segment, other)]
    assert torch.equal(*states)
    states = [model(batch, model.initial_memory(2))[1].tokens for batch in (segment, other)]
    assert (states[0] - states[1]).abs().max() > 1e-6


@torch.no_grad()
@pytest.mark.parametrize("acting", [False, True], ids=["window", "acting"])
@pytest.mark.parametrize("steps", [1, 4], ids=["shorter than the tokens", "longer"])
@pytest.mark.parametrize("valve", [Valve, CrossAttentionValve])
def test_published_memory_without_write_tokens(valve: type[Valve], steps: int, acting: bool) -> None:
    """As the released class slices its outputs [read | segment]: `[-T - n : -T]`, where a valve is `[-n:]`."""
    tokens = partial(AsPublished, num_mem_tokens=5, at_end=False)
    model: RATE = made(RATE, tokens=tokens, valve=valve, mem_len=7)
    torch.nn.init.normal_(model.memory_tokens.first)  # type: ignore[union-attr]
    first, seen = model.initial_memory(2), []
    model.trunk.layers[-1].register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
    segment = random_steps(SPEC, 2, steps)
    memory = stepped(model, segment, first)[1] if acting else model(segment, first)[1]
    outputs, size = torch.cat(seen[-2:], dim=1), 3 * steps - acting  # what has no action yet is acted on
    assert outputs.shape[1] == 5 + size, "read tokens, and the segment's; none are written"
    expected = outputs[:, -size - 5 : -size]
    if valve is CrossAttentionValve:
        expected, _ = model.valve(first.tokens, outputs[:, -5:], None)
    assert torch.equal(memory.tokens, expected)
    assert memory.filled.tolist() == [min(7, 5 + size)] * 2


def test_refused() -> None:
    model, other = made(TrXL, mem_len=4), made(RATE, tokens=partial(Trained, num_mem_tokens=2))
    batch = random_steps(SPEC, 2, 3)
    with pytest.raises(
        ValueError, match=r"not one of this TrXL: expected Carried\(.*\[2, 4, 16\].*\) per lane, found Carried"
    ):
        model(batch, other.initial_memory(2))
    with pytest.raises(
        ValueError, match=r"not one of this RATE: expected Carried\(\[2, 16\].*\) per lane, found \(\);"
    ):
        other(batch, ())
    with pytest.raises(ValueError, match="mem_len must be 0 or more; found -1"):
        made(TrXL, mem_len=-1)
    with pytest.raises(ValueError, match="num_mem_tokens must be 1 or more; found 0"):
        Trained(16, 0)
    with pytest.raises(TypeError, match="tokens"):
        made(RATE)  # neither kind by accident
    assert issubclass(Trained, MemoryTokens)
