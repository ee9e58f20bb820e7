"""How one array or text of a shard is stored in HDF5, and the check that a file stores it so."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin

from data.columns import Column
from data.errors import ShardError

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
    if outside or FLETCHER32 not in filters or not filters <= {ZSTD, FLETCHER32}:
        raise ShardError(path, column.key, f"storage with HDF5 filters {sorted(filters)}", "checksummed chunks, Zstd")
    _check_chunks(path, dataset, column)
    return dataset


def _check_chunks(path: Path, dataset: Any, column: Column) -> None:
    """Raises ShardError unless all chunks are there, each as small as ours: absent ones would be read as zeros."""
    size = math.prod(dataset.chunks) * dataset.dtype.itemsize
    if size > LARGEST_CHUNK:
        raise ShardError(path, column.key, f"chunks of {size} bytes", f"{LARGEST_CHUNK} or less")
    needed = math.prod(-(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True))
    stored = dataset.id.get_num_chunks()
    if stored != needed:
        raise ShardError(path, column.key, f"{stored} chunks", f"{needed}, for shape {list(dataset.shape)}")
