"""The columns of a shard: the arrays that episodes of a task consist of, with types, shapes and permitted values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elmur.spec import Discrete, Field, Image, SpecError, TaskSpec, Vector

Array = NDArray[Any]
NAME = re.compile(r"[A-Za-z0-9_.-]*[A-Za-z0-9_-][A-Za-z0-9_.-]*")  # never "." or "..", never a path
LABEL = "label"  # the expert's action at each step, where it was not the expert who acted
PREFERENCE = "preference"  # what the expert held of each action (envs.rollout.PreferringPolicy)
OPTIONAL = (LABEL, PREFERENCE)
SHARES_MISS = 0.01  # of 1, by a row of shares; float16 misses less for thousands of actions


@dataclass(frozen=True)
class Column:
    """One array of a shard: a row per step, or per episode where `per_episode`.

    field: the part of the TaskSpec whose values it holds; None for rewards, masks and the like.
    bounded: whether a value outside the field's bounds is an error (it is for actions; observations of many
    environments leave their declared bounds by rounding, and nothing depends on it).
    shares: whether a row is shares of 1, none below 0.
    """

    key: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()
    field: Field | None = None
    bounded: bool = False
    per_episode: bool = False
    shares: bool = False

    @property
    def is_image(self) -> bool:
        return isinstance(self.field, Image)

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def cast(self, values: Any) -> Array:
        """`values` in this column's type. Raises TypeError where that would change what they mean."""
        array = np.asarray(values)
        allowed = {"f": "fiu", "i": "iu", "u": "u", "b": "b"}[self.dtype.kind]
        if array.dtype.kind not in allowed or (self.is_image and array.dtype != self.dtype):
            raise TypeError(f"values of type {array.dtype}")
        with np.errstate(over="ignore"):  # what becomes infinite is refused by first_bad_row
            return array.astype(self.dtype, copy=False)

    def first_bad_row(self, values: Array) -> tuple[int, str, str] | None:
        """(row, found, expected) of the first row whose values cannot be right, or None where all can."""
        bad, expected = None, ""
        if self.dtype.kind == "f":
            bad, expected = ~np.isfinite(values), "finite numbers"
            if isinstance(self.field, Vector) and self.bounded and not bad.any():
                low, high = _bounds(self.field)
                bad = (values < low) | (values > high)
                expected = f"numbers within {low.tolist()} .. {high.tolist()}"
            if self.shares and not bad.any():
                bad = (values < 0) | (np.abs(values.sum(axis=-1, keepdims=True, dtype=np.float32) - 1) > SHARES_MISS)
                expected = "shares of 1, none below 0"
        elif isinstance(self.field, Discrete):
            sizes = np.asarray(self.field.sizes if self.shape else self.field.sizes[0])
            bad, expected = (values < 0) | (values >= sizes), f"integers from 0 to below {sizes.tolist()}"
        if bad is None or not bad.any():
            return None
        row = int(np.flatnonzero(bad.reshape(len(values), -1).any(axis=1))[0])
        return row, _short(values[row]), expected


def columns(spec: TaskSpec, optional: Sequence[str] = ()) -> dict[str, Column]:
    """The columns of a shard of this task, by key; optional: those of OPTIONAL that it has.

    Raises SpecError where a part's name cannot name a data set, or preferences are not among choices.
    """
    for name in spec.observation:
        if not NAME.fullmatch(name):
            raise SpecError(
                f"task {spec.name}: observation part {name!r} cannot name a data set; use letters, digits, _ - ."
            )
    found = [_column(f"observation/{name}", field) for name, field in spec.observation.items()]
    for key in ("action", *([LABEL] if LABEL in optional else [])):
        if isinstance(spec.action, Discrete):  # one choice: stored without the axis of components
            found.append(Column(key, np.dtype(np.int64), (), spec.action, bounded=True))
        else:
            found.append(Column(key, np.dtype(np.float32), spec.action.shape, spec.action, bounded=True))
    found.append(Column("reward", np.dtype(np.float32)))
    found.append(Column("loss_mask", np.dtype(np.bool_)))
    if PREFERENCE in optional:
        if not isinstance(spec.action, Discrete):
            raise SpecError(f"task {spec.name}: preferences are among choices; found the action {spec.action}")
        found.append(Column(PREFERENCE, np.dtype(np.float16), spec.action.sizes, shares=True))
    found.append(Column("terminated", np.dtype(np.bool_), per_episode=True))
    found.append(Column("truncated", np.dtype(np.bool_), per_episode=True))
    found.append(Column("seed", np.dtype(np.int64), per_episode=True))
    return {column.key: column for column in found}


def _column(key: str, field: Field) -> Column:
    kinds: dict[type, Any] = {Discrete: np.int64, Vector: np.float32, Image: np.uint8}
    return Column(key, np.dtype(kinds[type(field)]), field.shape, field)


def _bounds(field: Vector) -> tuple[Array, Array]:
    """The bounds of a vector as the float32 numbers that it is stored in."""
    low = field.low if field.low is not None else (-np.inf,) * field.size
    high = field.high if field.high is not None else (np.inf,) * field.size
    return np.asarray(low, np.float32), np.asarray(high, np.float32)


def _short(value: Any) -> str:
    text = np.array2string(np.asarray(value), threshold=8, edgeitems=3, separator=", ")
    return " ".join(text.split())
