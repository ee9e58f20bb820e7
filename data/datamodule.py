"""TrajectoryDataModule: from a folder of shards to batches of windows, in an order that survives a restart."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Sampler

from data.collection import Collection, Served, find_shards
from data.columns import PREFERENCE, Array
from data.dataset import WindowDataset
from data.forecast import step_bytes
from data.index import Index, build_index, task_of
from data.kept import PLACES, KeptImages, keep_images
from data.sampler import LaneSampler
from data.shard import ShardError
from elmur.batch import Reads, SegmentBatch
from elmur.children import serve_parent
from elmur.spec import TaskSpec

log = logging.getLogger(__name__)
# Keep the draws for different purposes apart although they share a seed.
SPLIT_STREAM, LOADER_STREAM = 0x5B117, 0x10AD


class TrajectoryDataModule(LightningDataModule):
    """Batches of windows from the shards in a folder; needs `Trainer(use_distributed_sampler=False)`.

    root: the folder of shards. collect: called with no argument before the shards are looked for; it collects what is
    missing, does nothing where all is there, raises where the folder holds something else, and gives what was asked
    for; without it all shards that are there serve.
    context_length, backprop_segments: a window is their product of steps.
    lanes: rows of the global batch, shared among the ranks.
    validation_fraction: part of the episodes, drawn by `seed`, that is kept for `val_dataloader`.
    on_bad_shard: "fail" at a damaged shard, or "skip" it, count it and say so.
    verify: read every byte once before training; turn off where the data are too many to be read twice.
    keep: where images lie during training: on "disk", unpacked for every batch; unpacked once in "memory", or on the
    "device" that trains, where batches are then put together; "auto": with a GPU, the last of these that has the room.

    `allow_other_data`, to be set: a run may go on with other episodes than it began with, from the start of its epoch.
    `reads`, to be set before `setup`: what the way of learning reads beside what cloning does.
    `rounds`, to be set before `setup`: folders of more episodes to train on, in the order in which they were made. A
    run that goes on with one folder more than its checkpoint knew begins an epoch with them.
    The order depends on the seed alone, not on workers or ranks. `state_dict` says which batch comes after those that
    the trainer has finished, whatever its workers have read ahead.
    """

    def __init__(
        self,
        root: Path | str,
        context_length: int,
        backprop_segments: int,
        lanes: int,
        num_workers: int = 0,
        seed: int = 0,
        validation_fraction: float = 0.0,
        collect: Callable[[], Served] | None = None,
        on_bad_shard: Literal["fail", "skip"] = "fail",
        verify: bool = True,
        keep: Literal["auto", "disk", "memory", "device"] = "auto",
    ) -> None:
        super().__init__()
        self.prepare_data_per_node = False  # one process collects; the folder is seen by all of them
        smallest = {"context_length": 1, "backprop_segments": 1, "lanes": 1, "num_workers": 0, "seed": 0}
        given = dict(zip(smallest, (context_length, backprop_segments, lanes, num_workers, seed), strict=True))
        for name, least in smallest.items():
            if given[name] < least:
                raise ValueError(f"{name}: expected {least} or more, found {given[name]}")
        if not 0.0 <= validation_fraction < 1.0:
            raise ValueError(f"validation_fraction: expected 0 to below 1, found {validation_fraction}")
        if on_bad_shard not in ("fail", "skip"):
            raise ValueError(f"on_bad_shard: expected 'fail' or 'skip', found {on_bad_shard!r}")
        if keep not in PLACES:
            raise ValueError(f"keep: expected one of {', '.join(PLACES)}; found {keep!r}")
        self.root, self.window_length, self.lanes = Path(root), context_length * backprop_segments, lanes
        self.num_workers, self.seed, self.validation_fraction = num_workers, seed, validation_fraction
        self.collect, self.on_bad_shard, self.verify = collect, on_bad_shard, verify
        self.keep, self.allow_other_data, self.reads = keep, False, Reads()
        self._kept: KeptImages | None = None
        self._served: Served | None = None
        self._index: Index | None = None
        self._own: Index | None = None  # of the expert's own episodes those to train on
        self._train: Index | None = None
        self._validation: Index | None = None
        self.rounds: Sequence[Path] = ()
        self._more: list[Index] = []  # of the rounds
        self._position: dict[str, int] | None = None
        self._begin = {"epoch": 0, "batches": 0}  # the epoch in which this order of data began, and batches before that
        self._is_new_order = False

    @property
    def index(self) -> Index:
        """All episodes. Raises RuntimeError before `setup`."""
        if self._index is None:
            raise RuntimeError("the data are not indexed yet: call prepare_data() and setup() first")
        return self._index

    @property
    def validation_episodes(self) -> int:
        """How many episodes are set apart for validation."""
        self.setup()
        return 0 if self._validation is None else len(self._validation)

    @property
    def spec(self) -> TaskSpec:
        """The task of the shards, with normalisation statistics where they ask for it."""
        return self.index.spec

    @property
    def step_bytes(self) -> int:
        """What a step of the task takes in memory."""
        return step_bytes(self.spec)

    def found(self) -> list[Path]:
        """The finished shards that are in the folder now, by name."""
        return find_shards(self.root)

    def recorded(self) -> TaskSpec:
        """The task of the shards that are in the folder now. Raises ShardError where there is none."""
        return task_of(self.root)

    def holds(self, digest: str) -> bool:
        """Whether the episodes in the folder are those of a digest, as far as its shards can be read.

        Collected ones are told by what they were collected with, and not looked at.
        """
        recorded = Collection.read(self.root)
        if not self.found() or (recorded is not None and not recorded.converted):
            return True
        try:
            index = build_index(self.root, on_bad_shard=self.on_bad_shard, verify=False)
        except ShardError:
            return True
        return digest in (index.digest, index.outline)

    def provenance(self) -> dict[str, Any]:
        """Which data these are, as plain values: how many, their digest, and how they were collected, where known."""
        recorded = Collection.read(self.root)
        return {
            "folder": self.root.name,
            "episodes": len(self.index),
            "steps": int(self.index.lengths.sum()),
            "digest": self.index.digest,
            "collection": None if recorded is None else recorded.parameters,
            **(
                {"rounds": [_labelled(*one) for one in zip(self.rounds, self._more, strict=True)]}
                if self.rounds
                else {}
            ),
        }

    def prepare_data(self) -> None:
        """Collect what is missing."""
        if self.collect is not None:
            self._served = self.collect()

    def setup(self, stage: str | None = None) -> None:
        """Index the folder and set the validation episodes apart."""
        if self._index is not None:
            return
        served = self._served
        if self.trainer is not None and self.trainer.world_size > 1:
            served = self.trainer.strategy.broadcast(served)  # only the first process has collected
        index = build_index(self.root, on_bad_shard=self.on_bad_shard, verify=self.verify, served=served)
        kept = round(self.validation_fraction * len(index))
        if self.validation_fraction and not kept:
            raise ValueError(
                f"validation_fraction={self.validation_fraction:g} of the {len(index)} episodes in {self.root} is "
                f"none; use {1 / len(index):.2g} or more, or 0 for no validation"
            )
        order = np.random.default_rng([self.seed, SPLIT_STREAM]).permutation(len(index))
        train, validation = np.sort(order[kept:]), np.sort(order[:kept])
        chosen = index.subset(train)
        if self.reads.best_fraction is not None:
            chosen = chosen.subset(chosen.best(self.reads.best_fraction))
        if len(chosen) < self.lanes:
            raise ValueError(
                f"lanes={self.lanes}, but {self.root} has {len(chosen)} episodes to train on, so that most rows of a "
                f"batch would stay empty; use lanes of {len(chosen)} or less, or collect more episodes"
            )
        if self.reads.preferences and PREFERENCE not in index.common:
            raise ValueError(
                f"{self.root}: its shards do not say what their expert held of each action, which module.objective "
                "learns from; set collect.preferences=true and collect again, into another folder, shards=FOLDER"
            )
        if self.reads.transitions and not chosen.has_rewards():
            raise ValueError(
                f"{self.root}: every reward of its {len(chosen)} episodes is 0, so that there is nothing to value; "
                "collect episodes with rewards, or clone what is there: module=imitation"
            )
        self._more = [build_index(one, on_bad_shard=self.on_bad_shard, verify=self.verify) for one in self.rounds]
        self._own, self._train = chosen, reduce(Index.joined, self._more, chosen)
        self._validation = index.subset(validation) if kept else None
        self._index = reduce(Index.joined, self._more, index)

    def train_dataloader(self) -> DataLoader[SegmentBatch]:
        """Windows for training; begins where a loaded state says."""
        self.setup()
        assert self._train is not None
        sampler = self._sampler(self._train, self.lanes, shuffle=True)
        if self._is_new_order and self._position is not None and self.trainer is not None:
            self._begin = {"epoch": self._position["epoch"], "batches": self._processed()}
            self._is_new_order = False
        self._tell_of_no_validation(len(sampler))
        if self.trainer is None:
            sampler.load_state_dict(self._next_position())
            return self._loader(self._train, sampler)
        return self._loader(self._train, _Following(sampler, self._next_position))

    def _tell_of_no_validation(self, batches: int) -> None:
        """Warn where training ends before the first validation, which comes after an epoch."""
        if self._validation is None or self.trainer is None or self.trainer.val_check_interval != 1.0:
            return
        first = batches * (self.trainer.check_val_every_n_epoch or 1)
        if 0 <= self.trainer.max_steps < first:
            log.warning(
                "no validation: training ends after %d updates, the first validation comes after %d; "
                "+trainer.val_check_interval=%d would make it earlier", self.trainer.max_steps, first,
                max(1, self.trainer.max_steps),
            )  # fmt: skip

    def val_dataloader(self) -> DataLoader[SegmentBatch] | list[Any]:
        """Windows of the validation episodes, always in the same order; nothing where none are set apart."""
        self.setup()
        if self._validation is None:
            return []
        world_size = self._world()[1]
        needed = -(-len(self._validation) // world_size) * world_size
        return self._loader(self._validation, self._sampler(self._validation, min(self.lanes, needed), shuffle=False))

    def state_dict(self) -> dict[str, Any]:
        """The position after the last finished batch, what the order depends on, and where it began."""
        return {"position": self._next_position(), "order": self._orders()[0], "begin": dict(self._begin)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on at a saved position. Raises ValueError where the saved order is not the one planned here."""
        (here, former), position = self._orders(), dict(state_dict["position"])
        if self.rounds and state_dict["order"] in self._orders(len(self.rounds) - 1):
            self._position, self._is_new_order = {"epoch": position["epoch"] + 1, "batch": 0}, True
            return
        differ = {
            key: f"{key} was {old}, now {here.get(key)}"
            for key, old in state_dict["order"].items()
            if old not in (here.get(key), former.get(key))
        }
        said = "; ".join(differ.values())
        if differ and not (self.allow_other_data and set(differ) <= {"episodes", "steps", "data"}):
            raise ValueError(
                f"cannot resume in the middle of another order of data: {said}; restore these settings, start a new "
                "run, or, where only the episodes are others, go on with allow_mismatch=[data]"
            )
        if differ:
            log.warning("goes on with other data, from the beginning of its epoch: %s", said)
            position["batch"], self._is_new_order = 0, True
        else:
            self._begin = dict(state_dict.get("begin", self._begin))
        self._position = position

    def _orders(self, rounds: int | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Everything that the order of batches is a function of, with the first so many rounds; None: with all.

        As it is written down, and as it was before digests told the values of trajectories of one's own.
        """
        self.setup()
        assert self._own is not None and self._train is not None
        more = self._more[:rounds]
        trained_on = self._train if rounds is None else reduce(Index.joined, more, self._own)
        order = {
            "seed": self.seed,
            "lanes": self.lanes,
            "window_length": self.window_length,
            "validation_fraction": self.validation_fraction,
            "task": self.spec.name,
            "episodes": len(trained_on),
            "steps": int(trained_on.lengths.sum()),
            "data": trained_on.digest,
            **({"rounds": len(more)} if more else {}),
        }
        return order, {**order, "data": trained_on.outline}

    def _next_position(self) -> dict[str, int]:
        """Epoch and batch that follow what the trainer has finished, at whatever hook this is asked."""
        batches = math.inf if self.trainer is None else self.trainer.num_training_batches
        if math.isinf(batches):  # training has not begun
            return self._position or {"epoch": 0, "batch": 0}
        # By the number of batches in all, not by Lightning's epochs: with max_steps, a run resumed from the end of an
        # epoch counts an epoch without batches. And by `processed`, not `completed`: on_train_batch_end, where
        # checkpoints are saved, comes before a batch is completed.
        epoch, batch = divmod(self._processed() - self._begin["batches"], int(batches))
        return {"epoch": self._begin["epoch"] + epoch, "batch": batch}

    def _processed(self) -> int:
        """Batches that the run was trained on."""
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress.total  # type: ignore[union-attr]
        return int(progress.processed)

    def _world(self) -> tuple[int, int]:
        """This process's rank and the number of processes."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _sampler(self, index: Index, lanes: int, shuffle: bool) -> LaneSampler:
        rank, world_size = self._world()
        connector = getattr(self.trainer, "_accelerator_connector", None)
        if world_size > 1 and getattr(connector, "use_distributed_sampler", False):
            raise ValueError(
                "set trainer.use_distributed_sampler=false: Lightning's own sampler would tear lanes apart"
            )
        return LaneSampler(index.lengths, lanes, self.window_length, self.seed, rank, world_size, shuffle)

    def _loader(self, index: Index, sampler: Sampler[Array]) -> DataLoader[SegmentBatch]:
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        if self._kept is None:
            self._kept = keep_images(self.index, self.keep, device)
        # What lies on a GPU is gathered by the process that trains there, and nothing else takes long.
        workers = 0 if self._kept is not None and self._kept.device.type != "cpu" else self.num_workers
        return _LaneLoader(
            WindowDataset(
                index,
                self.window_length,
                kept=self._kept,
                transitions=self.reads.transitions,
                preferences=self.reads.preferences,
            ),
            sampler=sampler,
            batch_size=None,  # the sampler gives whole batches, and the dataset reads them as such
            num_workers=workers,
            persistent_workers=workers > 0,
            multiprocessing_context="fork" if workers else None,
            worker_init_fn=serve_parent if workers else None,
            # An own generator: a DataLoader draws from it at every epoch, and drawing from the global one would
            # make the model's random numbers depend on when the loader was last restarted.
            generator=torch.Generator().manual_seed(_loader_seed(self.seed)),
            pin_memory=device.type == "cuda",
        )


class _Following(Sampler[Array]):
    """The batches of a LaneSampler from wherever the trainer is; there is no epoch for Lightning to set."""

    def __init__(self, sampler: LaneSampler, position: Callable[[], dict[str, int]]) -> None:
        self._sampler, self._position = sampler, position

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[Array]:
        self._sampler.load_state_dict(self._position())
        yield from self._sampler


class _LaneLoader(DataLoader[SegmentBatch]):
    """A DataLoader that Lightning takes for resumable; its position is part of the datamodule's state."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: see TrajectoryDataModule.state_dict."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to do."""


def _labelled(folder: Path, index: Index) -> dict[str, Any]:
    """What the folder of a round holds, as plain values."""
    recorded = Collection.read(folder)
    how = None if recorded is None else recorded.parameters
    return {"episodes": len(index), "steps": int(index.lengths.sum()), "collection": how}


def _loader_seed(seed: int) -> int:
    words: Array = np.random.SeedSequence([seed, LOADER_STREAM]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))
