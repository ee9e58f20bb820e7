"""Tests of this folder need a GPU: `CUDA_VISIBLE_DEVICES=0 pytest -m gpu`; without one they are skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA is used: else its sums may differ
HERE = Path(__file__).parent
MISSING = "no CUDA device is visible; where there is one: make test-gpu, or CUDA_VISIBLE_DEVICES=0 pytest -m gpu"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            # What CUDA's libraries say at their first use, and Lightning of few workers: not to be mended here.
            item.add_marker(pytest.mark.filterwarnings("ignore"))
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason=MISSING))


@pytest.fixture(autouse=True)
def float32_as_it_is() -> Iterator[None]:
    """Products are compared with the CPU's, so nothing is rounded to TF32."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]
