"""Slots that were never written, hidden from reading: what is in them has no effect, and an empty bank adds nothing."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from elmur.attention import CrossAttention
from elmur.export.program import StepProgram
from elmur.export.trace import example_of, program_of, traced, write_onnx
from elmur.memory import LRU, NEVER, Memory
from elmur.model import ELMUR, MemoryDesign
from elmur.policy import StreamingPolicy, episode_seeds, first_state
from elmur.residual import PostNorm, PreNorm
from tests.elmur.samples import SPEC, make_batch, make_model, noise

B, M, T = 3, 4, 5
hiding = partial(MemoryDesign, memory_size=M, memory_init_std=1.0, read_unwritten=False)


def model_of(**changes: Any) -> ELMUR:
    """A small one whose maps have biases that are not zero."""
    model = make_model(**changes)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter)
    return model.eval()


@settings(max_examples=25, deadline=None)
@given(
    written=st.lists(st.lists(st.integers(NEVER, 20), min_size=M, max_size=M), min_size=B, max_size=B),
    seed=st.integers(0, 99),
    bias=st.booleans(),
    shared=st.booleans(),
)
@torch.no_grad()
def test_what_never_written_slots_hold_has_no_effect(
    written: list[list[int]], seed: int, bias: bool, shared: bool
) -> None:
    more: dict[str, Any] = {} if bias else {"bias": None}
    model = model_of(memory=hiding(shared=shared, **more))
    dates, batch = torch.tensor(written), make_batch(B, T, 21, seed)
    held = dates != NEVER

    def banks(empty: float) -> tuple[Memory, ...]:
        found = model.initial_memory(B, noise(seed))
        return tuple(Memory(bank.slots.masked_fill(~held.unsqueeze(-1), empty), dates) for bank in found)

    one, other = (model(batch, banks(empty))[0].prediction for empty in (0.0, 1e6))
    assert torch.equal(one, other) and one.isfinite().all()


@pytest.mark.parametrize("residual", [PostNorm, PreNorm])
@torch.no_grad()
def test_an_empty_bank_adds_nothing_to_the_bit(residual: type) -> None:
    """The same sums as with the reader's output set to zero; of the lanes that hold something it does add."""
    model = model_of(memory=hiding(), residual=residual)
    batch, memory = make_batch(B, T, 21), model.initial_memory(B, noise())
    memory[0].written_at[1, 2] = 7
    found = model(batch, memory)[0].prediction
    handles = [
        layer.reader.register_forward_hook(lambda *given: 0 * given[2]) for layer in model.layers if layer.reader
    ]
    without = model(batch, memory)[0].prediction
    for handle in handles:
        handle.remove()
    assert [torch.equal(found[lane], without[lane]) for lane in range(B)] == [True, False, True]


@torch.no_grad()
def test_reading_by_hand() -> None:
    """softmax over the slots that hold something, in numpy."""
    torch.manual_seed(0)
    (layer, *_) = model_of(memory=hiding(), n_head=1, n_layer=1).layers
    reader = layer.reader
    assert reader is not None and layer.bias is not None
    dates, steps = torch.tensor([[3, NEVER, 8, NEVER], [NEVER, NEVER, NEVER, 1]]), torch.arange(10, 13).expand(2, 3)
    memory, x = Memory(torch.randn(2, M, 16).double(), dates), torch.randn(2, 3, 16).double()
    view = layer.view(memory, steps)
    assert view is not None
    found = reader(x, view.slots, view.bias, view.sees_any).numpy()
    query, both, out = (map_.weight.numpy() for map_ in (reader.query, reader.key_value, reader.out))
    for lane, slots in enumerate(([0, 2], [3])):
        keys, values = np.split(memory.slots[lane, slots].numpy() @ both.T, 2, axis=-1)
        table, reach = layer.bias.table.weight.numpy()[:, 0], layer.bias.reach
        scores = x[lane].numpy() @ query.T @ keys.T / 4 + [
            [table[int(step) - int(dates[lane, slot]) + reach] for slot in slots] for step in steps[lane]
        ]
        expected = softmax(scores, axis=-1) @ values @ out.T + reader.out.bias.numpy()
        np.testing.assert_allclose(found[lane], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_finite_and_reach_the_writer(bias: bool) -> None:
    """The first segment of every window meets an empty bank, whose scores must not give 0/0 on the way back."""
    more: dict[str, Any] = {} if bias else {"bias": None}
    model = make_model(memory=hiding(write=LRU(0.7), **more), residual=PreNorm)
    memory, total = model.initial_memory(B, noise()), torch.zeros(()).double()
    for k in range(3):
        output, memory = model(make_batch(B, T, k * T, seed=k), memory)
        total = total + output.prediction.square().sum()
    total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    first = model.layers[0]
    assert isinstance(first.reader, CrossAttention) and isinstance(first.writer, CrossAttention)
    assert first.writer.out.weight.grad is not None and first.reader.query.weight.grad is not None
    assert first.writer.out.weight.grad.any() and first.reader.query.weight.grad.any()


@pytest.mark.slow  # torch.onnx.export takes ten seconds
def test_onnx_reads_what_is_written_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ELMUR(SPEC, 16, 2, 2, memory=hiding(memory_size=6)).eval()
    program: StepProgram = program_of(model, 3, first_state(model, episode_seeds(0, [0])[0]))
    write_onnx(traced(program, None), program, tmp_path / "step.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "step.onnx")
    policy, batch = StreamingPolicy(model, 3), make_batch(1, 14, dtype=torch.float32)
    policy.start(1)
    names = [found.name for found in session.get_outputs()]
    memory = {k: v.numpy() for k, v in example_of(program, 1).items() if k.startswith("memory_")}
    for t in range(14):  # four closed segments of six slots: some are never written
        now, is_first = {"state": batch.observation["state"][:, t].numpy()}, np.array([t == 0])
        found = dict(zip(names, session.run(None, {**now, "is_first": is_first, **memory}), strict=True))
        policy.act(now, is_first)
        np.testing.assert_allclose(found["prediction"], policy.prediction, atol=1e-5)
        memory = {name: found[f"next_{name}"] for name in memory}
