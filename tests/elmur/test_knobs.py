"""No knob without an effect: each is turned, and what the model computes or how many numbers it learns must change.

Knobs are read from the signatures, so a new one without a case here fails `test_every_knob_has_a_case`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch

from elmur import feedforward, memory, moe, positional, residual
from elmur.baselines.ffm import FFM
from elmur.baselines.gated_deltanet import GatedDeltaNet
from elmur.baselines.mamba import Mamba
from elmur.baselines.mlp import MLPPolicy
from elmur.baselines.recurrent import GRU, LSTM
from elmur.baselines.shm import SHM
from elmur.clock import EpisodeClock
from elmur.encoders import ObservationEncoder
from elmur.feedforward import MLP, SwiGLU
from elmur.memory import LRU, ReplaceAll
from elmur.memory_bias import MemoryBias
from elmur.model import ELMUR, MemoryDesign
from elmur.moe import MixtureOfExperts
from elmur.positional import Alibi, Learnable, Position, Relative, Rope, Sinusoidal, Yarn
from elmur.published import quirks
from elmur.published.quirks import Mirrored, PublishedRelative
from elmur.residual import Gated, PostNorm, PreNorm, Residual
from elmur.sequence_model import SequenceModel
from elmur.tokens import TokenFormat
from tests.elmur.samples import SPEC, make_batch, noise

SMALL: dict[str, Any] = {"d_model": 32, "n_layer": 2, "n_head": 2, "dropout": 0.1, "dropatt": 0.1}


class Louder(ObservationEncoder):
    """An encoder of one's own."""

    def forward(self, observation: dict[str, torch.Tensor]) -> torch.Tensor:
        return 2 * super().forward(observation)


experts = partial(MixtureOfExperts, num_experts=4, top_k=3, routed_d_ff=8, shared_d_ff=16)
design = partial(MemoryDesign, memory_size=2, memory_init_std=1.0)


def elmur(**knobs: Any) -> SequenceModel:
    return ELMUR(SPEC, **{**SMALL, "memory": design(), **knobs})


def as_part(key: str, kind: type) -> Callable[..., SequenceModel]:
    """Builds an ELMUR with a part of this kind, from the part's knobs."""
    return lambda **knobs: elmur(**{key: partial(kind, **knobs)})


def as_recurrent(kind: type[GRU] | type[LSTM]) -> Callable[..., SequenceModel]:
    """Builds a small one of two layers."""
    return lambda **knobs: kind(SPEC, **{"d_model": 16, "n_layer": 2, **knobs})


POSITIONS = (Relative, PublishedRelative, Rope, Yarn, Alibi, Sinusoidal, Learnable)
# How an object of each class comes into a model.
MODELS: dict[type, Callable[..., SequenceModel]] = {
    ELMUR: elmur,
    **{kind: as_recurrent(kind) for kind in (GRU, LSTM)},
    MLPPolicy: lambda **knobs: MLPPolicy(SPEC, **{"d_model": 16, "hidden": (8, 8), **knobs}),
    Mamba: lambda **knobs: Mamba(SPEC, **{"d_model": 16, "d_state": 4, **knobs}),
    GatedDeltaNet: lambda **knobs: GatedDeltaNet(SPEC, **{"d_model": 16, "n_head": 2, "d_ff": 8, **knobs}),
    FFM: lambda **knobs: FFM(SPEC, **{"d_model": 16, "memory_size": 4, "context_size": 3, **knobs}),
    SHM: lambda **knobs: SHM(SPEC, **{"d_model": 16, "memory_size": 4, "rows": 8, **knobs}),
    MemoryDesign: lambda **knobs: elmur(memory=design(**knobs)),
    LRU: lambda **knobs: elmur(memory=design(write=LRU(**knobs)), feedforward=experts),
    ReplaceAll: lambda **knobs: elmur(memory=design(write=ReplaceAll(**knobs))),
    MemoryBias: lambda **knobs: elmur(memory=design(bias=partial(MemoryBias, **knobs))),
    **{kind: as_part("position", kind) for kind in POSITIONS},
    **{kind: as_part("feedforward", kind) for kind in (MLP, SwiGLU, MixtureOfExperts)},
    **{kind: as_part("residual", kind) for kind in (PreNorm, PostNorm, Gated)},
}
# Given by the model to its parts, not turned by a user at the part.
GIVEN = {"spec", "d_model", "n_head", "d_head", "dropout"}

