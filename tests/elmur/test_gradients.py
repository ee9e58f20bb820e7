"""Where gradients go: the writer learns only through a later segment that reads, as far as the graph reaches."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from elmur.memory import LRU
from elmur.model import ELMUR, MemoryDesign
from elmur.moe import MixtureOfExperts
from elmur.published.quirks import PublishedLRU
from elmur.residual import PostNorm, PreNorm, Residual
from elmur.state import detach
from tests.elmur.samples import make_batch, make_model, noise

WRITING = ("writer", "write_residual", "memory_feedforward", "memory_residual")


def train(model: ELMUR, segments: int, detached: bool, write_grad: bool = True) -> dict[str, float]:
    """The largest gradient of every parameter, of the summed loss of some segments; 0 where there is none."""
    memory, total = model.initial_memory(2, noise()), torch.zeros(())
    for k in range(segments):
        batch = make_batch(2, 4, 4 * k, seed=k)
        output, memory = model(batch, detach(memory) if detached else memory, write_grad=write_grad)
        total = total + model.head.loss(output.prediction, batch.action, batch.loss_mask, 0.1)
    total.backward()
    return {
        name: 0.0 if parameter.grad is None else parameter.grad.abs().max().item()
        for name, parameter in model.named_parameters()
    }


def design(**more: object) -> MemoryDesign:
    return MemoryDesign(memory_size=2, memory_init_std=1.0, **more)  # type: ignore[arg-type]


def split(gradients: dict[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """(of the write path, of the rest)."""
    writing = {name: size for name, size in gradients.items() if any(part in name for part in WRITING)}
    assert writing
    return writing, {name: size for name, size in gradients.items() if name not in writing}


@pytest.mark.parametrize("residual", [PostNorm, PreNorm])
@pytest.mark.parametrize("token_format", ["s", "sra"])
def test_two_segments_in_one_graph_train_the_writer(residual: type[Residual], token_format: str) -> None:
    model = make_model(memory=design(write=LRU(0.7)), token_format=token_format, residual=residual)
    writing, rest = split(train(model, 2, detached=False))
    assert all(size > 1e-9 for size in writing.values()), writing
    assert all(size > 1e-9 for size in rest.values()), rest


@pytest.mark.parametrize(("segments", "detached"), [(1, False), (3, True)])
def test_no_later_segment_in_the_graph_leaves_the_writer_untrained(segments: int, detached: bool) -> None:
    writing, rest = split(train(make_model(memory=design()), segments, detached))
    assert not any(writing.values())
    if segments == 1:  # no slot has a date yet: they all have the same bias, which the softmax does not see
        rest = {name: size for name, size in rest.items() if "bias.table" not in name}
    assert all(size > 1e-9 for size in rest.values()), rest


def test_write_grad_off_is_detaching() -> None:
    off, cut = (
        train(make_model(memory=design()), 3, detached=detached, write_grad=write_grad)
        for detached, write_grad in ((False, False), (True, True))
    )
    assert off == pytest.approx(cut, rel=1e-12)
    _, memory = make_model(memory=design())(make_batch(2, 4), make_model().initial_memory(2), write_grad=False)
    assert not memory[0].slots.requires_grad


@pytest.mark.parametrize("gap", [1, 2, 4])
def test_a_loss_reaches_back_through_memory_to_what_was_seen_segments_ago(gap: int) -> None:
    """M = 2, blend 1: what segment 0 wrote is overwritten by segment 2, but from a candidate that saw it."""
    for cut in (False, True):
        model = make_model(memory=design(), n_layer=1)
        memory = model.initial_memory(1, noise())
        first = make_batch(1, 4)
        first.observation["state"].requires_grad_()
        _, memory = model(first, memory)
        for k in range(1, gap + 1):
            batch = make_batch(1, 4, 4 * k, seed=k)
            output, memory = model(batch, detach(memory) if cut else memory)
        output.prediction.square().sum().backward()
        gradient = first.observation["state"].grad
        assert (gradient is not None and bool((gradient.abs() > 1e-9).any())) != cut


def test_only_what_was_written_is_trained() -> None:
    """Blend 0 into slots in use: nothing is written, so nothing of the writer matters."""
    model = make_model(memory=design(write=PublishedLRU(0.0)))
    writing, _ = split(train(model, 3, detached=False))
    assert not any(writing.values())


@pytest.mark.parametrize(
    ("top_k", "coefficient", "has_loss"), [(3, 0.5, True), (2, 0.5, False), (3, 0.0, False)], ids=str
)
def test_the_balance_loss_trains_the_writers_router_even_when_memory_is_detached(
    top_k: int, coefficient: float, has_loss: bool
) -> None:
    experts = partial(MixtureOfExperts, num_experts=4, top_k=top_k, load_balancing_loss_coef=coefficient)
    model = make_model(memory=design(), feedforward=experts)
    assert model.write_has_loss == has_loss
    output, _ = model(make_batch(2, 4), model.initial_memory(2, noise()))
    if output.balance_loss is not None:
        output.balance_loss.backward()
    router = dict(model.named_parameters())["layers.0.memory_feedforward.router.weight"].grad
    assert (router is not None and bool(router.abs().max() > 1e-9)) == has_loss


def test_models_without_experts_have_no_loss_of_writing() -> None:
    assert not make_model().write_has_loss
