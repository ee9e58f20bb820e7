"""The published model's own inputs, weights, outputs and gradients: a file of this repository, and more if at hand."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from elmur.batch import SegmentBatch
from elmur.build import build
from elmur.memory import Memory
from elmur.model import ELMUR
from elmur.published.config import model_config, task_spec
from elmur.published.weights import convert_weights
from elmur.state import detach
from tests.golden.cut import whole

HERE = Path(__file__).resolve().parents[1] / "golden" / "relative_ffn_gelu.pt"
GOLDEN = Path(__file__).resolve().parents[2].parent / "shared" / "golden"
FILES = [HERE, *sorted(GOLDEN.glob("*.pt"))]
LENGTH, PADDING, SMOOTHING, TRAINED = 10, -10, 0.16, 3
# What counts as zero, as a norm: rounding where the exact gradient is 0 (a gate is 1 whatever the router says).
FLOOR = {torch.float32: 2e-7, torch.float64: 1e-14}
RELATIVE = {torch.float32: 5e-5, torch.float64: 1e-10}


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="more published outputs (../shared/golden) are not on this machine")
def test_all_files_are_there() -> None:
    assert len(FILES) == 15


@pytest.fixture(params=FILES, ids=lambda path: path.stem + (" of this repository" if path == HERE else ""))
def golden(request: pytest.FixtureRequest) -> dict[str, Any]:
    return load(request.param)


@cache
def load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return whole(content) if path == HERE else content


def number_type(golden: dict[str, Any]) -> torch.dtype:
    return torch.float64 if golden["config"]["dtype"] == "float64" else torch.float32


def ours(golden: dict[str, Any]) -> ELMUR:
    """Our model of the published configuration with the published weights."""
    model = build(model_config(golden["config"]), spec=task_spec(golden["config"]))
    assert isinstance(model, ELMUR)
    model.to(number_type(golden))
    model.load_state_dict(convert_weights(golden["state_dict"], model.state_dict()))
    return model.eval()


def window(golden: dict[str, Any]) -> SegmentBatch:
    """All 60 steps."""
    inputs = golden["inputs"]
    lanes, action = inputs["states"].shape[0], inputs["actions"][..., 0].long()
    nowhere = torch.zeros(lanes, dtype=torch.bool)
    return replace(
        SegmentBatch.of({"state": inputs["states"]}, action.clamp(min=0)),
        return_to_go=inputs["rtgs"][..., 0],
        mask=action != PADDING,
        loss_mask=inputs["targets"] != PADDING,
        is_first=nowhere,
        is_last=nowhere,
    )


def first_memory(golden: dict[str, Any]) -> tuple[Memory, ...]:
    inputs = golden["inputs"]
    return tuple(Memory(s.clone(), d.clone()) for s, d in zip(inputs["mem0_vec"], inputs["mem0_pos"], strict=True))


def assert_close(found: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    """By norm: ||found - expected|| <= relative * ||expected|| + floor."""
    gap, size = (found - expected).norm().item(), expected.norm().item()
    limit = RELATIVE[expected.dtype] * size + FLOOR[expected.dtype]
    assert gap <= limit, f"{what}: apart by {gap:.3g}, of {size:.3g}; {limit:.3g} is allowed"


@torch.no_grad()
def test_predictions_and_memory(golden: dict[str, Any]) -> None:
    model, memory = ours(golden), first_memory(golden)
    segments = list(window(golden).split(LENGTH))
    assert len(segments) == len(golden["segments"]) == 6
    for k, (segment, expected) in enumerate(zip(segments, golden["segments"], strict=True)):
        output, memory = model(segment, memory)
        assert output.balance_loss is None
        assert_close(output.prediction, expected["logits"], f"logits of segment {k}")
        for depth, bank in enumerate(memory):
            assert_close(bank.slots, expected["mem_vec"][depth], f"slots of layer {depth} after segment {k}")
            assert torch.equal(bank.written_at, expected["mem_pos"][depth])


@torch.no_grad()
def test_growing_windows(golden: dict[str, Any]) -> None:
    """The published acting: the window of 1, 2, ... steps is computed anew, its last prediction counts."""
    if golden["config"]["sequence_format"] != "s":
        pytest.skip("the published acting gives no tokens of whole steps in this format")
    model, memory = ours(golden), first_memory(golden)
    segments = list(window(golden).split(LENGTH))
    for segment in segments[:TRAINED]:
        _, memory = model(segment, memory)
    for length in range(1, LENGTH + 1):
        grown = next(segments[TRAINED].split(length))
        found = model(grown, memory, write=False)[0].prediction[:, -1]
        assert_close(found, golden["window_logits"][:, length - 1], f"window of {length} steps")


def gradients(golden: dict[str, Any], detached: bool) -> tuple[float, dict[str, torch.Tensor]]:
    """Our summed loss of three segments, and its gradients laid out as the published parameters."""
    model, memory, total = ours(golden), first_memory(golden), torch.zeros(())
    targets = golden["inputs"]["targets"].split(LENGTH, dim=1)
    for segment, target in list(zip(window(golden).split(LENGTH), targets, strict=True))[:TRAINED]:
        output, memory = model(segment, detach(memory) if detached else memory)
        total = total + F.cross_entropy(
            output.prediction.flatten(0, 1), target.flatten(), ignore_index=PADDING, label_smoothing=SMOOTHING
        )
    total.backward()
    # Number every published entry, convert the numbers as if they were weights: each of ours says where it came from.
    published = {k: v for k, v in golden["state_dict"].items() if k in golden["grads_bptt"]["grad_norms"]}
    begin, numbers = 1, {}
    for name, value in published.items():
        numbers[name] = torch.arange(begin, begin + value.numel(), dtype=torch.float64).view(value.shape)
        begin += value.numel()
    flat = torch.zeros(begin, dtype=number_type(golden))
    parameters = dict(model.named_parameters())
    for name, source in convert_weights(numbers, model.state_dict()).items():
        gradient = parameters[name].grad
        flat[source.long().flatten()] = torch.zeros(source.numel()).to(flat) if gradient is None else gradient.flatten()
    return total.item(), {name: flat[number.long()] for name, number in numbers.items()}


@pytest.mark.parametrize("key", ["grads_detached", "grads_bptt"])
def test_gradients(golden: dict[str, Any], key: str) -> None:
    expected, dtype = golden[key], number_type(golden)
    total, found = gradients(golden, detached=key == "grads_detached")
    assert total == pytest.approx(expected["total"], rel=RELATIVE[dtype])
    assert len(expected["grads"]) >= 10 and set(expected["grad_norms"]) >= set(expected["grads"])
    for name, gradient in expected["grads"].items():
        if isinstance(gradient, dict):  # the bias table: only the rows that were touched
            rest = torch.ones(gradient["shape"][0], dtype=torch.bool)
            rest[gradient["rows"]] = False
            assert not found[name][rest].any()
            assert_close(found[name][gradient["rows"]], gradient["values"], name)
        elif gradient is not None:
            assert_close(found[name], gradient, name)
    for name, norm in expected["grad_norms"].items():
        if name in expected["grad_none"]:
            assert not found[name].any(), f"{name} has a gradient, the published one has none"
        else:
            assert_close(found[name].norm(), torch.tensor(norm, dtype=dtype), f"norm of the gradient of {name}")


def test_only_what_is_not_used_is_without_gradient(golden: dict[str, Any]) -> None:
    none = golden["grads_detached"]["grad_none"]
    writing = [name for name in none if "cross_attention2" in name or "memory_ffn" in name or "memory_norm" in name]
    assert writing, "with memory detached nothing trains the writer"
    rest = [name for name in none if name not in writing and ".experts." not in name]  # experts that nobody picked
    assert all(name.startswith(("action_embeddings", "ret_emb")) for name in rest)


def test_balance_loss(golden: dict[str, Any]) -> None:
    """In training mode with every dropout at 0."""
    expected = golden["aux_loss_train_nodropout"]
    model, memory = ours(golden).train(), first_memory(golden)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropatt"):
            setattr(module, "dropatt", 0.0)  # noqa: B010 - mypy knows no attribute of a Module
    for k, segment in enumerate(list(window(golden).split(LENGTH))[:TRAINED]):
        output, memory = model(segment, memory)
        if expected is None:
            assert output.balance_loss is None
        else:
            assert output.balance_loss is not None
            assert output.balance_loss.item() == pytest.approx(expected[k], rel=RELATIVE[number_type(golden)])