tokens = {"d_model": (16, 32), "dropout": (0.0, 0.5), "token_format": ("s", "sra")}
norms = {"norm_type": ("layer", "rmsnorm"), "eps": (1e-5, 0.1)}
# Every knob and two settings of it, or of it and those it needs.
TURNS: dict[type, dict[str, tuple[Any, Any]]] = {
    ELMUR: {
        "d_model": (16, 32), "n_layer": (1, 2), "n_head": (2, 4), "dropout": (0.0, 0.5), "dropatt": (0.0, 0.5),
        "token_format": ("s", "sa"), "position": (Relative, Rope), "feedforward": (MLP, SwiGLU),
        "residual": (PostNorm, PreNorm), "memory": (None, MemoryDesign()),
    },
    **{kind: {**tokens, "n_layer": (1, 2), "hidden": (None, 8), "observation": (None, Louder)} for kind in (GRU, LSTM)},
    MLPPolicy: {**tokens, "hidden": ((8, 8), (8, 4)), "token_format": ("s", TokenFormat("s", Louder))},
    Mamba: {
        **tokens, "n_layer": (1, 2), "d_state": (4, 8), "d_conv": (4, 2), "expand": (2, 1), "d_ff": (0, 8),
        "norm_type": ("layer", "rmsnorm"),
    },
    GatedDeltaNet: {**tokens, "n_layer": (1, 2), "n_head": (2, 4), "d_conv": (4, 2), "d_ff": (8, 0)},
    FFM: {**tokens, "memory_size": (4, 8), "context_size": (3, 2), "max_period": (1024, 100)},
    SHM: {**tokens, "memory_size": (4, 8), "rows": (8, 4)},
    MemoryDesign: {
        "memory_size": (2, 3), "memory_init_std": (0.0, 1.0), "memory_dropout": (0.0, 0.5), "read": (True, False),
        "read_unwritten": (True, False),
        "write": (LRU(), None), "bias": (MemoryBias, None), "steps": (MemoryDesign().steps, Mirrored()),
        "clock": (None, EpisodeClock),
        "shared": (False, True), "joint": (False, True),
    },
    LRU: {
        "lru_blend_alpha": (1.0, 0.5), "slots_per_write": (1, 2),
        "divide_segment": ({"slots_per_write": 2}, {"slots_per_write": 2, "divide_segment": True}),
        "copies": (False, True),
    },
    MemoryBias: {"max_seq_len": (1024, 4), "init_std": (0.02, 1.0), "gain": (1.0, 10.0)},
    Rope: {"base": (1e4, 1e2)},
    Yarn: {
        "base": (1e4, 1e2), "factor": (4.0, 8.0), "max_seq_len": (1024, 64), "beta_fast": (32.0, 8.0),
        "beta_slow": (1.0, 4.0),
    },
    Learnable: {"max_seq_len": (64, 128)},
    MLP: {"d_ff": (16, 32), "activation": ("gelu", "relu")},
    SwiGLU: {"d_ff": (16, 32)},
    MixtureOfExperts: {
        "num_experts": (2, 3), "top_k": ({"num_experts": 3, "top_k": 2}, {"num_experts": 3, "top_k": 3}),
        "n_shared_experts": (1, 2), "routed_d_ff": (8, 16), "shared_d_ff": (8, 16),
        "load_balancing_loss_coef": (0.01, 0.1),
    },
    PreNorm: norms,
    PostNorm: norms,
    Gated: {**norms, "bias": (2.0, 0.0)},
}  # fmt: skip
CASES = [(kind, knob) for kind, knobs in TURNS.items() for knob in knobs]


def knobs_of(kind: type) -> set[str]:
    """The parameters of its constructor, less what is given."""
    own = {"spec"} if issubclass(kind, SequenceModel) else GIVEN
    return set(inspect.signature(kind).parameters) - own


def defined_in(module: ModuleType, test: Callable[[type], bool]) -> set[type]:
    return {c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__ and test(c)}


def computed(model: SequenceModel) -> list[torch.Tensor]:
    """How many numbers are learned, then all that four segments in training give, with seeded dropout."""
    model.double().train()
    state = model.initial_memory(2, noise())
    found = [torch.tensor(model.num_parameters())]
    torch.manual_seed(1)
    for k in range(4):
        output, state = model(make_batch(2, 5, 5 * k, seed=k), state)
        found.append(output.prediction)
        if output.balance_loss is not None:
            found.append(output.balance_loss)
    return found


def differ(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return len(left) != len(right) or any(
        a.shape != b.shape or bool((a.double() - b.double()).abs().max() > 1e-9)
        for a, b in zip(left, right, strict=True)
    )


def turned(kind: type, knob: str, setting: Any) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return computed(MODELS[kind](**(setting if isinstance(setting, dict) else {knob: setting})))


@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_every_knob_has_a_case(kind: type) -> None:
    assert knobs_of(kind) == set(TURNS.get(kind, {}))


def test_every_part_has_its_knobs_looked_at() -> None:
    parts = (
        defined_in(positional, lambda c: issubclass(c, Position)) - {Position}
        | defined_in(residual, lambda c: issubclass(c, Residual)) - {Residual}
        | defined_in(memory, lambda c: hasattr(c, "commit")) - {memory.WriteRule}
        | defined_in(quirks, lambda c: issubclass(c, Position))
        | defined_in(feedforward, lambda c: issubclass(c, torch.nn.Module))
        | defined_in(moe, lambda c: issubclass(c, torch.nn.Module))
    )
    assert len(parts) == 15
    assert parts <= set(MODELS)


@pytest.mark.parametrize(("kind", "knob"), CASES, ids=lambda value: value if isinstance(value, str) else value.__name__)
def test_turning_a_knob_is_seen(kind: type, knob: str) -> None:
    here, there = TURNS[kind][knob]
    before = turned(kind, knob, here)
    assert not differ(before, turned(kind, knob, here)), "the same setting gives the same: what differs is the knob"
    assert differ(before, turned(kind, knob, there))


def test_positions_differ_from_each_other() -> None:
    kinds = sorted(defined_in(positional, lambda c: issubclass(c, Position)) - {Position}, key=lambda c: c.__name__)
    found = [turned(kind, "", {}) for kind in kinds]
    for i in range(len(kinds)):
        for j in range(i):
            assert differ(found[i], found[j]), (kinds[i], kinds[j])
