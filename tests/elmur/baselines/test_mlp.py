"""The policy that sees the present step and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from elmur.baselines.mlp import MLPPolicy
from tests.elmur.samples import SPEC, make_batch


def test_a_step_depends_on_its_own_observation_alone() -> None:
    torch.manual_seed(0)
    model, batch = MLPPolicy(SPEC, d_model=8, hidden=[6, 5]).double(), make_batch(2, 4)
    before = model(batch, ())[0].prediction
    batch.observation["state"][:, 1] += 1.0
    after = model(batch, ())[0].prediction
    assert (before - after).abs().amax(dim=(0, 2)).gt(1e-6).tolist() == [False, True, False, False]


def test_its_layers() -> None:
    torch.manual_seed(0)
    model, batch = MLPPolicy(SPEC, d_model=8, hidden=[6, 5]).double(), make_batch(2, 4)
    x = model.observation(batch.observation)
    for layer in model.layers:
        x = (x @ layer.weight.T + layer.bias).clamp(min=0)
    assert torch.allclose(model(batch, ())[0].prediction, x @ model.head.state_dict()["linear.weight"].T)
    assert [layer.out_features for layer in model.layers] == [6, 5]


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"hidden": []}, r"must be 1 or more; found 128, \[\]"),
        ({"token_format": "sra"}, "token_format must be s; found tokens rsa"),
    ],
)
def test_what_it_cannot_be(knobs: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MLPPolicy(SPEC, **knobs)
