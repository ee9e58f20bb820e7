"""Episode: one recorded episode as arrays, brought into the shapes in which a task's columns are stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data.columns import Array
from elmur.spaces import Leaf, Spaces
from elmur.spec import Discrete, Field, Image, TaskSpec, Vector

ONLY = "observation"  # the name of the part where an observation is one array


class EpisodeError(ValueError):
    """An array that is no part of an episode: its key, what was found and expected, what to do."""

    def __init__(self, key: str, found: str, expected: str, advice: str = "") -> None:
        self.key, self.found, self.expected, self.advice = key, found, expected, advice
        super().__init__(f"{key}: found {found}, expected {expected}" + (f"; {advice}" if advice else ""))


@dataclass
class Episode:
    """One episode of T steps, as `write_shard` takes it.

    observation: part -> [T, ...]; action [T] or [T, A]; reward [T]; loss_mask bool [T], whether a step is imitated.
    terminated: it ended in a terminal state; truncated: it was cut short. seed: of its env, -1 where unknown.
    """

    observation: dict[str, Array]
    action: Array
    reward: Array
    terminated: bool
    truncated: bool
    loss_mask: Array = field(default_factory=lambda: np.zeros(0, np.bool_))
    seed: int = -1

    def __post_init__(self) -> None:
        if not len(self.loss_mask):
            self.loss_mask = np.ones(len(self.reward), np.bool_)

    @classmethod
    def of(
        cls,
        observation: Any,
        action: Any,
        reward: Any,
        terminated: Any = False,
        truncated: Any = None,
        loss_mask: Any = None,
        seed: int = -1,
    ) -> Episode:
        """The episode of what a recording holds.

        observation: [T, ...], or a dictionary of such arrays; one more than there are actions is the last one, on which
        nothing was done, and is left out. reward: None stores zeros, which imitation does not read. terminated,
        truncated: one truth, or one for each step, of which only the last may be true; truncated is what is not
        terminated where it is not given. Raises EpisodeError.
        """
        parts = observation if isinstance(observation, Mapping) else {ONLY: observation}
        action = numbers("action", action)
        steps = len(action)
        if steps < 1:
            raise EpisodeError("action", "no step", "one step or more")
        reward = np.zeros(steps, np.float32) if reward is None else numbers("reward", reward)
        reward = reward.reshape(-1) if reward.size == len(reward) else reward  # [T, 1] too
        seen: dict[str, Array] = {}
        for name, values in parts.items():
            array = numbers(f"observation/{name}", values)
            seen[str(name)] = array[:steps] if len(array) == steps + 1 else array
        over = _last("terminated", terminated, steps)
        cut = not over if truncated is None else _last("truncated", truncated, steps)
        mask = np.ones(steps, np.bool_) if loss_mask is None else numbers("loss_mask", loss_mask)
        found = {"reward": reward, "loss_mask": mask} | {f"observation/{name}": part for name, part in seen.items()}
        for name, array in found.items():
            if len(array) != steps:
                raise EpisodeError(name, f"{len(array)} steps", f"{steps}, as many as actions")
        return cls(seen, action, reward, over, cut, mask, int(seed))


def numbers(key: str, values: Any) -> Array:
    """A copy of the values, as numbers with a row per step. Raises EpisodeError for objects, text, unequal rows."""
    try:
        array: Array = np.array(values)
    except ValueError as error:
        raise EpisodeError(key, "rows of unequal size", "an array of numbers") from error
    if array.dtype.kind not in "biuf" or array.ndim < 1:
        raise EpisodeError(key, f"{array.dtype} {list(array.shape)}", "an array of numbers [T, ...]")
    return array


def _last(key: str, value: Any, steps: int) -> bool:
    """Whether the last step's value is true. Raises EpisodeError where another's is, or their number is wrong."""
    if np.ndim(value) == 0:
        return bool(value)
    found = numbers(key, value)
    array: Array = found.reshape(len(found), -1).max(axis=1, initial=0) != 0
    if len(array) != steps:
        raise EpisodeError(key, f"{len(array)} steps", f"{steps}, as many as actions")
    if array[:-1].any():
        early = f"the end of the episode at step {int(array.argmax())} of {steps}"
        raise EpisodeError(key, early, "it last", "cut the recording there into episodes")
    return bool(array[-1])


def conform(spec: TaskSpec, episode: Episode, own: Spaces | None = None) -> Episode:
    """The episode in the shapes of the task's columns; what does not fit stays as it is, for the writer to refuse.

    Pictures [T, H, W, C] or [T, H, W] become [T, C, H, W], of both orders the first where both fit; vectors of several
    axes become [T, size]; truths become integers where choices are meant. own: the spaces in whose values choices are
    recorded, if not by numbers from 0; several of an action are one. Raises EpisodeError for choices outside them.
    """
    parts = {part.name: part for part in own.parts} if own is not None else {}
    action = _counted("action", None if own is None else own.action, episode.action)
    seen = {name: _counted(f"observation/{name}", parts.get(name), part) for name, part in episode.observation.items()}
    seen = {name: _fitted(spec.observation.get(name), values) for name, values in seen.items()}
    action = _fitted(spec.action, action)
    if isinstance(spec.action, Discrete) and action.ndim == 2 and action.shape[1] == 1:
        action = action[:, 0]
    return Episode(
        seen, action, episode.reward, episode.terminated, episode.truncated, episode.loss_mask.astype(np.bool_),
        episode.seed,
    )  # fmt: skip


def _counted(key: str, leaf: Leaf | None, values: Array) -> Array:
    """Choices as numbers from 0, and those of an action as one; what has another shape is that already, or wrong."""
    if leaf is None or leaf.choices is None or values.dtype.kind not in "iub":
        return values
    sizes, first = leaf.choices
    whole = values.reshape(len(values), -1).astype(np.int64)
    if whole.shape[1] != len(sizes):
        return values
    if bad := np.flatnonzero(((whole < first) | (whole >= first + sizes)).any(axis=1)).tolist():
        found = f"{whole[bad[0]].tolist()} in step {bad[0]}"
        raise EpisodeError(key, found, f"{leaf.kind} from {first.tolist()} to {(first + sizes - 1).tolist()}")
    whole = whole.reshape(len(values), *leaf.shape)
    return leaf.stored_action(whole) if key == "action" else leaf.stored(whole)


def _fitted(field: Field | None, values: Array) -> Array:
    shape = values.shape[1:]
    if isinstance(field, Image):
        wanted = field.shape
        if shape == (*wanted[1:], wanted[0]):
            return np.moveaxis(values, -1, 1)
        if shape == wanted:
            return values
        return values[:, None] if (1, *shape) == wanted else values
    if isinstance(field, Vector | Discrete) and int(np.prod(shape, dtype=np.int64)) == field.shape[0]:
        kind = np.int64 if isinstance(field, Discrete) else np.float32
        values = values.astype(kind) if values.dtype.kind == "b" else values
        return values.reshape(len(values), field.shape[0])
    return values
