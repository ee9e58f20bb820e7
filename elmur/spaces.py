"""Gymnasium's spaces as the fields of a task: one set of rules for what an environment shows and for what data hold.

A space is described by plain values, as Minari writes it down in JSON: its `type`, and what that needs (`shape`,
`dtype`, `low`, `high`, `n`, `nvec`, `start`, `subspaces`). Gymnasium itself is not needed here. `Spaces` goes between
an environment's own values and those of its task.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from elmur.spec import Discrete, Field, Image, TaskSpec, Vector

Array = npt.NDArray[Any]
MOST_CHOICES = 4096  # of an action that is made of several: their combinations are one choice
MOST_NUMBERS = 1 << 28  # of one observation
CARRIED = ("Box", "Discrete", "MultiDiscrete", "MultiBinary")  # and Dict and Tuple of them


class SpaceError(ValueError):
    """A space that cannot be carried; the message names it and what to do."""


@dataclass(frozen=True)
class Leaf:
    """A space that is not nested: its name as a part, the keys and places that lead to it, and what it says."""

    name: str
    path: tuple[str | int, ...]
    space: Mapping[str, Any]

    @property
    def kind(self) -> str:
        return str(self.space["type"])

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of one value: () of a single choice."""
        if self.kind == "Discrete":
            return ()
        if self.kind == "MultiDiscrete":
            return np.shape(self.space["nvec"])
        n = self.space["n"] if self.kind == "MultiBinary" else self.space["shape"]
        return tuple(int(size) for size in (n if isinstance(n, list | tuple) else [n]))

    @cached_property
    def choices(self) -> tuple[tuple[int, ...], Array] | None:
        """The sizes of all components, and the smallest value of each; None of numbers."""
        if self.kind == "Box":
            return None
        sizes: Any = [2] * math.prod(self.shape)
        if self.kind != "MultiBinary":
            sizes = np.ravel(self.space["nvec" if self.kind == "MultiDiscrete" else "n"])
        first: Array = np.ravel(np.broadcast_to(np.asarray(self.space.get("start", 0)), self.shape))
        return tuple(int(size) for size in sizes), first

    @cached_property
    def is_bytes(self) -> bool:
        """Whether it is a picture: bytes from 0 to 255 in 2 or 3 dimensions."""
        if self.kind != "Box" or self.space["dtype"] != "uint8" or len(self.shape) not in (2, 3):
            return False
        return all(bool((np.asarray(self.space[key]) == end).all()) for key, end in (("low", 0), ("high", 255)))

    @property
    def picture_order(self) -> tuple[int, int, int]:
        """The axes of a picture in the order channels, height, width.

        The channels are the shorter one of the first axis and the last, the last where both are as long.
        """
        return (0, 1, 2) if len(self.shape) == 3 and self.shape[0] < self.shape[-1] else (2, 0, 1)

    @cached_property
    def field(self) -> Field:
        """What it is in a task."""
        if self.choices is not None:
            return Discrete(self.choices[0])
        if self.is_bytes:
            return Image(*((*self.shape, 1)[axis] for axis in self.picture_order))
        return self._vector(*self._ends())

    @cached_property
    def action_field(self) -> Discrete | Vector:
        """What it is as an action: several choices are one among their combinations, the last fastest."""
        if self.choices is not None:
            return Discrete((math.prod(self.choices[0]),))
        low, high = self._ends()
        with np.errstate(over="ignore", invalid="ignore"):
            is_reached = np.isfinite(high - low).all()  # bounds further apart than float32 can tell bound nothing
        return self._vector(low, high) if is_reached else Vector(math.prod(self.shape))

    def _ends(self) -> tuple[Array, Array]:
        """The bounds of every number in float32."""
        with np.errstate(over="ignore"):
            low, high = (np.asarray(self.space[key], np.float32) for key in ("low", "high"))
        return np.broadcast_to(low, self.shape).ravel(), np.broadcast_to(high, self.shape).ravel()

    def _vector(self, low: Array, high: Array) -> Vector:
        """All numbers as one vector, with its bounds where all are finite."""
        bounds = (tuple(low.tolist()), tuple(high.tolist())) if np.isfinite([low, high]).all() else (None, None)
        return Vector(math.prod(self.shape), *bounds)

    def stored(self, values: Array) -> Array:
        """Values [T, ...] of the space as a task's column has them. Raises SpaceError where their shape differs."""
        if len(values) and values.shape[1:] != self.shape:
            raise SpaceError(f"{self.name}: found rows of shape {list(values.shape[1:])}, expected {list(self.shape)}")
        if self.choices is not None:
            whole: Array = values.reshape(len(values), -1).astype(np.int64)
            return whole - self.choices[1]
        if self.is_bytes:
            pixels = values.reshape(len(values), *(*self.shape, 1)[:3])
            return np.transpose(pixels, (0, *(axis + 1 for axis in self.picture_order)))
        return values.reshape(len(values), -1)

    def of(self, observation: Any) -> Array:
        """This part of one observation, of the field's shape."""
        for key in self.path:
            observation = observation[key]
        return self.stored(np.asarray(observation)[None])[0]

    def stored_action(self, values: Array) -> Array:
        """Actions [T, ...] as a task's column has them. Raises SpaceError for a choice that is none."""
        if self.choices is None:
            return values.reshape(len(values), -1)
        sizes, first = self.choices
        parts = values.reshape(len(values), -1).astype(np.int64) - first
        if parts.shape[1] != len(sizes) or (parts < 0).any() or (parts >= np.array(sizes)).any():
            raise SpaceError(f"actions: found values outside {self.kind} {list(sizes)} from {first.tolist()}")
        return np.asarray(np.ravel_multi_index(tuple(parts.T), sizes), np.int64)

    def given(self, chosen: Array) -> Array:
        """Actions of a task, [N] or [N, A], as values of the space; numbers are moved into its bounds."""
        if self.choices is not None:
            sizes, first = self.choices
            parts = np.stack(np.unravel_index(chosen.astype(np.int64), sizes), axis=-1) + first
            return np.asarray(parts.reshape(len(chosen), *self.shape))
        values, kind = chosen.reshape(len(chosen), *self.shape), np.dtype(self.space["dtype"])
        values = np.rint(values) if kind.kind in "iu" else values
        return np.asarray(values.clip(self.space["low"], self.space["high"]).astype(kind))


