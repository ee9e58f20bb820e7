"""The TaskSpec that recorded arrays have, where nobody says what it is: kinds from types, sizes from what occurs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data.columns import Array
from data.episode import Episode, EpisodeError
from elmur.spec import Discrete, Field, Image, TaskSpec, Vector

CHANNELS = (1, 3, 4)  # of pictures, by which their axis is told
MOST_CHOICES = 4096  # an integer above is a number rather than a choice, of which each has a row in a table
INTEGERS, NUMBERS, PICTURES = "integers", "numbers", "pictures"
BEFORE = "as in the episodes before"
GIVE = "give a TaskSpec"
FLOAT = f"use float32 for numbers, or {GIVE}"


@dataclass
class _Seen:
    """What has been seen of one array: its rows' shape, its kind, the largest integer in each place."""

    shape: tuple[int, ...]
    kind: str
    largest: Any = None

    def __str__(self) -> str:
        return f"{self.kind} [{', '.join(['T', *map(str, self.shape)])}]"


@dataclass
class Inference:
    """Takes in episodes and says what task they are of; keeps shapes and largest values alone."""

    name: str
    horizon: int = 0
    seen: dict[str, _Seen] = field(default_factory=dict)

    def add(self, episode: Episode) -> None:
        """Take in one more episode. Raises EpisodeError where it cannot be of the task of those before."""
        found = {f"observation/{name}": values for name, values in episode.observation.items()}
        found["action"] = episode.action
        if self.seen and found.keys() != self.seen.keys():
            names = (", ".join(sorted(keys)) for keys in (found, self.seen))
            raise EpisodeError("parts", next(names), f"{next(names)}, {BEFORE}")
        for key, values in found.items():
            self._take(key, values)
        self.horizon = max(self.horizon, len(episode.reward))

    def _take(self, key: str, values: Array) -> None:
        kind = NUMBERS if values.dtype.kind == "f" else INTEGERS
        if values.dtype == np.uint8 and values.ndim in (3, 4) and key != "action":
            kind = PICTURES
        here = _Seen(values.shape[1:], kind)
        known = self.seen.setdefault(key, here)
        if str(known) != str(here):
            raise EpisodeError(key, str(here), f"{known}, {BEFORE}")
        if kind != INTEGERS or not values.size:
            return
        if values.min() < 0:
            raise EpisodeError(key, f"the integer {int(values.min())}", "choices from 0 up", FLOAT)
        largest = values.reshape(len(values), -1).max(axis=0).astype(np.int64)
        known.largest = largest if known.largest is None else np.maximum(known.largest, largest)

    def spec(self) -> TaskSpec:
        """The task of all episodes. Raises EpisodeError for what is no observation or action of ours."""
        if "action" not in self.seen:
            raise EpisodeError("episodes", "none", "some to infer a TaskSpec from")
        fields = {key: _field(key, seen) for key, seen in self.seen.items()}
        action = fields.pop("action")
        if isinstance(action, Image) or (isinstance(action, Discrete) and len(action.sizes) != 1):
            advice = "number the combinations by one integer (numpy.ravel_multi_index), or use float32 for numbers"
            raise EpisodeError("action", str(self.seen["action"]), "one choice [T], or numbers [T, A]", advice)
        parts = {key.removeprefix("observation/"): part for key, part in fields.items()}
        return TaskSpec(self.name, parts, action, self.horizon)


def _field(key: str, seen: _Seen) -> Field:
    size = int(np.prod(seen.shape, dtype=np.int64))
    if size < 1:
        raise EpisodeError(key, str(seen), "at least one number a step")
    if seen.kind == PICTURES:
        return _image(key, seen)
    if seen.kind == NUMBERS:
        return Vector(size)
    sizes = tuple(int(value) + 1 for value in np.atleast_1d(seen.largest))
    if max(sizes) > MOST_CHOICES:
        raise EpisodeError(key, f"the integer {max(sizes) - 1}", f"choices below {MOST_CHOICES}", FLOAT)
    return Discrete(sizes)


def _image(key: str, seen: _Seen) -> Image:
    shape = seen.shape
    if len(shape) == 2:
        return Image(1, *shape)
    if shape[0] in CHANNELS and (shape[2] not in CHANNELS or shape[0] < shape[2]):  # as Leaf.picture_order has it
        return Image(shape[0], shape[1], shape[2])
    if shape[2] in CHANNELS:
        return Image(shape[2], shape[0], shape[1])
    raise EpisodeError(key, str(seen), "1, 3 or 4 channels, [T, H, W, C] or [T, C, H, W]", GIVE)
