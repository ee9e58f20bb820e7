"""The test run itself: a tensor of a wrong shape is refused wherever elmur names its shape (see conftest.py)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from jaxtyping import TypeCheckError

from elmur.batch import SegmentBatch


def test_a_wrong_shape_is_refused() -> None:
    batch = SegmentBatch.of({"position": torch.zeros(2, 3, 1)}, torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(TypeCheckError):
        replace(batch, is_first=torch.zeros(5, dtype=torch.bool))
    with pytest.raises(TypeCheckError):
        replace(batch, mask=torch.ones(2, 3))
