"""Every model's state as banks: read without loss, changed in its place."""

from __future__ import annotations

import pytest
import torch

from elmur.banks import Bank, banks, map_banks
from elmur.memory import Memory
from elmur.state import tensors_of
from elmur.testing import REACH
from tests.elmur.samples import SPEC, make_model, noise
from tests.elmur.test_models import MODELS


def test_the_banks_of_elmur_are_its_layers_with_their_dates() -> None:
    state = make_model().initial_memory(3, noise())
    found = banks(state)
    assert list(found) == ["layer 0", "layer 1"]
    for bank, memory in zip(found.values(), state, strict=True):
        assert bank.slots is memory.slots and bank.written_at is memory.written_at


@pytest.mark.parametrize("name", MODELS)
def test_a_state_is_its_banks_and_what_is_no_number(name: str) -> None:
    model = MODELS[name](spec=REACH if name == "diffusion_policy" else SPEC)
    state = model.initial_memory(3, noise())
    same = map_banks(lambda _, bank: bank.slots, state)
    for old, new in zip(tensors_of(state), tensors_of(same), strict=True):
        assert torch.equal(old, new)
    doubled = map_banks(lambda _, bank: 2 * bank.slots + 1, state)
    assert type(doubled) is type(state)
    floats = [t for t in tensors_of(state) if (t.is_floating_point() and t.ndim > 1) or t.is_complex()]
    assert sum(bank.slots.numel() for bank in banks(state).values()) == sum(
        t.numel() * (2 if t.is_complex() else 1) for t in floats
    )
    for name_of, bank in banks(doubled).items():
        assert torch.equal(bank.slots, 2 * banks(state)[name_of].slots + 1)
    assert bool(banks(state)) == (name not in ("mlp", "transformer"))


def test_names_say_where_a_bank_is() -> None:
    memory = Memory(torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64))
    state = {"bank": memory, "more": [torch.zeros(2, 5), torch.zeros(2, dtype=torch.int64)]}
    assert {name: list(bank.slots.shape) for name, bank in banks(state).items()} == {
        "bank": [2, 3, 4],
        "more.0": [2, 1, 5],
    }
    assert isinstance(banks(state)["bank"], Bank)


def test_hidden_state_and_cell_are_parts_and_what_layers_hold_is_not() -> None:
    names = {name: list(banks(MODELS[name](spec=SPEC).initial_memory(1, noise()))) for name in ("lstm", "ffm", "mamba")}
    assert names["lstm"] == ["part 0", "part 1"] and names["ffm"] == ["layer 0"]
    assert names["mamba"][:2] == ["layer 0.window", "layer 0.space"]
