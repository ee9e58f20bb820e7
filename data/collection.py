"""A folder of shards, and the record of how it was collected: what it holds once it is complete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.shard import SUFFIX, ShardError
from elmur.aliases import renamed
from elmur.files import read_json, write_json

COLLECTION = "collection.json"
LOCK = ".collecting"  # held by who writes into a folder
MOST_SHARDS = 100_000  # their names have five digits


@dataclass(frozen=True)
class Collection:
    """What a folder was collected with, and how many shards it has once complete."""

    parameters: dict[str, Any]
    num_shards: int

    def __post_init__(self) -> None:
        if type(self.num_shards) is not int or not 0 <= self.num_shards <= MOST_SHARDS:
            raise ValueError(f"expected 0 to {MOST_SHARDS} shards, found {self.num_shards!r}")

    @property
    def converted(self) -> bool:
        """Whether the folder was converted from an archive (data/convert.py), not collected."""
        return "converted" in self.parameters

    @property
    def num_episodes(self) -> int:
        """How many episodes it has once complete; 0 where the record does not say."""
        number = self.parameters.get("num_episodes")
        return number if type(number) is int else 0

    def serves(self, asked: Collection) -> bool:
        """Whether nothing but the number of episodes differs: the first of more are those of fewer."""
        return self.num_episodes > 0 and {**self.parameters, "num_episodes": asked.num_episodes} == asked.parameters

    def has(self, asked: Collection, root: Path) -> bool:
        """Whether all episodes of `asked` are in the folder of this one, preferences or no preferences beside them."""
        unread = {"preferences"} - asked.parameters.keys()
        read = {key: value for key, value in self.parameters.items() if key not in unread}
        return (
            replace(self, parameters=read).serves(asked)
            and asked.num_episodes <= self.num_episodes
            and not asked.missing(root)
        )

    @classmethod
    def shard_size(cls, root: Path) -> int:
        """How many episodes a file of this folder has when it is full; 0 where no record says it."""
        number = found.parameters.get("shard_episodes") if (found := cls.read(root)) is not None else None
        return max(number, 0) if type(number) is int else 0

    def unfilled(self) -> str | None:
        """The name of its last shard, where more episodes would have room in it."""
        return self.names()[-1] if self.num_episodes % int(self.parameters["shard_episodes"]) else None

    def names(self) -> list[str]:
        """Names of its shards."""
        return [shard_name(number) for number in range(self.num_shards)]

    def missing(self, root: Path) -> list[str]:
        """Names of the shards that are not there yet."""
        there = {path.name for path in find_shards(root)}
        return [name for name in self.names() if name not in there]

    def write(self, root: Path) -> None:
        """Record this in the folder."""
        write_json(root / COLLECTION, {"parameters": self.parameters, "num_shards": self.num_shards})

    @classmethod
    def read(cls, root: Path) -> Collection | None:
        """The record in this folder; None where there is none (its shards came from elsewhere)."""
        try:
            data = read_json(root / COLLECTION)
            return cls(dict(renamed(data["parameters"])), data["num_shards"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ShardError(root / COLLECTION, "record", f"an unreadable file ({error})", "JSON") from error


@dataclass(frozen=True)
class Served:
    """What was asked for of a folder: these shards, and of their episodes the first so many; None: all."""

    paths: Sequence[Path]
    episodes: int | None = None


def shard_name(number: int) -> str:
    """File name of the shard of this number."""
    return f"shard-{number:05d}{SUFFIX}"


def find_shards(root: Path) -> list[Path]:
    """Finished shards in a folder, by name."""
    return sorted(path for path in root.glob(f"*{SUFFIX}") if not path.name.startswith("."))
