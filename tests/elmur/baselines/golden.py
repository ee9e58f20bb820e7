"""The published baselines' own weights, inputs, outputs and gradients, where those files are at hand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from elmur.batch import SegmentBatch
from elmur.sequence_model import SequenceModel
from elmur.spec import Discrete, TaskSpec, Vector

FOLDER = Path(__file__).resolve().parents[3].parent / "shared" / "golden_baselines"
ABSENT = "the published baselines' outputs (../shared/golden_baselines) are not on this machine"
PADDING = -10
# Ours computes in float64, so that no machine adds rounding of its own to that of a file in float32.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
# One file's own rounding is larger: our model in float32 is twice as far from itself in float64 as the file is.
LESS_EXACT = {"dmamba_mamba": 2e-5}
# What all published models call their encoders and heads, and what ours are called.
SHARED = {
    r"state_encoder\.": "observation.parts.state.linear.",
    r"ret_emb\.": "returns.linear.",
    r"action_embeddings\.0\.": "action.net.",
    r"head\.": "head.linear.",
}


@cache
def load(name: str) -> dict[str, Any]:
    """A file, with its weights and inputs in float64."""
    content: dict[str, Any] = torch.load(FOLDER / f"{name}.pt", weights_only=True)
    for part in ("state_dict", "inputs"):
        content[part] = {key: exactly(value) for key, value in content[part].items()}
    return content


def exactly(value: Any) -> Any:
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def spec_of(golden: Mapping[str, Any]) -> TaskSpec:
    """The task of the published model, for categorical actions."""
    config = golden["config"]
    return TaskSpec(golden["task"], {"state": Vector(config["state_dim"])}, Discrete((config["act_dim"],)))


def window(golden: Mapping[str, Any]) -> SegmentBatch:
    """All its steps."""
    inputs = golden["inputs"]
    action = inputs["actions"][..., 0].long()
    batch = SegmentBatch.of({"state": inputs["states"]}, action.clamp(min=0))
    batch.return_to_go, batch.mask, batch.loss_mask = (
        inputs["rtgs"][..., 0], action != PADDING, inputs["targets"] != PADDING,
    )  # fmt: skip
    return batch


def renamed(golden: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, str]:
    """Published parameter name -> ours, by the first pattern that its beginning matches; '' where ours has none."""
    found = {}
    for published in golden["state_dict"]:
        for pattern, ours in {**names, **SHARED}.items():
            if re.match(pattern, published):
                found[published] = re.sub(pattern, ours, published, count=1) if ours else ""
                break
        else:
            found[published] = published
    return found


def take_weights(model: SequenceModel, golden: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, str]:
    """Load the published weights; returns published name -> ours of those that were. All of ours must be given."""
    pairs = {published: ours for published, ours in renamed(golden, names).items() if ours}
    expected = model.state_dict()
    model.to(golden["inputs"]["states"].dtype)
    model.load_state_dict(
        {ours: golden["state_dict"][published].reshape(expected[ours].shape) for published, ours in pairs.items()}
    )
    model.eval()
    return pairs


def loss(prediction: torch.Tensor, batch: SegmentBatch) -> torch.Tensor:
    """The published loss: cross-entropy, mean over the real steps."""
    target = batch.action.masked_fill(~batch.loss_mask, -100)
    return F.cross_entropy(prediction.flatten(0, 1), target.flatten(), ignore_index=-100)


def assert_close(found: torch.Tensor, expected: torch.Tensor, name: str, what: str) -> None:
    """Within the tolerance of the type of number or of the file, relative to the largest number expected or to 1."""
    gap = (found.detach() - expected).abs().max().item()
    limit = LESS_EXACT.get(name, TOLERANCE[expected.dtype]) * max(1.0, expected.abs().max().item())
    assert gap <= limit, f"{what}: differs by {gap:.2g}, allowed {limit:.2g}"


def assert_gradients(
    model: SequenceModel, total: torch.Tensor, expected: Mapping[str, Any], pairs: Mapping[str, str], file: str
) -> None:
    """The gradients of `total` are the published ones, for every parameter that both have."""
    ours = dict(model.named_parameters())
    names = [name for name in expected["grads"] if name in pairs]
    assert names
    found = torch.autograd.grad(total, [ours[pairs[name]] for name in names])
    for name, gradient in zip(names, found, strict=True):
        assert_close(gradient.reshape(expected["grads"][name].shape), expected["grads"][name], file, name)
