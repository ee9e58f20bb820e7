"""Every model keeps the contract: one line a model, and no more for a new one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from elmur.baselines.recurrent import GRU
from elmur.baselines.transformer import Transformer
from elmur.model import ELMUR
from elmur.sequence_model import SequenceModel
from elmur.testing import check_model

small: dict[str, Any] = {"d_model": 16, "n_head": 2, "dropout": 0.0, "dropatt": 0.0}
MODELS: dict[str, Callable[..., SequenceModel]] = {
    "elmur": partial(ELMUR, **small),
    "transformer": partial(Transformer, token_format="sra", **small),
    "gru": partial(GRU, d_model=16),
}
# Parts of the names of parameters that get no gradient, as the docstring of the model says.
UNTRAINED: dict[str, tuple[str, ...]] = {}


@pytest.mark.parametrize("name", MODELS)
def test_the_contract(name: str) -> None:
    check_model(MODELS[name], untrained=UNTRAINED.get(name, ()))
