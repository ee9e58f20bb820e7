"""Gymnasium's own spaces: of a field, as parts of an observation, and what an environment takes as an action."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from elmur.spaces import Leaf, SpaceError, action_leaf, described, leaves
from elmur.spec import Discrete, Field, Image, Vector

__all__ = ["Action", "SpaceError", "action_of", "described", "parts_of", "space_of"]


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
        return Action(leaf.action_field, lambda wish: _within(leaf, space.dtype, wish))
    return Action(leaf.action_field, lambda choice: (leaf.given(np.array([choice]))[0].astype(space.dtype)[()], False))


def _within(leaf: Leaf, dtype: Any, wish: Any) -> tuple[np.ndarray, bool]:
    """An action in a box, nearest to what was wished, and whether that is another one in float32."""
    asked = np.asarray(wish).reshape(leaf.shape)
    given = leaf.given(asked[None])[0]
    asked = np.rint(asked) if np.issubdtype(dtype, np.integer) else asked
    return given, bool((given.astype(np.float32) != asked.astype(np.float32)).any())
