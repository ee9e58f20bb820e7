"""Small tasks, batches and models for the tests of this room."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from elmur.batch import SegmentBatch
from elmur.draws import Draws, words
from elmur.model import ELMUR
from elmur.spec import Discrete, TaskSpec, Vector
from elmur.testing import stepped as step_by_step

__all__ = ["CONTINUOUS", "SPEC", "draws", "make_batch", "make_model", "noise", "step_by_step"]

SPEC = TaskSpec("sample", {"state": Vector(4)}, Discrete((3,)), horizon=40)
CONTINUOUS = TaskSpec("reach", {"state": Vector(4)}, Vector(2, low=(-1.0, 0.0), high=(1.0, 4.0)))


def make_batch(
    lanes: int, steps: int, start: int | list[int] = 0, seed: int = 0, dtype: torch.dtype = torch.float64
) -> SegmentBatch:
    """Random steps of SPEC, all real; `start` for all lanes or one per lane."""
    g = torch.Generator().manual_seed(seed)
    real = torch.ones(lanes, steps, dtype=torch.bool)
    return SegmentBatch(
        observation={"state": torch.randn(lanes, steps, 4, generator=g, dtype=dtype)},
        action=torch.randint(3, (lanes, steps), generator=g),
        return_to_go=torch.randn(lanes, steps, generator=g, dtype=dtype),
        mask=real,
        loss_mask=real,
        is_first=torch.zeros(lanes, dtype=torch.bool),
        is_last=torch.zeros(lanes, dtype=torch.bool),
        start=torch.tensor(start if isinstance(start, list) else [start] * lanes),
    )


def make_model(seed: int = 0, **changes: Any) -> ELMUR:
    """A small ELMUR for SPEC in float64 that drops nothing out; keyword arguments as ELMUR's."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"d_model": 16, "n_layer": 2, "n_head": 2, "dropout": 0.0, "dropatt": 0.0}
    return ELMUR(SPEC, **{**sizes, **changes}).double()


def noise(seed: int = 0) -> torch.Generator:
    """A generator for memory noise."""
    return torch.Generator().manual_seed(seed)


def draws(step: int, lanes: int) -> Draws:
    """The random numbers of a step in lanes whose episodes have the seeds 0, 1, ..."""
    return Draws(words(range(lanes)), np.full(lanes, step))
