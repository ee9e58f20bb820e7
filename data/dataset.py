"""Windows of many lanes, read as one batch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from data.columns import LABEL, PREFERENCE, Array, Column, columns
from data.index import Index
from data.kept import KeptImages
from data.shard import Shard
from elmur.batch import Outcome, SegmentBatch

OPEN_FILES = 16
CACHE_BYTES = 256 << 20


class Rows(Protocol):
    """Rows of one column: an array in memory, or one in a file."""

    def __getitem__(self, rows: slice, /) -> Array: ...


class WindowDataset(Dataset[SegmentBatch]):
    """Item: plan rows `[B, 2]` of (episode or -1, first step) -> SegmentBatch of B windows of `window_length` steps.

    A window that runs past the end of its episode is padded with zeros and masked, as is a row of episode -1.
    Columns of shards other than images and whole shards' returns-to-go are kept decoded while `cache_bytes` allow, in
    the order in which shards are met; beyond that, and for images, each window is one contiguous read per column. So a
    small data set is read once, and a large one never lies in memory. Every process has its own handles and cache.
    kept: the images of all shards, where they are to lie in memory; windows are then gathered where they lie.
    transitions: rewards, ends of episodes and the step after each window as well; preferences: what the expert held of
    each action (`elmur.batch.Reads`).
    """

    def __init__(
        self,
        index: Index,
        window_length: int,
        cache_bytes: int = CACHE_BYTES,
        kept: KeptImages | None = None,
        transitions: bool = False,
        preferences: bool = False,
    ) -> None:
        if window_length < 1:
            raise ValueError(f"window_length: expected 1 step or more, found {window_length}")
        self.index, self.window_length, self.cache_bytes, self.kept = index, window_length, cache_bytes, kept
        known = columns(index.spec, sorted(index.optional - (set() if preferences else {PREFERENCE})))
        found = {key: column for key, column in known.items() if not column.per_episode}
        self._columns = {**found, "return_to_go": Column("return_to_go", np.dtype(np.float32))}
        self._terminated = index.terminated() if transitions else None
        self._read_length = window_length + transitions
        if not transitions:
            del self._columns["reward"]
        if kept is not None:
            self._columns = {key: column for key, column in self._columns.items() if not column.is_image}
        self._arrays: dict[int, Mapping[str, Rows]] = {}
        self._files = _Files(index)
        self._cached_bytes = 0

    def __len__(self) -> int:
        """Number of episodes; items are lists of plan rows, so this counts what they may name."""
        return len(self.index)

    def __getitem__(self, plan: Array) -> SegmentBatch:
        plan = np.asarray(plan, np.int64)
        episode, start = plan[:, 0], plan[:, 1]
        real = episode >= 0
        # Row -1 of the tables stands in for "no episode"; its values are not used.
        left = np.where(real, self.index.lengths[episode] - start, 0)
        steps = np.minimum(left, self._read_length)
        if real.any() and (start[real].min() < 0 or steps[real].min() < 1):
            raise IndexError(f"plan {plan[real & ((start < 0) | (steps < 1))][0].tolist()} lies outside its episode")
        begin = self.index.offset[episode] + start
        shape = (len(plan), self._read_length)
        buffers = {key: np.zeros((*shape, *c.shape), c.dtype) for key, c in self._columns.items()}
        todo = zip(self.index.shard[episode].tolist(), begin.tolist(), steps.tolist(), strict=True)
        for row, (shard, first, count) in enumerate(todo):
            if count:
                arrays = self._arrays.get(shard) or self._open(shard)
                for key, buffer in buffers.items():
                    buffer[row, :count] = arrays[key][first : first + count]
        tensors = {key: torch.from_numpy(buffer) for key, buffer in buffers.items()}
        if self.kept is not None:
            tensors |= self.kept.windows(self.index.shard[episode], begin, steps, self._read_length)
        mask = np.arange(self._read_length) < steps[:, None]
        is_last = left <= self.window_length
        found = SegmentBatch(
            observation={name: tensors[f"observation/{name}"] for name in self.index.spec.observation},
            action=tensors["action"],
            return_to_go=tensors["return_to_go"],
            mask=torch.from_numpy(mask),
            loss_mask=tensors["loss_mask"],
            is_first=torch.from_numpy(real & (start == 0)),
            is_last=torch.from_numpy(is_last),
            start=torch.from_numpy(np.where(real, start, 0)),
            goes_on=not bool(is_last.all()),
            label=tensors.get(LABEL),
            preference=tensors.get(PREFERENCE),
        )
        if self._terminated is None:
            return found
        window, after = found.split(self.window_length)
        ends = torch.from_numpy(real & is_last & self._terminated[episode])
        outcome = Outcome(tensors["reward"][:, : self.window_length], ends, after)
        return replace(window, is_last=found.is_last, goes_on=found.goes_on, outcome=outcome)

    def __getstate__(self) -> dict[str, Any]:
        """Without handles and cache, for a worker that is started afresh."""
        return {**self.__dict__, "_arrays": {}, "_files": _Files(self.index), "_cached_bytes": 0}

    def _open(self, number: int) -> Mapping[str, Rows]:
        """The columns of one shard, decoded in memory or read from the file at each use."""
        shard = self._files[number]
        size = sum(c.row_bytes for c in self._columns.values() if not c.is_image) * int(shard.offsets[-1])
        cached = self._cached_bytes + size <= self.cache_bytes
        rows: dict[str, Rows] = {}
        for key, column in self._columns.items():
            stored = "action" if key == LABEL and LABEL not in shard.columns else key  # there the expert acted
            if cached and not column.is_image:
                rows[key] = _decoded(shard, stored)
            else:
                rows[key] = (_Returns if key == "return_to_go" else _Stored)(self._files, number, stored)
        if cached:
            self._cached_bytes += size
        self._arrays[number] = rows
        return rows


class _Files:
    """Shards by number, of which the `OPEN_FILES` used last are open."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._shards: dict[int, Shard] = {}
        self._open: OrderedDict[int, None] = OrderedDict()

    def __getitem__(self, number: int) -> Shard:
        shard = self._shards.get(number)
        if shard is None:
            shard = self._shards[number] = self._index.file(number)
        self._open[number] = None
        self._open.move_to_end(number)
        if len(self._open) > OPEN_FILES:
            self._shards[self._open.popitem(last=False)[0]].close()
        return shard


class _Stored:
    """A column in its file."""

    def __init__(self, files: _Files, number: int, key: str) -> None:
        self._files, self._number, self._key = files, number, key

    def __getitem__(self, rows: slice) -> Array:
        return self._files[self._number].read(self._key, rows.start, rows.stop)


class _Returns(_Stored):
    """Returns-to-go of a window, from the rewards up to the end of its episode."""

    def __getitem__(self, rows: slice) -> Array:
        shard = self._files[self._number]
        end = int(shard.offsets[np.searchsorted(shard.offsets, rows.start, side="right")])
        return returns_to_go(shard.read("reward", rows.start, end))[: rows.stop - rows.start]


def returns_to_go(reward: Array) -> Array:
    """Sum of the rewards from each step to the last: float32 [T], summed in float64 from the end."""
    return np.cumsum(reward[::-1], dtype=np.float64)[::-1].astype(np.float32)


def _decoded(shard: Shard, key: str) -> Array:
    """A whole column of a shard in memory."""
    rows = int(shard.offsets[-1])
    if key != "return_to_go":
        return shard.read(key, 0, rows)
    reward = shard.read("reward", 0, rows)
    return np.concatenate([returns_to_go(part) for part in np.split(reward, shard.offsets[1:-1])])
