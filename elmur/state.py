"""Functions over a model's state: nested tuples, lists, dicts and dataclasses of tensors, lane first.

What a model carries from segment to segment (and what it holds while a segment is open) is such a nest, so that
resetting, detaching and picking lanes is written once, for every model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

State = TypeVar("State")
HALF = (torch.bfloat16, torch.float16)


def map_state(function: Callable[..., Tensor], state: State, *others: State) -> State:
    """The nest of `function(tensor, *tensors_at_the_same_place)`; whatever is not a tensor is kept as it is."""

    def visit(node: Any, *rest: Any) -> Any:
        if isinstance(node, Tensor):
            return function(node, *rest)
        if isinstance(node, list | tuple):
            return type(node)(visit(*items) for items in zip(node, *rest, strict=True))
        if isinstance(node, dict):
            return {key: visit(value, *(other[key] for other in rest)) for key, value in node.items()}
        if is_dataclass(node) and not isinstance(node, type):
            names = [f.name for f in fields(node)]
            return type(node)(**{name: visit(*(getattr(n, name) for n in (node, *rest))) for name in names})
        return node

    result: State = visit(state, *others)
    return result


def detach(state: State) -> State:
    """The same state cut off from the graph that made it: the truncation point of back-propagation through time."""
    return map_state(Tensor.detach, state)


def reset(state: State, fresh: State, is_first: Bool[Tensor, " B"]) -> State:
    """`fresh` in the lanes where an episode begins, `state` in the others; by mask, never by control flow."""

    def pick(old: Tensor, new: Tensor) -> Tensor:
        return torch.where(is_first.view(-1, *[1] * (old.ndim - 1)), new, old)

    return map_state(pick, state, fresh)


def take_lanes(state: State, lanes: Int[Tensor, " n"]) -> State:
    """The state of some lanes, in the order given; a tensor whose first dimension is 1 is shared by all lanes."""
    return map_state(lambda tensor: tensor if tensor.shape[0] == 1 else tensor.index_select(0, lanes), state)


def join_lanes(states: list[State]) -> State:
    """The lanes of several states, one after another."""
    return map_state(lambda *tensors: torch.cat(tensors), *states)


def tensors_of(state: Any) -> list[Tensor]:
    """The tensors of a state in a fixed order, as a checkpoint keeps them."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_state(note, state)
    return found


def lane_of(state: Any) -> str:
    """What a state is, in short: its nest with the shape of each tensor's lane; the same for all of a model."""
    if isinstance(state, Tensor):
        return str(list(state.shape[1:]))
    if isinstance(state, list | tuple):
        return f"({', '.join(map(lane_of, state))})"
    if isinstance(state, dict):
        return f"{{{', '.join(f'{key}: {lane_of(value)}' for key, value in state.items())}}}"
    if is_dataclass(state) and not isinstance(state, type):
        return type(state).__name__ + lane_of(tuple(getattr(state, f.name) for f in fields(state)))
    return type(state).__name__


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """What tensors take in memory."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def with_tensors(template: State, tensors: list[Tensor]) -> State:
    """A state built like `template`, on its devices, that holds `tensors`. Raises ValueError where they do not fit."""
    old = tensors_of(template)
    if [t.shape[1:] for t in old] != [t.shape[1:] for t in tensors]:
        shapes = [list(t.shape[1:]) for t in old], [list(t.shape[1:]) for t in tensors]
        raise ValueError(f"the saved memory does not fit the model: expected {shapes[0]} per lane, found {shapes[1]}")
    remaining = iter(tensors)
    return map_state(lambda tensor: next(remaining).to(tensor.device), template)


def packed(state: Any) -> Any:
    """A copy of a state that any format can keep: lists and dictionaries of tensors on the CPU, and plain values.

    Half precision becomes float32, which holds the same numbers. Raises TypeError for anything else in the nest.
    """
    if isinstance(state, Tensor):
        return state.detach().to("cpu", torch.float32 if state.dtype in HALF else state.dtype, copy=True)
    if isinstance(state, list | tuple):
        return [packed(value) for value in state]
    if isinstance(state, dict):
        return {key: packed(value) for key, value in state.items()}
    if is_dataclass(state) and not isinstance(state, type):
        return {f.name: packed(getattr(state, f.name)) for f in fields(state)}
    if state is None or isinstance(state, bool | int | float | str):
        return state
    raise TypeError(f"a {type(state).__name__} cannot be part of a state that is saved")


def unpacked(template: State, saved: Any, device: torch.device) -> State:
    """What `packed` was given, built like `template`: a state of the same model, whose tensors may have other sizes."""

    def visit(node: Any, value: Any) -> Any:
        if value is None:  # what a state may have and this one had not
            return None
        if isinstance(value, Tensor | np.ndarray):
            dtype = node.dtype if isinstance(node, Tensor) and node.dtype in HALF else None
            return torch.as_tensor(value).to(device, dtype, copy=True)
        if isinstance(node, list | tuple):
            return type(node)(visit(*pair) for pair in zip(node, value, strict=True))
        if isinstance(node, dict):
            return {key: visit(node.get(key), kept) for key, kept in value.items()}
        if is_dataclass(node) and not isinstance(node, type):
            return type(node)(**{f.name: visit(getattr(node, f.name), value[f.name]) for f in fields(node)})
        return value

    result: State = visit(template, saved)
    return result
