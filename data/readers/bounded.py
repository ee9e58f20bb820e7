"""Arrays from files of unknown origin: numbers alone, no more than the file can hold, nothing outside it."""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np

from data.columns import Array
from data.episode import EpisodeError
from data.readers import ReadError
from elmur.files import check_regular
from elmur.spaces import SpaceError

MOST_BYTES = 1 << 31  # of one array of one episode, unpacked
MOST_RATIO = 1100  # of unpacked to stored bytes; Deflate reaches 1032
SMALL = 1 << 20  # bytes that any file may tell of
FILTERS = {
    h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF,
    h5py.h5z.FILTER_SCALEOFFSET, hdf5plugin.Zstd.filter_id,
}  # fmt: skip


def natural(path: Path) -> list[Any]:
    """A sort key by which file_2 comes before file_10."""
    return [int(word) if word.isdigit() else word for word in re.split(r"(\d+)", path.name)]


def inside(folder: Path, path: Path) -> Path:
    """The path, an ordinary file below the folder. Raises ReadError for others, links out of the folder too."""
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ReadError(f"{path}: leads out of {folder}; copy the file there")
    regular(path)
    return path


def regular(path: Path) -> None:
    """Raises ReadError for what is no ordinary file."""
    try:
        check_regular(path)
    except FileNotFoundError:
        raise ReadError(f"{path}: expected a file, found nothing") from None
    except ValueError as error:
        raise ReadError(f"{path}: {error}") from error


def check_size(what: str, needed: int, stored: int) -> None:
    """Raises ReadError where an array is larger than its file can tell of."""
    most = min(MOST_BYTES, max(SMALL, MOST_RATIO * stored))
    if needed > most:
        raise ReadError(f"{what}: found {needed} bytes told of in {stored}, expected at most {most}")


def npz(path: Path, keys: Sequence[str] | None, most: int | None = None) -> dict[str, Array]:
    """The arrays of an npz file, all or these. Raises ValueError where it is damaged, lacks one, or holds objects.

    most: bytes that they may take unpacked; None: what the file can tell of.
    """
    try:
        check_regular(path)
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            wanted = list(file.files) if keys is None else list(keys)
            missing = [key for key in wanted if key not in file.files]
            if missing:
                raise ReadError(f"no array {', '.join(missing)}; there are {', '.join(file.files) or 'none'}")
            sizes = {info.filename.removesuffix(".npy"): info.file_size for info in file.zip.infolist()}
            needed = sum(sizes[key] for key in wanted)
            if most is None:
                check_size("arrays", needed, path.stat().st_size)
            elif needed > most:
                raise ReadError(f"expected at most {most} bytes for an episode of this task, found {needed}")
            for key in wanted:
                _check_header(file.zip, key, sizes[key])
            return {key: file[key] for key in wanted}
    except ReadError:
        raise
    except Exception as error:  # damage can show in any way, from the zip archive down to a header that is parsed
        raise ValueError(f"not a whole npz file of numbers ({error})") from error


def _check_header(archive: Any, key: str, size: int) -> None:
    """Raises ReadError unless an array's header tells of as many bytes as follow it: its room is made by the header."""
    with archive.open(f"{key}.npy") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        told = math.prod(shape) * dtype.itemsize
        if not dtype.hasobject and told != size - file.tell():
            raise ReadError(f"{key}: found {size - file.tell()} bytes, expected {told}, for {dtype} {list(shape)[:5]}")


@contextlib.contextmanager
def hdf5(path: Path) -> Iterator[Any]:
    """An HDF5 file, open for reading. Raises ReadError for what is none, and for damage inside the block."""
    regular(path)
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except (ReadError, EpisodeError, SpaceError):
        raise
    except Exception as error:  # damage shows as any kind, TypeError and ValueError of names and types among them
        raise ReadError(f"{path}: not a whole HDF5 file ({' '.join(str(error).split())[:200]})") from error


def names(group: Any) -> list[str]:
    """The names in a group that are text; damaged ones are bytes."""
    return [name for name in group if isinstance(name, str)]


def member(file: Any, key: str) -> Any:
    """What lies under a key, followed through links within the file alone. Raises ReadError where there is nothing."""
    parts = key.strip("/").split("/")
    for depth in range(len(parts)):
        name = "/".join(parts[: depth + 1])
        link = file.get(name, getlink=True)
        if type(link) is not h5py.HardLink:
            found = "nothing" if link is None else f"a {type(link).__name__}"
            known = ", ".join(names(file["/".join(parts[:depth]) or "/"])[:12]) if depth or link is None else ""
            raise ReadError(f"{name}: found {found}" + (f"; there are {known}" if known else ""))
    return file[key]


def hdf5_array(file: Any, key: str) -> Array:
    """A whole data set of numbers. Raises ReadError where it is none, or larger than its file can tell of."""
    dataset = member(file, key)
    check_dataset(dataset, key)
    if dataset.dtype.kind not in "biuf":
        raise ReadError(f"{key}: found {dataset.dtype}, expected numbers")
    check_size(key, math.prod(dataset.shape) * dataset.dtype.itemsize, dataset.id.get_storage_size())
    return np.asarray(dataset[()])


def check_dataset(dataset: Any, key: str) -> None:
    """Raises ReadError for what is no data set that lies in its file and is packed by a filter that is known."""
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise ReadError(
            f"{key}: found {'a group' if isinstance(dataset, h5py.Group) else 'no data'}, expected a data set"
        )
    plist = dataset.id.get_create_plist()
    filters = {plist.get_filter(i)[0] for i in range(plist.get_nfilters())}
    if dataset.is_virtual or plist.get_external_count() > 0 or not filters <= FILTERS:
        raise ReadError(
            f"{key}: found storage outside the file or with HDF5 filters {sorted(filters)}, expected plain data"
        )
    if dataset.chunks is not None and math.prod(dataset.chunks) * dataset.dtype.itemsize > MOST_BYTES:
        raise ReadError(f"{key}: found chunks of {dataset.chunks}, expected at most {MOST_BYTES} bytes")


def picture(content: bytes, shape: tuple[int, ...]) -> Array:
    """The pixels of a JPEG or PNG file, uint8 [H, W] or [H, W, C]. Raises ReadError unless it is of this shape."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            if (image.height, image.width) != shape[:2]:
                raise ReadError(f"a picture of {image.height} x {image.width} pixels, expected {shape[0]} x {shape[1]}")
            pixels: Array = np.asarray(image.convert("L" if len(shape) == 2 or shape[2] == 1 else "RGB"), np.uint8)
            return pixels.reshape(shape)
    except ReadError:
        raise
    except Exception as error:  # Pillow lets many kinds through, from struct.error to SyntaxError
        raise ReadError(f"no picture as JPEG or PNG ({' '.join(str(error).split())[:200]})") from error


def minari_home() -> Path:
    """Where Minari keeps data sets that are named by their id."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")
