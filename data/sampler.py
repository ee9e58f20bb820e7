"""The order of the data: lanes of consecutive windows, planned from episode lengths alone."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from data.columns import Array

NOTHING = -1  # in a plan row, instead of an episode: this lane has run out and its row is masked


class LaneSampler(Sampler[Array]):
    """Batches of plan rows, int64 `[lanes of this rank, 2]`: (episode, first step), or (-1, 0) for a masked row.

    A pure function of (seed, epoch, batch index) and the lengths. A lane runs through its episodes window by window,
    so row i of one batch continues row i of the batch before. Every episode is run exactly once per epoch.

    Dealing: episodes are shuffled, then dealt longest first, each to the lane with the fewest windows so far (ties:
    lowest lane), then every lane shuffles its own. So which episodes share a batch is random in every epoch, while the
    loads of the lanes, and with them the number of batches, depend on the lengths alone and are the same in every
    epoch (Lightning asks for the length once; with a plainly random deal a longer epoch would be cut short).

    More lanes than episodes are allowed here, as masked rows: the lanes of a small validation set must still divide
    among ranks. The datamodule refuses it for training, where it would only waste time.

    lanes: rows of the global batch; rank r of `world_size` gets the r-th block of lanes/world_size.
    """

    def __init__(
        self,
        lengths: Sequence[int] | Array,
        lanes: int,
        window_length: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
    ) -> None:
        lengths = np.asarray(lengths, np.int64)
        if lengths.ndim != 1 or len(lengths) == 0 or lengths.min() < 1:
            raise ValueError("lengths: expected one episode or more, each of one step or more")
        if window_length < 1:
            raise ValueError(f"window_length: expected 1 step or more, found {window_length}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank: expected 0 to {world_size - 1} (world_size={world_size}), found {rank}")
        if lanes < 1 or lanes % world_size:
            raise ValueError(
                f"lanes={lanes} cannot be shared by {world_size} processes; use a multiple of {world_size}, so that "
                "each has as many"
            )
        if seed < 0:
            raise ValueError(f"seed: expected 0 or more, found {seed}")
        self.lanes, self.window_length, self.seed, self.shuffle = lanes, window_length, seed, shuffle
        self._mine = slice(rank * lanes // world_size, (rank + 1) * lanes // world_size)
        self._windows = -(-lengths // window_length)
        self._lane_of_rank = _deal(np.sort(self._windows)[::-1], lanes)
        loads = np.bincount(self._lane_of_rank, np.sort(self._windows)[::-1], minlength=lanes)
        self._num_batches = int(loads.max())
        self._epoch, self._batch = 0, 0

    def __len__(self) -> int:
        """Batches in an epoch, the same in each; a resumed epoch counts those that were done before."""
        return self._num_batches

    def __iter__(self) -> Iterator[Array]:
        # Planned at the first batch, not at iter(): Lightning makes the iterator before it sets the epoch.
        plan = self.plan(self._epoch)
        for batch in range(self._batch, self._num_batches):
            yield plan[batch, self._mine]

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of this epoch; where it is the current one already, the position in it is kept."""
        if epoch != self._epoch:
            self._epoch, self._batch = epoch, 0

    def state_dict(self) -> dict[str, int]:
        """Where the next iteration begins. Iterating does not move it: a loader reads ahead."""
        return {"epoch": self._epoch, "batch": self._batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Begin the next iteration at this epoch and batch."""
        epoch, batch = int(state["epoch"]), int(state["batch"])
        if epoch < 0 or not 0 <= batch <= self._num_batches:
            raise ValueError(
                f"position epoch {epoch}, batch {batch} is outside an epoch of {self._num_batches} batches"
            )
        self._epoch, self._batch = epoch, batch

    def plan(self, epoch: int) -> Array:
        """The whole epoch for all lanes: int64 `[batches, lanes, 2]`."""
        count = len(self._windows)
        order, key = np.arange(count), np.arange(count)
        if self.shuffle:
            draw = np.random.default_rng([self.seed, epoch])
            order, key = draw.permutation(count), draw.permutation(count)
        order = order[np.argsort(-self._windows[order], kind="stable")]  # longest first; ties stay in random order
        if not self.shuffle:
            key = order
        inside = np.lexsort((key, self._lane_of_rank))  # lane by lane, and within each in the order of the keys
        episodes, lanes = order[inside], self._lane_of_rank[inside]
        windows = self._windows[episodes]
        done = np.cumsum(windows) - windows  # windows before this episode, over all lanes ...
        done -= done[np.searchsorted(lanes, lanes)]  # ... and in its own lane
        number = np.arange(windows.sum()) - np.repeat(np.cumsum(windows) - windows, windows)
        plan = np.zeros((self._num_batches, self.lanes, 2), np.int64)
        plan[..., 0] = NOTHING
        place = np.repeat(done, windows) + number, np.repeat(lanes, windows)
        plan[*place, 0] = np.repeat(episodes, windows)
        plan[*place, 1] = number * self.window_length
        return plan


def _deal(windows: Array, lanes: int) -> Array:
    """The lane of each episode, given their numbers of windows from most to fewest: always the least loaded lane."""
    loads = [(0, lane) for lane in range(lanes)]
    dealt = np.empty(len(windows), np.int64)
    for place, count in enumerate(windows.tolist()):
        load, lane = loads[0]
        dealt[place] = lane
        heapq.heapreplace(loads, (load + count, lane))
    return dealt
