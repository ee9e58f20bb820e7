"""A policy acts on the device that is faster for it; the operations of its step tell."""

from __future__ import annotations

import pytest
import torch

from callbacks.evaluation.device import operations, placed
from elmur.baselines.recurrent import GRU
from elmur.model import ELMUR
from elmur.spec import Discrete, Image, TaskSpec, Vector
from tests.elmur.samples import SPEC, make_model


def test_operations_of_a_step_are_those_of_its_products() -> None:
    model = ELMUR(SPEC, d_model=16, n_layer=1, n_head=2, memory=None)
    # One token: 4 numbers to 16; query, key and value; output; up and down 128; 3 logits.
    linear = 4 * 16 + 16 * 48 + 16 * 16 + 2 * 16 * 128 + 16 * 3
    found = operations(model, 5)
    assert 2 * linear <= found <= 2 * linear + 2 * 3 * 16, "and those of attention to one key"
    assert model.training, "it was in training and is again"


def test_pictures_cost_what_their_convolutions_do() -> None:
    spec = TaskSpec("seen", {"front": Image(3, 36, 36)}, Discrete((3,)))
    one = operations(GRU(spec, d_model=8), 5)
    convolutions = 2 * (8 * 8 * 32 * 3 * 64 + 3 * 3 * 64 * 32 * 16 + 1 * 1 * 64 * 64 * 9)
    assert convolutions < one < 1.1 * convolutions
    assert operations(GRU(TaskSpec("told", {"state": Vector(2)}, Discrete((3,))), d_model=8), 5) < one / 100


def test_without_a_gpu_it_acts_where_it_is() -> None:
    model = make_model()
    for device in ("auto", "cpu"):
        assert placed(model, 3, 10**9, device) is model
    with pytest.raises(ValueError, match=r"evaluation\.device: expected one of auto, cpu, cuda; found 'gpu'"):
        placed(model, 3, 1, "gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"evaluation\.device=cuda, but no CUDA device is found"):
            placed(model, 3, 1, "cuda")