class Spaces:
    """Between an environment's own values and those of its task, `spec`, which a policy sees and chooses.

        spaces = Spaces("FrozenLake-v1", env.single_observation_space, env.single_action_space)
        action = spaces.given(policy.act(spaces.seen(observation), is_first))

    observation, action: Gymnasium's spaces of one environment. All values have a first axis, of environments or steps.
    without: parts of the observation to leave out; option: how errors call it. Raises SpaceError.
    """

    def __init__(
        self,
        name: str,
        observation: Any,
        action: Any,
        without: Sequence[str] = (),
        horizon: int | None = None,
        option: str = "without",
    ) -> None:
        self.parts = leaves(described(observation), tuple(without), option)
        self.action = action_leaf(described(action))
        self.spec = TaskSpec(name, {part.name: part.field for part in self.parts}, self.action.action_field, horizon)

    def seen(self, observation: Any) -> dict[str, Array]:
        """The parts of observations [N, ...], each [N, *shape] in the type that a policy reads."""
        found: dict[str, Array] = {}
        for part in self.parts:
            values = observation
            for key in part.path:
                values = values[key]
            stored = part.stored(np.asarray(values))
            found[part.name] = stored.astype(np.float32) if isinstance(part.field, Vector) else stored
        return found

    def given(self, chosen: Array) -> Array:
        """What a policy chose, [N] or [N, A], as actions of the environments."""
        return self.action.given(np.asarray(chosen))


def described(space: Any) -> Any:
    """A space of Gymnasium as plain values; of a kind that cannot be carried, what it is called."""
    if isinstance(space, dict):  # it is described already
        return space
    kinds = [kind.__name__ for kind in type(space).__mro__ if kind.__module__.startswith("gymnasium.spaces")]
    kind = kinds[0] if kinds else ""
    if kind == "Dict":
        return {"type": kind, "subspaces": {key: described(part) for key, part in space.spaces.items()}}
    if kind == "Tuple":
        return {"type": kind, "subspaces": [described(part) for part in space.spaces]}
    if kind == "MultiBinary":
        return {"type": kind, "n": space.shape}
    if told := {"Box": ("low", "high"), "Discrete": ("n", "start"), "MultiDiscrete": ("nvec", "start")}.get(kind):
        return {
            "type": kind,
            "shape": space.shape,
            "dtype": str(space.dtype),
            **{of: getattr(space, of) for of in told},
        }
    text = f"{type(space).__name__} {space}" if type(space).__name__ not in str(space) else str(space)
    return {"type": text if len(text) <= 80 else text[:77] + "..."}


def leaves(space: Any, without: tuple[str, ...] = (), option: str = "without") -> list[Leaf]:
    """The parts of an observation, in the space's order.

    Nested ones are named by their keys, joined by `_`; a single one is "observation". without: names to leave out, by
    an option that errors call so. Raises SpaceError for a name that is not there, and for what cannot be carried.
    """
    found = list(_leaves(space, ()))
    names = [leaf.name for leaf in found]
    if unknown := [name for name in without if name not in names]:
        raise SpaceError(f"without: the observation has no part {unknown[0]!r}; it has {', '.join(names)}")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise SpaceError(f"observation: two parts are called {twice!r} here; rename one by a wrapper")
    kept = [leaf for leaf in found if leaf.name not in without]
    if not kept:
        raise SpaceError(f"without: at least one part must stay of {', '.join(names) or 'none'}")
    for leaf in kept:
        _check(leaf, f"observation {leaf.name!r}", "field", f"leave it out, {option}=[{leaf.name}], or change it by")
    return kept


def action_leaf(space: Any) -> Leaf:
    """The action. Raises SpaceError for what cannot be carried."""
    leaf = Leaf("action", (), _described(space))
    _check(leaf, "action", "action_field", "change it by")
    number = math.prod(leaf.choices[0]) if leaf.choices else 1
    if number > MOST_CHOICES:
        raise SpaceError(
            f"action: found {number:,} combinations of {leaf.kind}, of which a policy chooses one; at most "
            f"{MOST_CHOICES:,} can be carried, leave some out by a wrapper"
        )
    return leaf


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
        raise SpaceError(f"space: found {str(space)[:60]}, expected a description, with its type")
    return space


def _check(leaf: Leaf, what: str, field: str, advice: str) -> None:
    """Raises SpaceError for a space that is not carried, or does not say what it has to."""
    if leaf.kind not in CARRIED:
        raise SpaceError(f"{what}: {leaf.kind} cannot be carried, {', '.join(CARRIED)} can; {advice} a wrapper")
    try:
        size = math.prod(leaf.shape)
        if size > MOST_NUMBERS or min(leaf.shape, default=0) < 0:
            raise ValueError(f"a shape of {list(leaf.shape)}")
        if size:
            getattr(leaf, field)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise SpaceError(f"{what}: found a {leaf.kind} without its {' '.join(str(error).split())}") from error
    if not size:
        raise SpaceError(f"{what}: a {leaf.kind} of shape {list(leaf.shape)} holds no number; {advice} a wrapper")
