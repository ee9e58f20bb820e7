"""The published archives: a folder of files `train_data_<number>.npz`, one episode each.

What the arrays of an episode mean is the env's to say: a decoder with `spec`, `keys`, `made_with` and
`read(arrays) -> episode` (envs/popgym/archive.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from data.columns import Array
from data.readers import EpisodeReader, ReadError
from data.readers.bounded import npz
from data.shard import EpisodeArrays
from elmur.spec import TaskSpec, Vector

UNKNOWN_HORIZON = 1 << 17  # steps of an episode of a task that names no longest one
HEADERS = 1 << 16  # bytes of the arrays' headers
FILE = re.compile(r"train_data_(\d+)\.npz")


class Decoder(Protocol):
    """What an archive's files hold."""

    spec: TaskSpec
    keys: tuple[str, ...]
    made_with: Mapping[str, str]

    def read(self, arrays: Mapping[str, Array]) -> EpisodeArrays:
        """The episode of one file. Raises ValueError where the arrays are not those of an episode of this task."""


class Archive(EpisodeReader):
    """The episodes of an archive, in the order of the files' numbers. Raises ReadError where there are none."""

    def __init__(self, decoder: Decoder, source: Path | str) -> None:
        self._decoder, self.source = decoder, Path(source)
        self.spec, self.made_with = decoder.spec, dict(decoder.made_with)
        self.places = {path.name: path for path in archive_files(self.source)}

    def read(self, place: Path) -> Any:
        return self._decoder.read(npz(place, self._decoder.keys, most_bytes(self.spec)))


def archive_files(source: Path) -> list[Path]:
    """The files of an archive by number. Raises ReadError where there are none."""
    if not source.is_dir():
        raise ReadError(f"source={source}: expected a folder of files train_data_<number>.npz, found none")
    found = sorted((int(match[1]), path) for path in source.iterdir() if (match := FILE.fullmatch(path.name)))
    if not found:
        raise ReadError(f"source={source}: expected files train_data_<number>.npz, found none of that name")
    return [path for _, path in found]


def most_bytes(spec: TaskSpec) -> int:
    """What an episode of a task can take as arrays, unpacked: its steps with every number in eight bytes, twice."""
    action = spec.action.size if isinstance(spec.action, Vector) else len(spec.action.sizes)
    numbers = sum(math.prod(part.shape) for part in spec.observation.values()) + action + 2
    return 16 * numbers * ((spec.horizon or UNKNOWN_HORIZON) + 1) + HEADERS
