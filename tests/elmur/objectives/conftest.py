"""What Lightning says of small runs without a validation set is of no interest here."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
        logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
        yield
