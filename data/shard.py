"""The shard: one HDF5 file of many episodes, its writer and its reader.

    attributes  format, version, spec (TaskSpec as JSON), provenance, statistics, normalise, sums (JSON each);
                optional, a list of the arrays that only some shards have, in files of version 2 (of 1: none)
    offsets     int64 [E + 1]; episode e is rows offsets[e] to offsets[e + 1] of every array below
    observation/<part>, action, reward, loss_mask    [N, ...], a row per step
    label (optional)                                 [N, ...], what the expert would have done instead of `action`
    preference (optional)                            [N, A] float16, what the expert held of each action: shares of 1
    terminated, truncated, seed                      [E]

Every array is chunked along time and carries a checksum per chunk (fletcher32); images are compressed (Zstd). The file
is in the format of HDF5 1.10, whose metadata (attributes, shapes, chunk tables) is checksummed as well.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import h5py
import hdf5plugin
import numpy as np

from data.columns import OPTIONAL, Array, Column, columns
from data.provenance import origin
from data.statistics import Moments
from elmur.files import write_bytes
from elmur.spec import SpecError, TaskSpec, Vector

RECOLLECT = "delete the file and collect it again"


class ShardError(ValueError):
    """A shard that cannot be written or trusted: which file, which key, what was found and expected, what to do."""

    def __init__(self, file: Path | str, key: str = "", found: str = "", expected: str = "", advice: str = "") -> None:
        self.file, self.key, self.found, self.expected, self.advice = str(file), key, found, expected, advice
        if not key:  # a DataLoader builds the error of its worker anew from the worker's traceback: keep its last line
            super().__init__(str(file).strip().splitlines()[-1].split("ShardError: ", 1)[-1])
            return
        wanted = f", expected {expected}" if expected else ""
        super().__init__(f"shard {file}, {key}: found {found}{wanted}; {advice or RECOLLECT}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.file, self.key, self.found, self.expected, self.advice)


def require_same_task(file: Path | str, expected: TaskSpec, found: TaskSpec) -> None:
    """Raises ShardError unless `found` is the expected task: the same name, the same shapes and kinds."""
    differences = expected.differences(found)
    if found.name != expected.name:
        differences.insert(0, f"task '{found.name}'")
    if differences:
        advice = "keep each task's shards in a folder of its own"
        raise ShardError(file, "spec", "; ".join(differences), f"task '{expected.name}'", advice)


IN_MEMORY: Mapping[str, Any] = {"driver": "core", "backing_store": False, "rdcc_nbytes": 32 << 20}  # of HDF5
IMAGE_ROWS, ROWS = 16, 1024  # rows in a chunk
LARGEST_CHUNK = 1 << 30  # bytes; a small file could otherwise unpack to fill the memory
ZSTD, FLETCHER32 = hdf5plugin.Zstd.filter_id, h5py.h5z.FILTER_FLETCHER32


def text(file: Any, name: str) -> str:
    """A text attribute. Raises TypeError where it is not of fixed length (HDF5 may hang on damage to others)."""
    kind = file.attrs.get_id(name).dtype
    if kind.kind != "S":
        raise TypeError(f"attribute {name} is {kind}, not text of fixed length")
    return bytes(file.attrs[name]).decode()


def create(file: Any, column: Column, rows: int) -> Any:
    """A new data set for a column, chunked along time, with a checksum per chunk."""
    chunk = min(IMAGE_ROWS if column.is_image else ROWS, rows)
    compression: Mapping[str, Any] = hdf5plugin.Zstd(clevel=3) if column.is_image else {}
    return file.create_dataset(
        column.key,
        (rows, *column.shape),
        column.dtype,
        chunks=(chunk, *column.shape),
        fletcher32=True,
        **compression,
    )


def open_array(path: Path, file: Any, column: Column, rows: int | None) -> Any:
    """The data set of a column, after checking that it is ours: no links out of the file, no foreign filters."""
    parts = column.key.split("/")
    for depth in range(len(parts)):
        link = file.get("/".join(parts[: depth + 1]), getlink=True)
        if type(link) is not h5py.HardLink:
            found = "nothing" if link is None else f"a {type(link).__name__}"
            raise ShardError(path, column.key, found, "a data set in this file")
    dataset = file[column.key]
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype != column.dtype or dataset.ndim != len(column.shape) + 1:
        raise ShardError(path, column.key, str(dataset), f"{column.dtype} [rows, {column.shape}]")
    if dataset.shape[1:] != column.shape or (rows is not None and dataset.shape[0] != rows):
        expected = [rows if rows is not None else "any", *column.shape]
        raise ShardError(path, column.key, f"shape {list(dataset.shape)}", f"shape {expected}")
    plist = dataset.id.get_create_plist()
    filters = {plist.get_filter(i)[0] for i in range(plist.get_nfilters())}
    outside = dataset.is_virtual or plist.get_external_count() > 0 or plist.get_layout() != h5py.h5d.CHUNKED
    ours = {ZSTD, FLETCHER32} if column.is_image else {FLETCHER32}  # numbers are as large as they look
    if outside or FLETCHER32 not in filters or not filters <= ours:
        wanted = "checksummed chunks" + ", Zstd" * column.is_image
        raise ShardError(path, column.key, f"storage with HDF5 filters {sorted(filters)}", wanted)
    _check_chunks(path, dataset, column)
    return dataset


def _check_chunks(path: Path, dataset: Any, column: Column) -> None:
    """Raises ShardError unless all chunks are there, each as small as ours: absent ones would be read as zeros."""
    size, most_rows = math.prod(dataset.chunks) * dataset.dtype.itemsize, IMAGE_ROWS if column.is_image else ROWS
    if size > LARGEST_CHUNK or dataset.chunks[0] > most_rows:
        raise ShardError(path, column.key, f"chunks of {size} bytes", f"{LARGEST_CHUNK} or less, {most_rows} rows")
    needed = math.prod(-(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True))
    stored = dataset.id.get_num_chunks()
    if stored != needed:
        raise ShardError(path, column.key, f"{stored} chunks", f"{needed}, for shape {list(dataset.shape)}")


FORMAT, VERSION, WITH_OPTIONAL = "elmur-shard", 1, 2
SUFFIX = ".h5"
REFUSED = "nothing was written"
NAMES = "name parts as the task does, by reader.observation={PART: NAME} where files are converted"
SUMS = "sums"  # attribute: CRC-32 of each array; a chunk blanked together with its checksum satisfies fletcher32
OFFSETS = Column("offsets", np.dtype(np.int64), per_episode=True)


class EpisodeArrays(Protocol):
    """One episode of T steps, as `write_shard` takes it (envs.rollout.Trajectory is one)."""

    observation: dict[str, Array]
    action: Array
    reward: Array
    terminated: bool
    truncated: bool
    loss_mask: Array


def write_shard(
    path: Path | str,
    spec: TaskSpec,
    episodes: Iterable[EpisodeArrays],
    provenance: Mapping[str, Any],
    *,
    seeds: Sequence[int] | None = None,
    normalise: Sequence[str] = (),
    optional: Sequence[str] = (),
) -> None:
    """Publish the episodes as one shard, whole or not at all.

    The file is built in memory (a full disk while HDF5 writes ends in a crash of the process), so a shard should hold
    a few hundred megabytes at most. `provenance` must be JSON and is completed by versions, code version and time.
    seeds: the seed of each episode, -1 where unknown. normalise: vector parts whose readers should scale by mean and
    deviation. optional: those of OPTIONAL that the episodes have.
    Raises ShardError on episodes that do not fit `spec`, OSError where the file cannot be written.
    """
    path, episodes = Path(path), list(episodes)
    lengths = [len(episode.reward) for episode in episodes]
    if not episodes or min(lengths) < 1:
        found = f"length 0 in episode {lengths.index(0)}" if episodes else "no episodes"
        raise ShardError(path, "offsets", found, "one episode or more, each of one step or more", REFUSED)
    seeds = [-1] * len(episodes) if seeds is None else list(seeds)
    unknown = [n for n in normalise if not isinstance(spec.observation.get(n), Vector)]
    if len(seeds) != len(episodes) or unknown:
        raise ValueError(f"write_shard: {len(seeds)} seeds for {len(episodes)} episodes, not vectors: {unknown}")
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    with h5py.File("shard", "w", libver=("v110", "v110"), **IN_MEMORY) as file:
        statistics, written = {}, list(columns(spec, optional).values())
        create(file, OFFSETS, len(offsets))[:] = offsets
        for column in written:
            if column.per_episode:
                values = seeds if column.key == "seed" else [getattr(episode, column.key) for episode in episodes]
                create(file, column, len(episodes))[:] = np.asarray(values, column.dtype)
            else:
                moments = _write_steps(path, create(file, column, int(offsets[-1])), column, episodes)
                if isinstance(column.field, Vector) and column.key.startswith("observation/"):
                    statistics[column.key.split("/", 1)[1]] = moments.to_json()
        file.attrs["version"] = WITH_OPTIONAL if optional else VERSION
        texts = {"format": FORMAT, "spec": spec.to_json(), "statistics": json.dumps(statistics)}
        texts |= {"normalise": json.dumps(list(normalise))}
        texts["provenance"] = json.dumps({"env": spec.name, **origin(), **provenance})
        texts[SUMS] = json.dumps({column.key: checksum(file[column.key], column) for column in written})
        texts |= {"optional": json.dumps(list(optional))} if optional else {}
        for name, content in texts.items():  # of fixed length: HDF5 keeps other strings where no checksum covers them
            file.attrs[name] = np.bytes_(content.encode())
        file.flush()
        image: bytes = file.id.get_file_image()
    write_bytes(path, image)


def checksum(dataset: Any, column: Column) -> int:
    """CRC-32 of all rows of a data set, read in pieces."""
    rows, crc = IMAGE_ROWS if column.is_image else 64 * ROWS, 0
    for begin in range(0, len(dataset), rows):
        crc = zlib.crc32(dataset[begin : begin + rows].tobytes(), crc)
    return crc


def check_episode(path: Path, spec: TaskSpec, episode: EpisodeArrays, number: int = 0) -> None:
    """Raises ShardError, naming `path` and the episode's number, unless it could be written as one of this task."""
    found = [column for column in columns(spec).values() if not column.per_episode]
    for column in sorted(found, key=lambda column: column.key):  # the action before what observations say of it
        _episode_column(path, column, episode, number)
    if extra := sorted(episode.observation.keys() - spec.observation.keys()):
        here, parts = f"a part that the task has not, in episode {number}", ", ".join(spec.observation)
        raise ShardError(path, f"observation/{extra[0]}", here, parts, REFUSED)


