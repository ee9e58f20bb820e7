"""The test run itself: a tensor of a wrong shape is refused wherever elmur names its shape (see conftest.py)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from jaxtyping import TypeCheckError

from elmur.batch import SegmentBatch


def test_a_wrong_shape_is_refused() -> None:
    steps, lanes = torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)
    batch = SegmentBatch(
        observation={"position": torch.zeros(2, 3, 1)},
        action=torch.zeros(2, 3, dtype=torch.int64),
        return_to_go=torch.zeros(2, 3),
        mask=steps,
        loss_mask=steps,
        is_first=lanes,
        is_last=lanes,
        start=torch.zeros(2, dtype=torch.int64),
    )
    with pytest.raises(TypeCheckError):
        replace(batch, is_first=torch.zeros(5, dtype=torch.bool))
    with pytest.raises(TypeCheckError):
        replace(batch, mask=torch.ones(2, 3))
