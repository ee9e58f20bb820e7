"""Every model keeps the contract: one line a model, and no more for a new one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from elmur.baselines.diffusion_policy import DiffusionPolicy
from elmur.baselines.ffm import FFM
from elmur.baselines.gated_deltanet import GatedDeltaNet
from elmur.baselines.mamba import Mamba
from elmur.baselines.mlp import MLPPolicy
from elmur.baselines.recurrent import GRU, LSTM
from elmur.baselines.shm import SHM
from elmur.baselines.transformer import Transformer
from elmur.model import ELMUR
from elmur.sequence_model import SequenceModel
from elmur.spec import TaskSpec
from elmur.testing import REACH, check_model

small: dict[str, Any] = {"d_model": 16, "n_head": 2, "dropout": 0.0, "dropatt": 0.0}
MODELS: dict[str, Callable[..., SequenceModel]] = {
    "elmur": partial(ELMUR, **small),
    "transformer": partial(Transformer, token_format="sra", **small),
    "gru": partial(GRU, d_model=16),
    "gru sra": partial(GRU, d_model=16, n_layer=2, token_format="sra"),
    "lstm": partial(LSTM, d_model=16, n_layer=2),
    "lstm sra": partial(LSTM, d_model=16, token_format="sra"),
    "mlp": partial(MLPPolicy, d_model=16, hidden=(8,)),
    "mamba": partial(Mamba, d_model=16, d_state=4),
    "mamba sra": partial(Mamba, d_model=16, d_state=4, d_ff=32, token_format="sra"),
    "gated_deltanet": partial(GatedDeltaNet, d_model=16, n_head=2, d_ff=32),
    "gated_deltanet sra": partial(GatedDeltaNet, d_model=16, n_head=2, d_ff=0, token_format="sra"),
    "ffm": partial(FFM, d_model=16, memory_size=4, context_size=3),
    "shm": partial(SHM, d_model=16, memory_size=4, rows=8),
    "diffusion_policy": partial(DiffusionPolicy, d_model=8, num_levels=20, sampling_steps=4, down_dims=(16, 32)),
}
# Parts of the names of parameters that get no gradient, as the docstring of the model says.
UNTRAINED: dict[str, tuple[str, ...]] = {}
# The task of a model that does not take every kind of action.
TASK: dict[str, TaskSpec] = {"diffusion_policy": REACH}


@pytest.mark.parametrize("name", MODELS)
def test_the_contract(name: str) -> None:
    check_model(MODELS[name], TASK.get(name), UNTRAINED.get(name, ()))
