"""Step = window: acting step by step gives the predictions and the memory of the forward on the whole segment."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from elmur.baselines.recurrent import GRU
from elmur.baselines.transformer import Transformer
from elmur.clock import EpisodeClock
from elmur.feedforward import MLP, SwiGLU
from elmur.memory import LRU, ReplaceAll
from elmur.model import ELMUR, MemoryDesign
from elmur.moe import MixtureOfExperts
from elmur.positional import Alibi, Learnable, Position, Relative, Rope, Sinusoidal, Yarn
from elmur.published.quirks import DatedByStart, Mirrored, PublishedLRU, PublishedRelative, PublishedReplaceAll
from elmur.residual import PostNorm, PreNorm
from elmur.sequence_model import SequenceModel
from elmur.spec import Discrete
from elmur.testing import gap
from tests.elmur.samples import CONTINUOUS, SPEC, make_batch, make_model, noise, step_by_step

POSITIONS: list[Callable[..., Position]] = [
    Relative, PublishedRelative, Rope, Yarn, Alibi, Sinusoidal, Learnable
]  # fmt: skip
FORMATS = ["s", "sa", "sr", "sra"]
LENGTH, SEGMENTS, STARTS = 4, 3, [0, 7, 1000]
experts = partial(MixtureOfExperts, num_experts=3, top_k=3, n_shared_experts=1, routed_d_ff=4, shared_d_ff=8)
design = partial(MemoryDesign, memory_size=3, memory_init_std=1.0)
# fmt: off
VARIANTS: dict[str, dict[str, Any]] = {
    "elmur": {"memory": design(write=LRU(0.7))},
    "shared memory": {"memory": design(write=LRU(0.7), shared=True), "feedforward": experts},
    "no read": {"memory": design(read=False), "residual": PreNorm},
    "written slots alone": {"memory": design(read_unwritten=False, write=LRU(0.7)), "residual": PreNorm},
    "written slots alone, no bias": {"memory": design(read_unwritten=False, bias=None, shared=True)},
    "no write": {"memory": design(write=None), "feedforward": SwiGLU},
    "neither": {"memory": design(read=False, write=None), "residual": partial(PostNorm, norm_type="rmsnorm")},
    "no bias": {"memory": design(bias=None, write=LRU(0.3, slots_per_write=2)), "feedforward": experts},
    "divided, with a clock": {
        "memory": design(write=LRU(0.7, slots_per_write=2, divide_segment=True), clock=EpisodeClock)
    },
    "no LRU": {"memory": design(write=ReplaceAll()), "residual": partial(PreNorm, norm_type="rmsnorm")},
    "one slot": {"memory": MemoryDesign(memory_size=1, write=LRU(0.5))},
    "joint": {"memory": design(joint=True, write=LRU(0.7)), "residual": PreNorm, "feedforward": experts},
    "joint, shared": {"memory": design(joint=True, bias=None, shared=True)},
    "copied": {"memory": design(write=LRU(0.7, slots_per_write=2, divide_segment=True, copies=True))},
    "copied and joint": {"memory": design(joint=True, write=LRU(copies=True)), "residual": PreNorm},
    "mirrored": {"memory": design(steps=Mirrored(), write=PublishedLRU(0.7)), "feedforward": experts},
    "dated by start": {"memory": design(steps=DatedByStart(), write=PublishedReplaceAll())},
    "one layer, shared": {"memory": design(shared=True), "n_layer": 1, "feedforward": MLP},
    "no memory": {"memory": None},
}
# fmt: on


@torch.no_grad()
def check(model: SequenceModel, dtype: torch.dtype = torch.float64) -> None:
    """Several segments, each lane at its own place in its episode."""
    model.eval()
    windowed = streamed = model.initial_memory(len(STARTS), noise())
    for k in range(SEGMENTS):
        starts = [start + k * LENGTH for start in STARTS]
        segment = make_batch(len(STARTS), LENGTH, starts, seed=k)
        if not isinstance(model.spec.action, Discrete):
            segment.action = torch.randn(len(STARTS), LENGTH, 2, generator=noise(k), dtype=dtype)
        output, windowed = model(segment, windowed)
        prediction, streamed = step_by_step(model, segment, streamed)
        assert (prediction - output.prediction).abs().max() < 1e-10
        assert gap(streamed, windowed) < 1e-10


@pytest.mark.parametrize("token_format", FORMATS)
@pytest.mark.parametrize("position", POSITIONS)
def test_every_position_and_format(position: Callable[..., Position], token_format: str) -> None:
    check(make_model(position=position, token_format=token_format, memory=design(write=LRU(0.7)), feedforward=experts))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("position", "token_format"), [(Relative, "sra"), (Rope, "s")])
def test_every_variant(variant: str, position: Callable[..., Position], token_format: str) -> None:
    check(make_model(position=position, token_format=token_format, **VARIANTS[variant]))


@pytest.mark.parametrize("token_format", FORMATS)
def test_transformer(token_format: str) -> None:
    torch.manual_seed(0)
    check(Transformer(SPEC, d_model=16, n_head=2, token_format=token_format).double())


@pytest.mark.parametrize("n_layer", [1, 2])
def test_gru(n_layer: int) -> None:
    torch.manual_seed(0)
    check(GRU(SPEC, d_model=16, n_layer=n_layer).double())


def test_continuous_actions() -> None:
    torch.manual_seed(0)
    check(ELMUR(CONTINUOUS, d_model=16, n_head=2, token_format="sra").double())


def test_segments_of_one_step() -> None:
    model = make_model(token_format="sra", memory=design()).eval()
    memory = model.initial_memory(2, noise())
    segment = make_batch(2, 1, [3, 9])
    with torch.no_grad():
        output, after = model(segment, memory)
        prediction, streamed = step_by_step(model, segment, memory)
    assert (prediction - output.prediction).abs().max() < 1e-10
    assert gap(streamed, after) < 1e-10


@pytest.mark.parametrize("token_format", FORMATS)
@pytest.mark.parametrize("position", POSITIONS)
@torch.no_grad()
def test_a_later_step_changes_no_earlier_prediction(position: Callable[..., Position], token_format: str) -> None:
    model = make_model(position=position, token_format=token_format, memory=design()).eval()
    memory, changed = model.initial_memory(2, noise()), 2
    batch, other = make_batch(2, 5), make_batch(2, 5, seed=1)
    pairs = [(batch.observation["state"], other.observation["state"]), (batch.return_to_go, other.return_to_go)]
    for mine, new in pairs:
        new[:, :changed], new[:, changed + 1 :] = mine[:, :changed], mine[:, changed + 1 :]
    other.action = batch.action.clone()
    other.action[:, changed] = (batch.action[:, changed] + 1) % 3
    before, after = (model(b, memory)[0].prediction for b in (batch, other))
    assert (before - after)[:, :changed].abs().max() < 1e-12
    for step in range(changed, 5):
        assert (before - after)[:, step].abs().max() > 1e-6, "and every later one"


# What of a step itself its own prediction sees, by format.
SEES = {"s": "", "sa": "", "sr": "", "sra": "return"}


@pytest.mark.parametrize("token_format", FORMATS)
@torch.no_grad()
def test_the_action_to_be_predicted_is_never_seen(token_format: str) -> None:
    model = make_model(token_format=token_format, memory=design()).eval()
    memory, batch = model.initial_memory(2, noise()), make_batch(2, 3)
    before = model(batch, memory)[0].prediction
    for part in ("action", "return"):
        other = make_batch(2, 3)
        if part == "action":
            other.action[:, 1] = (other.action[:, 1] + 1) % 3
        else:
            other.return_to_go[:, 1] += 1
        gap = (model(other, memory)[0].prediction - before).abs().amax(dim=(0, 2))
        assert gap[0] < 1e-12
        assert (gap[1] > 1e-6) == (SEES[token_format] == part)
        assert (gap[2] > 1e-6) == (part[0] in token_format)


@torch.no_grad()
def test_the_first_steps_of_a_segment_are_a_shorter_segment() -> None:
    """With true steps and distances, a segment cut short (an episode's end) predicts what the whole one does."""
    model = make_model(memory=design()).eval()
    memory = model(make_batch(2, 5), model.initial_memory(2, noise()))[1]
    whole = make_batch(2, 5, 5, seed=1)
    expected = model(whole, memory)[0].prediction
    for length in range(1, 5):
        shorter = next(whole.split(length))
        assert (model(shorter, memory)[0].prediction - expected[:, :length]).abs().max() < 1e-10


@torch.no_grad()
def test_lanes_do_not_see_each_other() -> None:
    model = make_model(memory=design(), feedforward=experts, position=PublishedRelative).eval()
    memory, batch = model.initial_memory(3, noise()), make_batch(3, 4, [0, 4, 8])
    together = model(batch, memory)
    other = make_batch(3, 4, [0, 4, 8], seed=9)
    other.observation["state"][1] = batch.observation["state"][1]
    apart = model(other, memory)
    assert (together[0].prediction - apart[0].prediction)[1].abs().max() < 1e-12
    assert (together[1][0].slots - apart[1][0].slots)[1].abs().max() < 1e-12
    assert (together[0].prediction - apart[0].prediction)[0].abs().max() > 1e-6


class Recomputed(ELMUR):
    """An ELMUR that says how it streams no better than a new model would: forward and initial memory alone."""

    open_segment, step, close_segment = (
        SequenceModel.open_segment,
        SequenceModel.step,
        SequenceModel.close_segment,
    )


@pytest.mark.parametrize("token_format", FORMATS)
def test_the_default_streaming_is_exact(token_format: str) -> None:
    torch.manual_seed(0)
    memory = design(write=LRU(0.7), clock=EpisodeClock)
    check(Recomputed(SPEC, d_model=16, n_head=2, token_format=token_format, memory=memory).double())
