"""Gymnasium's own spaces: described for `elmur.spaces`, made of a field, and what an environment takes as an action."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from elmur.spaces import Leaf, SpaceError, action_leaf, leaves
from elmur.spec import Discrete, Field, Image, Vector

__all__ = ["Action", "SpaceError", "action_of", "described", "parts_of", "space_of"]


def described(space: spaces.Space[Any]) -> dict[str, Any]:
    """A space as plain values; of a kind that cannot be carried, what it is called."""
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "subspaces": {key: described(part) for key, part in space.spaces.items()}}
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "subspaces": [described(part) for part in space.spaces]}
    if isinstance(space, spaces.Box):
        outline = {"shape": space.shape, "dtype": str(space.dtype)}
        return {"type": "Box", **outline, "low": space.low, "high": space.high}
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": space.n, "start": space.start}
    if isinstance(space, spaces.MultiDiscrete):
        return {"type": "MultiDiscrete", "nvec": space.nvec, "start": space.start}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": space.shape}
    text = f"{type(space).__name__} {space}" if type(space).__name__ not in str(space) else str(space)
    return {"type": text if len(text) <= 80 else text[:77] + "..."}


def space_of(field: Field) -> spaces.Space[Any]:
    """The Gymnasium space of a part."""
    if isinstance(field, Discrete):
        return spaces.MultiDiscrete(list(field.sizes))
    if isinstance(field, Image):
        return spaces.Box(0, 255, field.shape, np.uint8)
    low, high = (-np.inf, np.inf) if field.low is None or field.high is None else (field.low, field.high)
    return spaces.Box(np.float32(np.broadcast_to(low, field.size)), np.float32(np.broadcast_to(high, field.size)))


def parts_of(space: spaces.Space[Any], without: Sequence[str] = ()) -> list[Leaf]:
    """The parts of an observation, each read by `of`; see `elmur.spaces.leaves`."""
    return leaves(described(space), tuple(without), "env.make.without")


@dataclass(frozen=True)
class Action:
    """What a policy chooses, its field in the TaskSpec, and how the environment is told.

    give: a choice, an int or a float vector -> a value of the space, and whether it had to be moved into its bounds.
    """

    field: Discrete | Vector
    give: Callable[[Any], tuple[Any, bool]]


def action_of(space: spaces.Space[Any]) -> Action:
    """The action of a space. Raises SpaceError for a space that cannot be carried."""
    leaf = action_leaf(described(space))
    if isinstance(space, spaces.Box):
        return Action(leaf.action_field, lambda wish: _within(space, wish))
    assert leaf.choices is not None
    sizes, first = leaf.choices

    def combined(choice: Any) -> tuple[Any, bool]:
        parts = np.array(np.unravel_index(int(choice), sizes)) + first
        return (parts.reshape(space.shape).astype(space.dtype)[()], False)

    return Action(leaf.action_field, combined)


def _within(space: spaces.Box, wish: Any) -> tuple[np.ndarray, bool]:
    """An action in the box, nearest to what was wished."""
    asked = np.asarray(wish).reshape(space.shape)
    if np.issubdtype(space.dtype, np.integer):
        asked = np.rint(asked)
    given = asked.clip(space.low, space.high).astype(space.dtype)
    return given, bool((given != asked.astype(space.dtype)).any())
