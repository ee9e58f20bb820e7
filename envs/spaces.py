"""Gymnasium's spaces as parts of a TaskSpec, and what an environment shows and takes in between."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from elmur.spec import Discrete, Field, Image, Vector

MOST_CHOICES = 4096  # of an action that is made of several: their combinations are one choice
CARRIED = "Box, Discrete, MultiDiscrete and MultiBinary, and Dict and Tuple of them"


class SpaceError(ValueError):
    """A space that cannot be carried; the message names it and what to do."""


@dataclass(frozen=True)
class Part:
    """One part of an observation: its name and field in the TaskSpec, where it lies, and how it is read.

    path: the keys of dicts and the places in tuples that lead to it. read: what is shown there -> an array of the
    field's shape, with the field's values.
    """

    name: str
    field: Field
    path: tuple[Any, ...]
    read: Callable[[Any], np.ndarray]

    def of(self, observation: Any) -> np.ndarray:
        """This part of an observation."""
        for key in self.path:
            observation = observation[key]
        return self.read(observation)


def parts_of(space: spaces.Space[Any], without: Sequence[str] = ()) -> list[Part]:
    """The parts of an observation, in the space's order.

    A nested one is named by its keys, joined by `_`; the only part of a space that is not nested is "observation".
    without: names of parts to leave out. Raises SpaceError for one that is not there, and for what cannot be carried.
    """
    found = list(_leaves(space, ()))
    names = [_name(path) for path, _ in found]
    if unknown := [name for name in without if name not in names]:
        raise SpaceError(f"without: the observation has no part {unknown[0]!r}; it has {', '.join(names)}")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise SpaceError(f"observation: two parts are called {twice!r} here; rename one by a wrapper")
    kept = [(name, path, leaf) for name, (path, leaf) in zip(names, found, strict=True) if name not in without]
    if not kept:
        raise SpaceError(f"without: at least one part must stay of {', '.join(names)}")
    return [Part(name, *_field(name, leaf, path)) for name, path, leaf in kept]


def _leaves(space: spaces.Space[Any], path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], spaces.Space[Any]]]:
    """What a nested space is made of, and where it lies."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        inner = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        for key, part in inner:
            yield from _leaves(part, (*path, key))
    else:
        yield path, space


def _name(path: tuple[Any, ...]) -> str:
    words = [f"part{key}" if isinstance(key, int) else re.sub(r"\W", "_", str(key), flags=re.ASCII) for key in path]
    return "_".join(words) or "observation"


def _field(
    name: str, space: spaces.Space[Any], path: tuple[Any, ...]
) -> tuple[Field, tuple[Any, ...], Callable[[Any], np.ndarray]]:
    """Field, path and reader of a part. Raises SpaceError where there is no field for it."""
    if isinstance(space, spaces.Box):
        order = picture_order(space)
        if order is not None:
            return _image(space.shape, order), path, lambda shown: np.transpose(_three(np.asarray(shown)), order)
        field = vector_of(space, f"observation {name!r}")
        return field, path, lambda shown: np.asarray(shown, np.float32).reshape(-1)
    choices = choices_of(space)
    if choices is not None:
        sizes, first = choices
        return Discrete(sizes), path, lambda shown: np.asarray(shown, np.int64).reshape(-1) - first
    raise SpaceError(
        f"observation {name!r}: {_kind(space)} cannot be carried, {CARRIED} can; leave it out with "
        f"env.make.without=[{name}], or change it by a wrapper, env.make.wrappers=[...]"
    )


def picture_order(space: spaces.Box) -> tuple[int, int, int] | None:
    """The axes in the order channels, height, width of what is a picture: bytes from 0 to 255 in 2 or 3 dimensions.

    The channels are the shorter one of the first axis and the last, the last where both are as long. None: no picture.
    """
    is_bytes = space.dtype == np.uint8 and bool((space.low == 0).all() and (space.high == 255).all())
    if not is_bytes or len(space.shape) not in (2, 3) or 0 in space.shape:
        return None
    return (0, 1, 2) if len(space.shape) == 3 and space.shape[0] < space.shape[-1] else (2, 0, 1)


