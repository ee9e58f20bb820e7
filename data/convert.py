"""Published archives -> shards: a folder of npz files, one episode each. Every file is checked, and bad ones are named.

What an episode of an archive means is the env's to say: a reader with `spec`, `keys`, `made_with` and
`read(arrays) -> episode` (envs/popgym/archive.py). Files are taken one after another, so that an archive may be larger
than memory, and nothing in them is unpickled. Actions outside the task's bounds are clipped to them, and counted.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from data.bounds import CLIPPED, clip, tell
from data.index import Collection, find_shards, shard_name
from data.shard import Array, ShardError, Steps, check_episode, write_shard
from elmur.files import check_regular, exclusive
from elmur.progress import shown
from elmur.spec import Image, TaskSpec, Vector

log = logging.getLogger(__name__)
MOST_NAMED = 10
MOST_CLIPPED = 0.5  # share of an episode's actions; more of them outside the bounds are another kind of action
SHARD_EPISODES, WITH_PICTURES = 1000, 25
UNKNOWN_HORIZON = 1 << 17  # steps of an episode of a task that names no longest one
HEADERS = 1 << 16  # bytes of the arrays' headers
FILE = re.compile(r"train_data_(\d+)\.npz")


class ConvertError(ValueError):
    """An archive that cannot be converted: which files, what is wrong with each, what to do."""


class Reader(Protocol):
    """What an archive's files hold."""

    spec: TaskSpec
    keys: tuple[str, ...]
    made_with: Mapping[str, str]

    def read(self, arrays: Mapping[str, Array]) -> Steps:
        """The episode of one file. Raises ValueError where the arrays are not those of an episode of this task."""


def convert(
    reader: Reader,
    source: Path | str,
    root: Path | str,
    on_bad_file: Literal["fail", "skip"] = "fail",
    shard_episodes: int | None = None,
    normalise: bool = False,
    progress: bool = True,
) -> list[Path]:
    """The shards in `root`, made from the files `train_data_<number>.npz` in `source` in the order of their numbers.

    shard_episodes: in a shard, which is built in memory; None: 1000, fewer where there are pictures.
    All files are read and checked before the first shard is written. on_bad_file: "fail" then, naming the bad ones, or
    "skip" them with a warning. What was interrupted is done again. Raises ConvertError.
    """
    source, root = Path(source), Path(root)
    files = archive_files(source)
    root.mkdir(parents=True, exist_ok=True)
    with exclusive(root / ".collecting", wait=True):
        check_target(root, source)
        with shown("checking", len(files), "files", progress) as bar:
            bad = {path.name: found for path in files if (found := _fault(reader, path, bar.advance))}
        if bad and (on_bad_file == "fail" or len(bad) == len(files)):
            raise ConvertError(f"{source}: {listed(bad, len(files))}; fetch them again, or leave them out")
        if bad:
            log.warning("%s: left out %s", source, listed(bad, len(files)))
        if shard_episodes is None:
            pictures = any(isinstance(part, Image) for part in reader.spec.observation.values())
            shard_episodes = WITH_PICTURES if pictures else SHARD_EPISODES
        good = [path for path in files if path.name not in bad]
        chunks = [good[begin : begin + shard_episodes] for begin in range(0, len(good), shard_episodes)]
        for path in find_shards(root):  # of an earlier conversion
            path.unlink()
        Collection({"converted": str(source), "episodes": len(good)}, len(chunks)).write(root)
        vectors = [name for name, part in reader.spec.observation.items() if normalise and isinstance(part, Vector)]
        with shown("converting", len(good), "files", progress) as bar:
            for number, paths in enumerate(chunks):
                episodes = [reader.read(arrays_of(path, reader.keys, most_bytes(reader.spec))) for path in paths]
                clipped = clip(reader.spec, episodes)
                about: dict[str, Any] = {"converted": source.name, "files": [paths[0].name, paths[-1].name]}
                about |= {"left_out": sorted(bad), "versions": dict(reader.made_with), CLIPPED: clipped}
                write_shard(root / shard_name(number), reader.spec, episodes, about, normalise=vectors)
                bar.advance(len(paths))
    tell(find_shards(root))
    return find_shards(root)


