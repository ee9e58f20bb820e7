"""Minari's data sets, read from their files, HDF5, Arrow and Parquet, and written by Minari itself.

Minari itself would make the environment that `metadata.json` names, and with it import what the file says; here the
spaces are read from JSON and nothing is imported.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.columns import Array
from data.episode import Episode
from data.index import Index, build_index, task_of
from data.readers import EpisodeReader, ReadError, rewards
from data.readers.bounded import (
    check_dataset,
    check_size,
    hdf5,
    hdf5_array,
    inside,
    member,
    minari_home,
    names,
    picture,
)
from data.readers.table import Table, column, opened
from elmur.files import PARTIAL, read_json
from elmur.spaces import Leaf, SpaceError, action_leaf, leaves
from elmur.spec import Discrete, Field, Image, SpecError, TaskSpec

ID = re.compile(r"[-\w]+(/[-\w]+)*")
SMALLEST_JPEG = 32  # pixels of a side from which Minari compresses pictures
TASK = "elmur_task"  # of metadata.json: the TaskSpec, where the data were exported from shards


class Minari(EpisodeReader):
    """The episodes of a data set, by number.

    source: its folder, or its id, of which Minari has a folder (MINARI_DATASETS_PATH). without: parts of the
    observation to leave out. reward: null to store zeros in the place of rewards, which imitation does not read.
    """

    def __init__(self, source: Path | str, without: Sequence[str] = (), reward: str | None = "rewards") -> None:
        self.folder = _folder(source)
        self._reward = reward
        found = _metadata(self.folder)
        self._format, self._jpeg = str(found.get("data_format", "hdf5")), bool(found.get("jpeg_encoding", True))
        if self._format not in ("hdf5", "arrow", "parquet"):
            raise ReadError(f"{self.folder}: data_format: found {self._format!r}, expected hdf5, arrow or parquet")
        spaces = [_space(found, key, self.folder) for key in ("observation_space", "action_space")]
        try:
            self.parts, self.action = leaves(spaces[0], tuple(without), "reader.without"), action_leaf(spaces[1])
        except SpaceError as error:
            raise ReadError(f"{self.folder}: {error}") from error
        self.spec = self._task(found)
        self.made_with = {"minari": str(found.get("minari_version", "unknown"))}
        self.places = {f"episode_{number}": number for number in self._numbered()}
        if not self.places:
            raise ReadError(f"{self.folder}: expected episodes, found none")

    def _task(self, found: dict[str, Any]) -> TaskSpec:
        own = TaskSpec(self.folder.parent.name, {p.name: p.field for p in self.parts}, self.action.action_field)
        try:
            told = TaskSpec.from_json(found[TASK])
        except (KeyError, SpecError):
            return own
        return told if not own.differences(told) else own

    def _numbered(self) -> list[int]:
        if self._format != "hdf5":
            return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit() and path.is_dir())
        with hdf5(inside(self.folder, self.folder / "main_data.hdf5")) as file:
            return sorted(int(name[8:]) for name in names(file) if re.fullmatch(r"episode_\d{1,15}", name))

    def read(self, place: int) -> Episode:
        return (self._from_hdf5 if self._format == "hdf5" else self._from_table)(place)

    def _from_hdf5(self, number: int) -> Episode:
        group = f"episode_{number}"
        with hdf5(inside(self.folder, self.folder / "main_data.hdf5")) as file:
            seed = member(file, group).attrs.get("seed", -1)
            mask = f"{group}/infos/loss_mask"
            return self._episode(
                lambda leaf, root: _from_group(file, f"{group}/{root}", leaf, self._jpeg and is_jpeg(leaf)),
                lambda key: hdf5_array(file, f"{group}/{key}"),
                hdf5_array(file, mask) if mask in file else None,
                seed,
            )

    def _from_table(self, number: int) -> Episode:
        folder = self.folder / str(number)
        paths = [path for path in sorted(folder.iterdir()) if path.suffix == f".{self._format}"]
        if len(paths) != 1:
            raise ReadError(f"found {len(paths)} files *.{self._format}, expected one")
        with opened(inside(self.folder, paths[0])) as table:
            about = folder / "metadata.json"
            seed = read_json(about).get("seed", -1) if about.is_file() else -1
            length = len(table) - 1  # actions and rewards are filled up to the number of observations
            infos = table.names("infos")
            return self._episode(
                lambda leaf, root: _from_column(table, root, leaf, self._jpeg and is_jpeg(leaf)),
                lambda key: column(table, (key,))[:length],
                column(table, ("infos", "loss_mask")) if "loss_mask" in infos else None,
                seed,
                length,
            )

    def _episode(
        self,
        leaf_values: Callable[[Leaf, str], Array],
        values: Callable[[str], Array],
        mask: Array | None,
        seed: Any,
        length: int | None = None,
    ) -> Episode:
        """An episode of what its file holds; the last observation, on which nothing was done, is left out."""
        action = self.action.stored_action(leaf_values(self.action, "actions")[:length])
        steps = len(action)
        reward = rewards(self._reward, lambda _: values("rewards"))
        seen = {leaf.name: leaf.stored(leaf_values(leaf, "observations")) for leaf in self.parts}
        told = mask.reshape(len(mask), -1)[:steps, 0].astype(np.bool_) if mask is not None and mask.size else None
        ends = values("terminations"), values("truncations")
        number = int(seed) if isinstance(seed, int | np.integer) and -1 <= seed < 1 << 63 else -1
        return Episode.of(seen, action, reward, *ends, loss_mask=told, seed=number)


def _folder(source: Path | str) -> Path:
    """The folder with metadata.json. Raises ReadError where there is none."""
    path, text = Path(source), str(source)
    known = [path, path / "data"]
    if ID.fullmatch(text):
        known.append(minari_home() / text / "data")
    for folder in known:
        if (folder / "metadata.json").is_file():
            return folder
    looked = ", ".join(str(folder) for folder in known)
    raise ReadError(
        f"source={source}: expected a Minari data set with metadata.json in one of {looked}; `minari download {text}` "
        "fetches one that is published"
    )


def _metadata(folder: Path) -> dict[str, Any]:
    try:
        found = read_json(inside(folder, folder / "metadata.json"))
    except (ValueError, OSError, RecursionError) as error:
        raise ReadError(f"{folder / 'metadata.json'}: expected JSON, found {error}") from error
    if not isinstance(found, dict):
        raise ReadError(f"{folder / 'metadata.json'}: expected a dictionary, found {type(found).__name__}")
    return found


def _space(found: dict[str, Any], key: str, folder: Path) -> Any:
    """The space that metadata.json describes. Raises ReadError where it names an environment alone."""
    try:
        return json.loads(found[key])
    except KeyError:
        raise ReadError(
            f"{folder / 'metadata.json'}: {key}: found nothing, expected a space; the environment that the file names "
            "is not made for it; open and save the data set with Minari 0.5"
        ) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise ReadError(f"{folder / 'metadata.json'}: {key}: expected JSON, found {error}") from error


def is_jpeg(leaf: Leaf) -> bool:
    """Whether Minari compresses it where it compresses pictures."""
    return leaf.is_bytes and min(leaf.shape[:2]) >= SMALLEST_JPEG


def _from_group(file: Any, root: str, leaf: Leaf, is_jpeg: bool) -> Array:
    """The values of a leaf in HDF5."""
    steps = [f"_index_{step}" if isinstance(step, int) else step for step in leaf.path]
    key = "/".join([root, *steps])
    if not is_jpeg:
        return hdf5_array(file, key)
    dataset = member(file, key)
    check_dataset(dataset, key)
    return _pictures(
        leaf, (bytes(np.asarray(row, np.uint8)) for row in dataset), len(dataset), dataset.id.get_storage_size()
    )


def _from_column(table: Table, root: str, leaf: Leaf, is_jpeg: bool) -> Array:
    """The values of a leaf in Arrow or Parquet."""
    path = (root, *map(str, leaf.path))
    if is_jpeg:
        return _pictures(leaf, table.contents(path), len(table), table.size)
    values = column(table, path)
    return values.reshape(len(values), *leaf.shape)


def _pictures(leaf: Leaf, contents: Any, count: int, stored: int) -> Array:
    """Pictures [T, ...] of as many files."""
    check_size(leaf.name, count * int(np.prod(leaf.shape)), stored)
    pixels = np.empty((count, *leaf.shape), np.uint8)
    for row, content in enumerate(contents):
        pixels[row] = picture(content, leaf.shape)
    return pixels


def write(root: Path | str, folder: Path | str, data_format: str = "hdf5") -> Path:
    """The folder of a data set of Minari, `<folder>/<task>-v0`, made of the shards in `root`.

    data_format: hdf5, arrow or parquet. Pictures are kept as they are, not as JPEG. Of what shards hold, Minari's
    format has no place for their division into files, their provenance, and whether vectors are to be normalised; it
    has one more observation, the last, for which the one before it is repeated. All else comes back by `Minari`, bit
    for bit.
    Raises ReadError where the package is missing, or where something is there already.
    """
    try:
        import minari
        from minari.dataset.minari_storage import MinariStorage
        from minari.serialization import deserialize_space
    except ImportError as error:
        raise ReadError(f"writer=minari needs the package minari: pip install 'minari[hdf5]' ({error})") from error
    index, spec = build_index(root), task_of(root)
    name = re.sub(r"[^-\w]", "_", spec.name, flags=re.ASCII) + "-v0"
    path = Path(folder).absolute() / name  # of a relative path Minari measures another folder
    if path.exists():
        raise ReadError(
            f"{path}: found a data set of before, expected nothing; delete it, or give writer.folder=ANOTHER"
        )
    parts = {part: _space_of(part, field) for part, field in spec.observation.items()}
    whole = parts["observation"] if list(parts) == ["observation"] else {"type": "Dict", "subspaces": parts}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".", suffix=PARTIAL) as temporary:
        storage = MinariStorage.new(
            Path(temporary) / "data", deserialize_space(whole), deserialize_space(_space_of("action", spec.action)),
            data_format=data_format, jpeg_encoding=False,
        )  # fmt: skip
        about = {
            "dataset_id": name,
            "minari_version": minari.__version__,
            "algorithm_name": "elmur",
            TASK: spec.to_json(),
        }
        storage.update_metadata(about)
        storage.update_episodes(_buffers(index))
        os.replace(temporary, path)
        Path(temporary).mkdir()  # to be removed
    return path


def _space_of(name: str, field: Field) -> dict[str, Any]:
    """A space as Minari writes it down."""
    if isinstance(field, Discrete):
        if len(field.sizes) == 1:
            return {"type": "Discrete", "n": field.sizes[0], "start": 0}
        return {"type": "MultiDiscrete", "nvec": list(field.sizes), "start": [0] * len(field.sizes), "dtype": "int64"}
    if isinstance(field, Image):
        shape = _layout(field)
        if not (shape == field.shape or shape[0] >= shape[2]):
            raise ReadError(f"{name}: found pictures of {list(field.shape)}, expected more pixels than channels a side")
        return {"type": "Box", "shape": shape, "dtype": "uint8", "low": np.zeros(shape), "high": np.full(shape, 255)}
    low, high = (
        np.full(field.size, end) if told is None else np.array(told)
        for told, end in ((field.low, -np.inf), (field.high, np.inf))
    )
    return {"type": "Box", "shape": [field.size], "dtype": "float32", "low": low, "high": high}


def _layout(field: Image) -> tuple[int, ...]:
    """The shape by which a reader tells channels from pixels: first where there are fewer of them than columns."""
    return field.shape if field.channels < field.width else (field.height, field.width, field.channels)


def _buffers(index: Index) -> Iterator[Any]:
    """Every episode as Minari takes it."""
    from minari.data_collector.episode_buffer import EpisodeBuffer

    for number in range(len(index)):
        arrays, steps = index.episode(number), int(index.lengths[number])
        seen: dict[str, Array] = {}
        for part, field in index.spec.observation.items():
            values = arrays[f"observation/{part}"]
            if isinstance(field, Discrete) and len(field.sizes) == 1:
                values = values[:, 0]
            elif isinstance(field, Image) and _layout(field) != field.shape:
                values = np.moveaxis(values, 1, -1)
            seen[part] = np.concatenate([values, values[-1:]])
        last = np.arange(steps) == steps - 1
        seed = int(arrays["seed"][0])
        yield EpisodeBuffer(
            seed=None if seed < 0 else seed,
            observations=seen["observation"] if list(seen) == ["observation"] else seen,
            actions=arrays["action"],
            rewards=arrays["reward"],
            terminations=last & arrays["terminated"],
            truncations=last & arrays["truncated"],
            infos={"loss_mask": np.concatenate([arrays["loss_mask"], [True]])[:, None]},  # Arrow: Minari reads no [T]
        )