def _three(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _image(shape: tuple[int, ...], order: tuple[int, int, int]) -> Image:
    whole = shape if len(shape) == 3 else (*shape, 1)
    return Image(*(whole[axis] for axis in order))


def vector_of(space: spaces.Box, what: str) -> Vector:
    """All numbers of a box as one vector, with its bounds where all are finite. what: it is called in an error."""
    size = int(np.prod(space.shape))
    if size == 0:
        raise SpaceError(f"{what}: a Box of shape {list(space.shape)} holds no number; leave it out or wrap it")
    low, high = space.low.astype(np.float32).ravel().tolist(), space.high.astype(np.float32).ravel().tolist()
    bounded = bool(np.isfinite([low, high]).all())
    return Vector(size, tuple(low) if bounded else None, tuple(high) if bounded else None)


def choices_of(space: spaces.Space[Any]) -> tuple[tuple[int, ...], np.ndarray] | None:
    """The sizes of all components of a discrete space, and the smallest value of each; None of another space."""
    if isinstance(space, spaces.Discrete):
        return (int(space.n),), np.array([space.start])
    if isinstance(space, spaces.MultiDiscrete):
        return tuple(space.nvec.ravel().tolist()), np.asarray(space.start).ravel()
    if isinstance(space, spaces.MultiBinary):
        size = int(np.prod(space.shape))
        return (2,) * size, np.zeros(size, np.int64)
    return None


@dataclass(frozen=True)
class Action:
    """What a policy chooses, its field in the TaskSpec, and how the environment is told.

    give: a choice, an int or a float vector -> a value of the space, and whether it had to be moved into its bounds.
    """

    field: Discrete | Vector
    give: Callable[[Any], tuple[Any, bool]]


def action_of(space: spaces.Space[Any]) -> Action:
    """The action of a space; several discrete ones are one choice among their combinations, the last fastest.

    Raises SpaceError for a space that cannot be carried.
    """
    if isinstance(space, spaces.Box):
        return Action(vector_of(space, "action"), lambda wish: _within(space, wish))
    choices = choices_of(space)
    if choices is None:
        raise SpaceError(
            f"action: {_kind(space)} cannot be carried, Box, Discrete, MultiDiscrete and MultiBinary can; change it by "
            "a wrapper, env.make.wrappers=[...]"
        )
    sizes, first = choices
    number = int(np.prod([float(size) for size in sizes]))
    if number > MOST_CHOICES:
        raise SpaceError(
            f"action: {_kind(space)} has {number:,} combinations, of which a policy chooses one; at most "
            f"{MOST_CHOICES:,} can be carried, leave some out by a wrapper"
        )
    if isinstance(space, spaces.Discrete):
        return Action(Discrete(sizes), lambda choice: (space.dtype.type(choice + first[0]), False))

    def combined(choice: Any) -> tuple[Any, bool]:
        parts = np.array(np.unravel_index(int(choice), sizes)) + first
        return parts.reshape(space.shape).astype(space.dtype), False

    return Action(Discrete((number,)), combined)


def _within(space: spaces.Box, wish: Any) -> tuple[np.ndarray, bool]:
    """An action in the box, nearest to what was wished."""
    asked = np.asarray(wish).reshape(space.shape)
    if np.issubdtype(space.dtype, np.integer):
        asked = np.rint(asked)
    given = asked.clip(space.low, space.high).astype(space.dtype)
    return given, bool((given != asked.astype(space.dtype)).any())


def _kind(space: spaces.Space[Any]) -> str:
    text = f"{type(space).__name__} {space}" if type(space).__name__ not in str(space) else str(space)
    return text if len(text) <= 80 else text[:77] + "..."
