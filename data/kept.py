"""Images of all shards, unpacked once: in memory, or on the GPU that trains, where windows are put together."""

from __future__ import annotations

import logging
import math
import mmap
import multiprocessing
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.filesize import decimal
from torch import Tensor

from data.columns import Array, columns
from data.index import Index

log = logging.getLogger(__name__)
PLACES = ("auto", "disk", "memory", "device")
SHARE = 0.5  # of what is free that "auto" may take
ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class KeptImages:
    """Image columns of all shards, one after another: key -> uint8 `[steps of all, C, h, w]`, on one device.

    first: the row at which each shard begins.
    """

    columns: Mapping[str, Tensor]
    first: Array

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return next(iter(self.columns.values())).device

    def windows(self, shard: Array, begin: Array, steps: Array, window_length: int) -> dict[str, Tensor]:
        """Windows `[B, window_length, C, h, w]` of every column: row `begin` of `shard` on; zeros from `steps` on."""
        number = np.arange(window_length)
        padded = number >= steps[:, None]
        rows = np.where(padded, 0, (self.first[shard] + begin)[:, None] + number)
        # Without waiting: what is copied from ordinary memory was read when the call returns.
        index = torch.from_numpy(rows.ravel()).to(self.device, non_blocking=True)
        blank = torch.from_numpy(padded).to(self.device, non_blocking=True) if padded.any() else None
        found = {}
        for key, column in self.columns.items():
            window = column.index_select(0, index).view(*rows.shape, *column.shape[1:])
            found[key] = window if blank is None else window.masked_fill_(blank[:, :, None, None, None], 0)
        return found


def keep_images(index: Index, place: str, device: torch.device, processes: int | None = None) -> KeptImages | None:
    """The images of an index, unpacked at that place; None where they stay on disk, or there are none.

    device: the one that trains. processes: that unpack side by side, as many as there are cores by default.
    """
    found = {key: column for key, column in columns(index.spec).items() if column.is_image}
    shards = [index.file(number) for number in range(len(index.paths))]
    counts = [int(shard.offsets[-1]) for shard in shards] if found and place != "disk" else []
    for shard in shards:
        shard.close()
    size = sum(column.row_bytes for column in found.values()) * sum(counts)
    if place == "auto":
        place = _roomy(size, device) if size else "disk"
    if place == "disk" or not size:
        return None
    log.info("images of %d shards are kept %s: %s", len(shards), _said(place, device), decimal(size))
    first = np.cumsum([0, *counts])
    arrays = {key: _shared((int(first[-1]), *column.shape)) for key, column in found.items()}
    _unpack(index, arrays, first, processes or len(os.sched_getaffinity(0)))
    there = torch.device("cpu") if place == "memory" else device
    return KeptImages({key: torch.from_numpy(array).to(there) for key, array in arrays.items()}, first)


def _roomy(size: int, device: torch.device) -> str:
    """The place for so many bytes: a GPU, its host's memory, or the disk; always the disk where a CPU trains."""
    if device.type != "cuda":
        return "disk"
    if size <= SHARE * torch.cuda.mem_get_info(device)[0]:
        return "device"
    return "memory" if size <= SHARE * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") else "disk"


def _said(place: str, device: torch.device) -> str:
    return f"on {device}" if place == "device" else "in memory"


def _shared(shape: tuple[int, ...]) -> Array:
    """An array of bytes in memory that processes forked from this one share."""
    return np.ndarray(shape, np.uint8, mmap.mmap(-1, math.prod(shape)))


_unpacking: Any = None  # what is unpacked now: an index, the arrays for its images, the first row of each shard


def _unpack(index: Index, arrays: Mapping[str, Array], first: Array, processes: int) -> None:
    """Fill the arrays, a shard to a process: HDF5 unpacks one chunk at a time in each. Raises ShardError."""
    global _unpacking
    _unpacking, numbers = (index, arrays, first), range(len(index.paths))
    try:
        if min(processes, len(numbers)) == 1:
            for number in numbers:
                _unpack_shard(number)
            return
        # Forked, so that it shares the arrays and need not be sent the rest.
        with ProcessPoolExecutor(processes, multiprocessing.get_context("fork")) as pool:
            list(pool.map(_unpack_shard, numbers))  # which raises what a process raised
    finally:
        _unpacking = None


def _unpack_shard(number: int) -> None:
    """Read one shard's images into their rows."""
    index, arrays, first = _unpacking
    with index.file(number) as shard:
        rows = int(shard.offsets[-1])
        for key, array in arrays.items():
            for begin in range(0, rows, ROWS_AT_ONCE):
                end = min(begin + ROWS_AT_ONCE, rows)
                array[first[number] + begin : first[number] + end] = shard.read(key, begin, end)
