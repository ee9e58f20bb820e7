"""Every model keeps the contract: one line a model, and no more for a new one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jaxtyping
import pytest

from elmur.baselines.decision_transformer import DecisionTransformer
from elmur.baselines.diffusion_policy import DiffusionPolicy
from elmur.baselines.ffm import FFM
from elmur.baselines.gated_deltanet import GatedDeltaNet
from elmur.baselines.gtrxl import GTrXL
from elmur.baselines.mamba import Mamba
from elmur.baselines.memory_tokens import Trained
from elmur.baselines.mlp import MLPPolicy
from elmur.baselines.rate import RATE
from elmur.baselines.recurrent import GRU, LSTM
from elmur.baselines.rmt import RMT
from elmur.baselines.shm import SHM
from elmur.baselines.transformer import Transformer
from elmur.baselines.trxl import TrXL
from elmur.baselines.valve import CrossAttentionValve, GateValve, GRUValve, LSTMValve, Valve
from elmur.memory import LRU
from elmur.model import ELMUR, MemoryDesign
from elmur.sequence_model import SequenceModel
from elmur.spec import Image, TaskSpec
from elmur.state import tensors_of
from elmur.testing import REACH, check_model, random_steps

small: dict[str, Any] = {"d_model": 16, "n_head": 2, "dropout": 0.0, "dropatt": 0.0}
cached: dict[str, Any] = {"mem_len": 11, "tokens": partial(Trained, num_mem_tokens=3)}
VALVES: dict[str, Callable[..., Valve]] = {
    "none": Valve,
    "from written to read": partial(CrossAttentionValve, queries="written", mrv_act="elu"),
    "gate": GateValve,
    "gru": GRUValve,
    "lstm": LSTMValve,
}
MODELS: dict[str, Callable[..., SequenceModel]] = {
    "elmur": partial(ELMUR, **small),
    "transformer": partial(Transformer, token_format="sra", **small),
    "gru": partial(GRU, d_model=16),
    "lstm": partial(LSTM, d_model=16, n_layer=2),
    "mlp": partial(MLPPolicy, d_model=16, hidden=(8,)),
    "mamba": partial(Mamba, d_model=16, d_state=4),
    "gated_deltanet": partial(GatedDeltaNet, d_model=16, n_head=2, d_ff=32),
    "ffm": partial(FFM, d_model=16, memory_size=4, context_size=3),
    "shm": partial(SHM, d_model=16, memory_size=4, rows=8),
    "diffusion_policy": partial(DiffusionPolicy, d_model=8, num_levels=20, sampling_steps=4, down_dims=(16, 32)),
    "decision_transformer": partial(DecisionTransformer, window=6, **small),
    "trxl": partial(TrXL, mem_len=13, **small),
    "gtrxl": partial(GTrXL, mem_len=7, token_format="sa", **small),
    "rmt": partial(RMT, tokens=Trained, **small),
    "rate": partial(RATE, **cached, **small),
}
cache = MemoryDesign(memory_size=6, joint=True, write=LRU(1.0, copies=True))
VARIANTS: dict[str, Callable[..., SequenceModel]] = {
    "gru, sra": partial(GRU, d_model=16, n_layer=2, token_format="sra"),
    "lstm, sra": partial(LSTM, d_model=16, token_format="sra"),
    "mamba, sra": partial(Mamba, d_model=16, d_state=4, d_ff=32, token_format="sra"),
    "gated_deltanet, sra": partial(GatedDeltaNet, d_model=16, n_head=2, d_ff=0, token_format="sra"),
    "elmur, a cache": partial(ELMUR, memory=cache, **small),
    "elmur, written slots read beside the tokens": partial(ELMUR, memory=MemoryDesign(joint=True), **small),
    "decision_transformer, states alone": partial(DecisionTransformer, window=5, token_format="s", **small),
    "trxl, a cache shorter than a step": partial(TrXL, mem_len=2, token_format="sra", **small),
    "rmt, one token": partial(RMT, tokens=partial(Trained, num_mem_tokens=1), token_format="sr", **small),
    **{f"rate, valve {name}": partial(RATE, valve=valve, **cached, **small) for name, valve in VALVES.items()},
}
# Parts of the names of parameters that get no gradient, as the docstring of the model says.
UNTRAINED: dict[str, tuple[str, ...]] = {}
# The task of a model that does not take every kind of action.
TASK: dict[str, TaskSpec] = {"diffusion_policy": REACH}


# What RATE is made of as well is left to the tests that take minutes.
PARTS = ("decision_transformer", "trxl", "gtrxl", "rmt")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in PARTS)) for name in MODELS])
def test_the_contract(name: str) -> None:
    check_model(MODELS[name], TASK.get(name), UNTRAINED.get(name, ()))


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_the_contract_of_their_variants(name: str) -> None:
    check_model(VARIANTS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rate", "rmt", "trxl"])
def test_models_with_a_cache_or_tokens_take_images(name: str) -> None:
    """Two cameras, as small as the encoder takes them; the contract is as for numbers."""
    cameras = {camera: Image(3, 36, 36) for camera in ("base", "hand")}
    check_model(MODELS[name], TaskSpec("cameras", cameras, REACH.action, horizon=40))


@pytest.mark.parametrize("name", MODELS)
def test_the_state_of_another_model_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By forward and by opening a segment, wherever its tensors are others: nothing tells empty states apart."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # which would say it before the model does
    model, batch, refused = MODELS[name](REACH), random_steps(REACH, 2, 3), 0
    own = [part.shape for part in tensors_of(model.initial_memory(2))]
    for other in MODELS.values():
        state = other(REACH).initial_memory(2)
        if [part.shape for part in tensors_of(state)] == own:
            continue
        for call in (lambda given: model(batch, given), lambda given: model.open_segment(given, batch.start, 3)):
            with pytest.raises(ValueError, match=f"the state is not one of this {type(model).__name__}: expected"):
                call(state)
        refused += 1
    assert refused >= len(MODELS) - 4, "of the same shapes are at most the two of one class, and three without state"