class Shard:
    """One shard for reading. The file is opened at the first use in each process and checked as it is opened.

    expect: the task that it must be of. identity: what `identity` gave of it before, where it must be the same file.
    Raises ShardError, then or at any later read, naming file, data set and rows.
    """

    def __init__(self, path: Path | str, expect: TaskSpec | None = None, identity: str = "") -> None:
        self.path, self._expect, self._identity = Path(path), expect, identity
        self._file: Any = None
        self._arrays: dict[str, Any] = {}
        self._pid = -1
        self._checked = False  # the outline is known, also after the file is closed again

    @property
    def spec(self) -> TaskSpec:
        if not self._checked:
            self.open()
        return self._spec

    @property
    def offsets(self) -> Array:
        """First row of every episode, and the number of rows at the end: int64 [E + 1]."""
        if not self._checked:
            self.open()
        return self._offsets

    @property
    def columns(self) -> dict[str, Column]:
        if not self._checked:
            self.open()
        return self._columns

    def attribute(self, name: str) -> Any:
        """The decoded JSON attribute: "provenance", "statistics" or "normalise"."""
        try:
            return json.loads(text(self.open(), name))
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise ShardError(self.path, name, f"an unreadable attribute ({error})", "JSON") from error

    def sums(self) -> dict[str, int]:
        """The CRC-32 of each array, by key; shards of before have none."""
        return dict(self.attribute(SUMS)) if SUMS in self.open().attrs else {}

    def identity(self) -> str:
        """A hash of what the file says of itself: task, lengths, seeds and sums, where the episodes came from."""
        parts = (text(self.open(), "provenance").encode(), self.spec.to_json().encode(), self.offsets.tobytes())
        seeds = self.read("seed", 0, len(self.offsets) - 1).tobytes()
        return hashlib.sha256(b"".join((*parts, seeds, json.dumps(self.sums()).encode()))).hexdigest()[:16]

    def read(self, key: str, begin: int, end: int) -> Array:
        """Rows begin to end of one array. Raises ShardError where a chunk's checksum does not fit its bytes."""
        if self._pid != os.getpid():
            self.open()
        try:
            return self._arrays[key][begin:end]
        except OSError as error:
            raise self._damage(key, begin, end) from error

    def verify(self) -> None:
        """Read everything once. Raises ShardError at the first chunk that is damaged or value that cannot be right."""
        sums = self.sums()
        for column in self.columns.values():
            rows = IMAGE_ROWS if column.is_image else 64 * ROWS
            total, crc = len(self._arrays[column.key]), 0
            for begin in range(0, total, rows):
                values = self.read(column.key, begin, min(begin + rows, total))
                crc = zlib.crc32(values.tobytes(), crc)
                bad = column.first_bad_row(values)
                if bad is not None:
                    row, found, expected = bad
                    row += begin
                    raise ShardError(
                        self.path, column.key, f"{found} in row {row}{self._at(column.key, row, row + 1)}", expected
                    )
            if sums.get(column.key, crc) != crc:
                raise ShardError(self.path, column.key, "other values than were written", "those of its checksum")

    def close(self) -> None:
        """Give the file handle back; a later read opens the file again."""
        if self._file is not None and self._pid == os.getpid():
            self._file.close()
        self._file, self._pid, self._arrays = None, -1, {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        given = {"path": self.path, "_expect": self._expect, "_identity": self._identity}
        return {**given, "_file": None, "_pid": -1, "_checked": False}

    def open(self) -> Any:
        """The open HDF5 file, checked. A handle inherited from another process is dropped, not used."""
        if self._pid == os.getpid():
            return self._file
        if not self.path.is_file():
            raise ShardError(self.path, "file", "nothing", "a shard", "collect the data or correct the path")
        try:  # no lock: a published shard never changes, and locks fail on some network file systems
            file = h5py.File(self.path, "r", locking=False)
        except (OSError, RuntimeError, ValueError) as error:
            size = self.path.stat().st_size
            raise ShardError(self.path, "file", f"{size} bytes that HDF5 refuses ({error})", "a whole file") from error
        try:
            self._check(file)
        except (OSError, RuntimeError, KeyError, TypeError, ValueError, MemoryError) as error:
            with contextlib.suppress(Exception):
                file.close()
            if isinstance(error, ShardError):
                raise
            raise ShardError(self.path, "structure", f"damage ({error})", f"{FORMAT} version {VERSION}") from error
        self._file, self._pid, self._checked = file, os.getpid(), True
        if self._identity and self.identity() != self._identity:
            self.close()
            found, expected = "other episodes than before", "the file that was indexed when the command began"
            advice = "it was replaced in the meantime: leave it, and give the command again"
            raise ShardError(self.path, "provenance", found, expected, advice)
        return file

    def _check(self, file: Any) -> None:
        """Read the outline of the file into this object. Raises ShardError where it is not as the format says."""
        form = text(file, "format") if "format" in file.attrs else None
        if form != FORMAT:
            raise ShardError(self.path, "format", repr(form), repr(FORMAT), "this is not one of our shards")
        version = file.attrs.get("version")
        if version not in (VERSION, WITH_OPTIONAL):
            expected = f"{VERSION} or {WITH_OPTIONAL}"
            raise ShardError(self.path, "version", str(version), expected, "collect or convert the data again")
        optional = json.loads(text(file, "optional")) if version == WITH_OPTIONAL else []
        if not isinstance(optional, list) or not set(optional) <= set(OPTIONAL):
            advice = "use the code that wrote it"
            raise ShardError(self.path, "optional", str(optional), f"some of {', '.join(OPTIONAL)}", advice)
        try:
            self._spec = TaskSpec.from_json(text(file, "spec"))
            self._columns = columns(self._spec, optional)
        except SpecError as error:
            raise ShardError(self.path, "spec", str(error), "a TaskSpec in JSON") from error
        if self._expect is not None:
            require_same_task(self.path, self._expect, self._spec)
        stored = open_array(self.path, file, OFFSETS, None)
        try:
            self._offsets: Array = stored[:]
        except OSError as error:
            raise ShardError(self.path, "offsets", "damaged bytes (all episodes)", "intact chunks") from error
        if len(self._offsets) < 2 or self._offsets[0] != 0 or (np.diff(self._offsets) < 1).any():
            wrong = np.flatnonzero(np.diff(self._offsets) < 1)
            where = (
                f"length below 1 in episode {wrong[0]}" if len(wrong) else "no episode, or a first row that is not 0"
            )
            raise ShardError(self.path, "offsets", where, "one episode or more, each of one step or more")
        rows, episodes = int(self._offsets[-1]), len(self._offsets) - 1
        self._arrays = {
            column.key: open_array(self.path, file, column, episodes if column.per_episode else rows)
            for column in self._columns.values()
        }

    def _damage(self, key: str, begin: int, end: int) -> ShardError:
        """The error for the first chunk, of those that hold rows begin to end, which cannot be read."""
        array = self._arrays[key]
        step = array.chunks[0]
        for first in range(begin - begin % step, end, step):
            last = min(first + step, len(array))
            try:
                array[first:last]
            except OSError:
                begin, end = first, last
                break
        found = f"damaged bytes in rows {begin} to {end - 1}{self._at(key, begin, end)}"
        return ShardError(self.path, key, found, "intact chunks")

    def _at(self, key: str, begin: int, end: int) -> str:
        """Which episodes rows begin to end of an array belong to."""
        if self._columns[key].per_episode:
            return f" (episode {begin})" if end == begin + 1 else f" (episodes {begin} to {end - 1})"
        first, last = (int(np.searchsorted(self._offsets, row, side="right")) - 1 for row in (begin, end - 1))
        if first < last:
            return f" (episodes {first} to {last})"
        steps = begin - int(self._offsets[first]), end - 1 - int(self._offsets[first])
        return (
            f" (episode {first}, step {steps[0]})"
            if end == begin + 1
            else f" (episode {first}, steps {steps[0]} to {steps[1]})"
        )


def _write_steps(path: Path, dataset: Any, column: Column, episodes: Sequence[EpisodeArrays]) -> Moments:
    """Mean and deviation of a column (of vectors), after writing it episode by episode."""
    moments, row = Moments(), 0
    for number, episode in enumerate(episodes):
        values = _episode_column(path, column, episode, number)
        dataset[row : row + len(values)] = values
        row += len(values)
        if isinstance(column.field, Vector):
            moments.add(values)
    return moments


def _episode_column(path: Path, column: Column, episode: EpisodeArrays, number: int) -> Array:
    """One column of one episode, in the type it is stored in. Raises ShardError where it does not fit."""
    if column.key.startswith("observation/"):
        name = column.key.split("/", 1)[1]
        values = episode.observation.get(name)
    else:
        values = getattr(episode, column.key)
    where, refused = f" in episode {number}", REFUSED
    if values is None:
        found = f"no such part{where}, but {', '.join(map(str, episode.observation)) or 'none'}"
        raise ShardError(path, column.key, found, "all parts of the task", NAMES)
    try:
        array = column.cast(values)
    except TypeError as error:
        raise ShardError(path, column.key, f"{error}{where}", str(column.dtype), refused) from None
    shape = (len(episode.reward), *column.shape)
    if array.shape != shape:
        raise ShardError(path, column.key, f"shape {list(array.shape)}{where}", f"shape {list(shape)}", refused)
    bad = column.first_bad_row(array)
    if bad is not None:
        raise ShardError(path, column.key, f"{bad[1]}{where}, step {bad[0]}", bad[2], refused)
    return array
