"""What a model carries, as banks of slots by name: every model's state read, and changed, in one way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from elmur.memory import Memory

State = TypeVar("State")


@dataclass
class Bank:
    """One bank: `slots [B, M, D]`, and the step of each slot's last write (-1: never) where the model dates them."""

    slots: Float[Tensor, "B M D"]
    written_at: Int[Tensor, "B M"] | None = None


def map_banks(function: Callable[[str, Bank], Tensor], state: State) -> State:
    """The state with the slots `[B, M, D]` that `function(name, bank)` gives in place of each bank's.

    An ELMUR `Memory` is a bank with dates. Any other tensor `[B, ..., D]` of floating numbers is one without, what lies
    between its lanes and its width counting as slots, and a complex number as two. Names are the fields and numbers on
    the way to it; the numbers of the outermost tuple are layers, and parts where it has several bare tensors of real
    numbers, such as an LSTM's hidden state and cell. Whatever else the state has stays.
    """

    def visit(node: Any, path: tuple[str, ...]) -> Any:
        name = ".".join(path) or "state"
        if isinstance(node, Memory):
            return Memory(function(name, Bank(node.slots, node.written_at)), node.written_at)
        if isinstance(node, Tensor):
            if node.is_complex():
                real = visit(torch.view_as_real(node).flatten(-2), path)
                return torch.view_as_complex(real.unflatten(-1, (-1, 2)).contiguous())
            if not node.is_floating_point() or node.ndim < 2:
                return node
            flat = node.reshape(node.shape[0], -1, node.shape[-1])
            return function(name, Bank(flat)).reshape(node.shape)
        if isinstance(node, list | tuple):
            are_parts = len(node) > 1 and all(isinstance(p, Tensor) and not p.is_complex() for p in node)
            kind = "" if path else "part " if are_parts else "layer "
            return type(node)(visit(part, (*path, f"{kind}{i}")) for i, part in enumerate(node))
        if isinstance(node, dict):
            return {key: visit(part, (*path, str(key))) for key, part in node.items()}
        if is_dataclass(node) and not isinstance(node, type):
            return type(node)(**{f.name: visit(getattr(node, f.name), (*path, f.name)) for f in fields(node)})
        return node

    return visit(state, ())


def banks(state: Any) -> dict[str, Bank]:
    """Every bank of a state by its name; none of a model without memory."""
    found: dict[str, Bank] = {}

    def note(name: str, bank: Bank) -> Tensor:
        found[name] = bank
        return bank.slots

    map_banks(note, state)
    return {name: bank for name, bank in found.items() if bank.slots.shape[1]}
