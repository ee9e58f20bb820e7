"""Readers of other formats: an iterable of episodes each, in order, that data/convert.py goes through twice.

A reader of one's own is any iterable, a generator function too: `reader._target_=mypkg.read reader._partial_=true
plugins=[mypkg]`. It gives `Episode`s, dictionaries of the arguments of `Episode.of`, or `Pending` ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

from data.columns import Array
from elmur.spec import TaskSpec


class ReadError(ValueError):
    """A source that is not in the format of its reader: which file or key, what was found and expected, what to do."""


@dataclass(frozen=True)
class Pending:
    """An episode that is read when it is wanted, so that a bad one is named and the others are read all the same.

    where: its file or key, as errors name it. read: gives it; raises ValueError for one that is bad.
    """

    where: str
    read: Callable[[], Any]


@runtime_checkable
class Described(Protocol):
    """A reader whose format says what task its episodes are of, and with what they were made."""

    spec: TaskSpec
    made_with: dict[str, str]

    def __iter__(self) -> Iterator[Any]: ...


class EpisodeReader(ABC):
    """A reader of episodes that are known before they are read; `places`: what names each of them -> where it lies."""

    places: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[Pending]:
        for where, place in self.places.items():
            yield Pending(where, partial(self.read, place))

    @abstractmethod
    def read(self, place: Any) -> Any:
        """One episode. Raises ValueError for one that is bad."""


def rewards(name: str | None, read: Callable[[str], Array]) -> Array | None:
    """The rewards of that name, None for no name; where there are none, the error says what to do without."""
    try:
        return None if name is None else read(name)
    except ReadError as error:
        raise ReadError(f"{error}; reader.reward=null stores zeros, which imitation does not read") from error
