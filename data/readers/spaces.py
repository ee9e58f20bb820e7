"""Gymnasium's spaces as Minari writes them down in JSON: the parts of a task, and where their arrays lie.

The rules are those by which an environment's spaces become its task (envs/spaces.py), so that data and env agree.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.readers import ReadError
from data.shard import Array
from elmur.spec import Discrete, Field, Image, Vector

MOST_CHOICES = 4096  # of an action that is made of several: their combinations are one choice
MOST_NUMBERS = 1 << 28  # of one observation
SMALLEST_JPEG = 32  # pixels of a side from which Minari compresses pictures
CARRIED = "Box, Discrete, MultiDiscrete and MultiBinary, and Dict and Tuple of them"


@dataclass(frozen=True)
class Leaf:
    """A space that is not nested: its name as a part, the keys and places that lead to it, and what it says."""

    name: str
    path: tuple[str | int, ...]
    space: Mapping[str, Any]

    @property
    def kind(self) -> str:
        return str(self.space["type"])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one value: () of a single choice."""
        if self.kind == "Discrete":
            return ()
        if self.kind == "MultiDiscrete":
            return np.shape(self.space["nvec"])
        n = self.space["n"] if self.kind == "MultiBinary" else self.space["shape"]
        return tuple(int(size) for size in (n if isinstance(n, list) else [n]))

    @property
    def is_jpeg(self) -> bool:
        """Whether Minari compresses it where it compresses pictures."""
        return self.kind == "Box" and _is_bytes(self) and min(self.shape[:2]) >= SMALLEST_JPEG

    def choices(self) -> tuple[tuple[int, ...], Array] | None:
        """The sizes of all components, and the smallest value of each; None of numbers."""
        if self.kind == "Discrete":
            return (int(self.space["n"]),), np.array([int(self.space.get("start", 0))])
        if self.kind == "MultiDiscrete":
            sizes = np.asarray(self.space["nvec"]).ravel()
            first = np.broadcast_to(np.asarray(self.space.get("start", 0)), np.shape(self.space["nvec"])).ravel()
            return tuple(int(size) for size in sizes), first
        if self.kind == "MultiBinary":
            size = math.prod(self.shape)
            return (2,) * size, np.zeros(size, np.int64)
        return None

    def field(self) -> Field:
        """What it is in a task."""
        choices = self.choices()
        if choices is not None:
            return Discrete(choices[0])
        order = _picture_order(self)
        if order is not None:
            whole = (*self.shape, 1)[:3]
            return Image(*(whole[axis] for axis in order))
        return _vector(self)

    def stored(self, values: Array) -> Array:
        """Values [T, ...] of the space as a task's column has them."""
        if len(values) and values.shape[1:] != self.shape:
            raise ReadError(f"{self.name}: found rows of shape {list(values.shape[1:])}, expected {list(self.shape)}")
        choices, order = self.choices(), _picture_order(self)
        if choices is not None:
            whole: Array = values.reshape(len(values), -1).astype(np.int64)
            return whole - choices[1]
        if order is not None:
            return np.transpose(values.reshape(len(values), *(*self.shape, 1)[:3]), (0, *(axis + 1 for axis in order)))
        return values.reshape(len(values), -1)


def leaves(space: Any, without: tuple[str, ...] = ()) -> list[Leaf]:
    """The parts of an observation, named as those of an environment. Raises ReadError for what cannot be carried.

    Nested ones are named by their keys, joined by `_`; a single one is "observation". without: names to leave out.
    """
    found = [leaf for leaf in _leaves(space, ()) if leaf.name not in without]
    for leaf in found:
        _check(leaf)
    names = [leaf.name for leaf in found]
    if not found or len(set(names)) < len(names):
        raise ReadError(f"observation_space: found the parts {', '.join(names) or 'none'}, expected one or more names")
    return found