def archive_files(source: Path) -> list[Path]:
    """The files of an archive by number. Raises ConvertError where there are none."""
    if not source.is_dir():
        raise ConvertError(f"source={source}: expected a folder of files train_data_<number>.npz, found none")
    found = sorted((int(match[1]), path) for path in source.iterdir() if (match := FILE.fullmatch(path.name)))
    if not found:
        raise ConvertError(f"source={source}: expected files train_data_<number>.npz, found none of that name")
    return [path for _, path in found]


def check_target(root: Path, source: Path) -> None:
    """Raises ConvertError where the folder holds other data than an earlier conversion of the same archive."""
    recorded = Collection.read(root)
    if recorded is None and not find_shards(root):
        return
    if recorded is None or recorded.parameters.get("converted") != str(source):
        raise ConvertError(
            f"{root} holds other data than those of {source}; delete it, or name another folder with env.dataset=NAME, "
            "which training then needs as well"
        )


def most_bytes(spec: TaskSpec) -> int:
    """What an episode of a task can take as arrays, unpacked: its steps with every number in eight bytes, twice."""
    action = spec.action.size if isinstance(spec.action, Vector) else len(spec.action.sizes)
    numbers = sum(math.prod(part.shape) for part in spec.observation.values()) + action + 2
    return 16 * numbers * ((spec.horizon or UNKNOWN_HORIZON) + 1) + HEADERS


def arrays_of(path: Path, keys: tuple[str, ...], most: int) -> dict[str, Array]:
    """The arrays of one file. Raises ValueError where it is damaged, lacks one, or holds objects instead of numbers.

    most: bytes that they may take unpacked; a small file of zeros tells of gigabytes.
    """
    try:
        check_regular(path)
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            missing = [key for key in keys if key not in file.files]
            if missing:
                raise ValueError(f"no array {', '.join(missing)}; there are {', '.join(file.files) or 'none'}")
            sizes = {info.filename.removesuffix(".npy"): info.file_size for info in file.zip.infolist()}
            if (needed := sum(sizes[key] for key in keys)) > most:
                raise ValueError(f"expected at most {most} bytes for an episode of this task, found {needed}")
            return {key: file[key] for key in keys}
    except Exception as error:  # damage can show in any way, from the zip archive down to a header that is parsed
        if isinstance(error, ValueError) and ("no array" in str(error) or str(error).startswith("expected ")):
            raise
        raise ValueError(f"not a whole npz file of numbers ({error})") from error


def listed(bad: Mapping[str, str], total: int) -> str:
    """How many files are bad, and what is wrong with the first of them."""
    named = "; ".join(f"{name}: {found}" for name, found in list(bad.items())[:MOST_NAMED])
    rest = list(bad)[MOST_NAMED:]
    return f"{len(bad)} of {total} files are bad: {named}" + (f"; and {', '.join(rest)}" if rest else "")


def _fault(reader: Reader, path: Path, advance: Any) -> str | None:
    """What is wrong with a file, None where nothing is."""
    try:
        episode = reader.read(arrays_of(path, reader.keys, most_bytes(reader.spec)))
        clipped, steps = clip(reader.spec, [episode]), len(episode.reward)
        if clipped > MOST_CLIPPED * steps:
            return (
                f"{clipped} of {steps} actions outside the bounds {reader.spec.action}, so they are no actions of this "
                "task (absolute positions, where it takes differences?)"
            )
        check_episode(path, reader.spec, episode)
    except ShardError as error:
        return f"{error.key}: found {error.found}, expected {error.expected}"
    except ValueError as error:
        return str(error)
    finally:
        advance(1)
    return None