def action_leaf(space: Any) -> Leaf:
    """The action. Raises ReadError for what cannot be carried."""
    leaf = Leaf("action", (), _described(space))
    _check(leaf)
    choices = leaf.choices()
    if choices is not None and math.prod(choices[0]) > MOST_CHOICES:
        found = f"{math.prod(choices[0]):,} combinations of {leaf.kind}"
        raise ReadError(f"action_space: found {found}, expected at most {MOST_CHOICES:,}")
    return leaf


def action_field(leaf: Leaf) -> Discrete | Vector:
    """What the action is in a task: several choices are one among their combinations, the last fastest."""
    choices = leaf.choices()
    return _vector(leaf) if choices is None else Discrete((math.prod(choices[0]),))


def stored_action(leaf: Leaf, values: Array) -> Array:
    """Actions [T, ...] as a task's column has them. Raises ReadError for a choice that is none."""
    choices = leaf.choices()
    if choices is None:
        return values.reshape(len(values), -1)
    sizes, first = choices
    parts = values.reshape(len(values), -1).astype(np.int64) - first
    if parts.shape[1] != len(sizes) or (parts < 0).any() or (parts >= np.array(sizes)).any():
        raise ReadError(f"actions: found values outside {leaf.kind} {list(sizes)} from {first.tolist()}")
    number: Array = np.asarray(np.ravel_multi_index(tuple(parts.T), sizes), np.int64)
    return number


def _leaves(space: Any, path: tuple[str | int, ...]) -> Iterator[Leaf]:
    space = _described(space)
    inner = space.get("subspaces")
    if space["type"] in ("Dict", "Tuple") and isinstance(inner, dict | list):
        for key, part in inner.items() if isinstance(inner, dict) else enumerate(inner):
            yield from _leaves(part, (*path, key))
        return
    words = [f"part{key}" if isinstance(key, int) else re.sub(r"\W", "_", str(key), flags=re.ASCII) for key in path]
    yield Leaf("_".join(words) or "observation", path, space)


def _described(space: Any) -> Mapping[str, Any]:
    if not isinstance(space, dict) or not isinstance(space.get("type"), str):
        raise ReadError(f"space: found {str(space)[:60]}, expected one in JSON, with its type")
    return space


def _check(leaf: Leaf) -> None:
    """Raises ReadError for a space that is not carried, or does not say what it has to."""
    if leaf.kind not in ("Box", "Discrete", "MultiDiscrete", "MultiBinary"):
        raise ReadError(
            f"{leaf.name}: found the space {leaf.kind}, expected {CARRIED}; leave it out, reader.without=[{leaf.name}]"
        )
    try:
        if not 0 < math.prod(leaf.shape) <= MOST_NUMBERS:
            raise ValueError(f"a shape of {list(leaf.shape)}")
        (action_field if leaf.name == "action" else Leaf.field)(leaf)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ReadError(f"{leaf.name}: found a {leaf.kind} without its {' '.join(str(error).split())}") from error


def _is_bytes(leaf: Leaf) -> bool:
    space = leaf.space
    ends = all((np.asarray(space[key]) == end).all() for key, end in (("low", 0), ("high", 255)))
    return bool(space["dtype"] == "uint8" and ends and len(leaf.shape) in (2, 3))


def _picture_order(leaf: Leaf) -> tuple[int, int, int] | None:
    """The axes in the order channels, height, width of bytes in 2 or 3 dimensions: the shorter end has the channels."""
    if leaf.kind != "Box" or not _is_bytes(leaf):
        return None
    return (0, 1, 2) if len(leaf.shape) == 3 and leaf.shape[0] < leaf.shape[-1] else (2, 0, 1)


def _vector(leaf: Leaf) -> Vector:
    size = math.prod(leaf.shape)
    ends = [np.broadcast_to(np.asarray(leaf.space[key], np.float32), leaf.shape).ravel() for key in ("low", "high")]
    if not np.isfinite(ends).all():
        return Vector(size)
    low, high = (tuple(end.tolist()) for end in ends)
    return Vector(size, low, high)
