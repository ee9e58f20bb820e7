"""The index: a folder of shards as one table of episodes."""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data.collection import Collection, Served, find_shards
from data.columns import OPTIONAL, Array
from data.folder import check, complete_shards
from data.shard import SUFFIX, Shard, ShardError, require_same_task
from data.statistics import Moments
from elmur.spec import TaskSpec, Vector

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Index:
    """Every episode of a data set: `lengths[e]` steps from row `offset[e]` of file `paths[shard[e]]`.

    skipped: shards left out because they are damaged (only with on_bad_shard="skip").
    digest: a hash of the task, of every episode's length and seed, and of the values of episodes that were not
    collected, to tell other data from the same. outline: the same without values, the digest of former checkpoints.
    identities: of each file, to tell whether it is still the one that was indexed (Shard.identity).
    optional: the arrays that only some of the shards have (data.columns.OPTIONAL). common: those of them that all have.
    """

    spec: TaskSpec
    paths: tuple[Path, ...]
    shard: Array
    offset: Array
    lengths: Array
    skipped: tuple[Path, ...] = ()
    digest: str = ""
    outline: str = ""
    identities: tuple[str, ...] = ()
    optional: frozenset[str] = frozenset()
    common: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.lengths)

    def file(self, number: int) -> Shard:
        """One of the files, for reading; it raises ShardError where it is not the one that was indexed."""
        return Shard(self.paths[number], expect=self.spec, identity=self.identities[number])

    def episode(self, number: int) -> dict[str, Array]:
        """Every array of one episode, `[T, ...]`, or `[1]` of those that have a value for it alone."""
        begin, steps = int(self.offset[number]), int(self.lengths[number])
        with self.file(int(self.shard[number])) as shard:
            row = int(np.searchsorted(shard.offsets, begin))
            return {
                key: shard.read(key, row, row + 1) if of.per_episode else shard.read(key, begin, begin + steps)
                for key, of in shard.columns.items()
            }

    def subset(self, episodes: Array) -> Index:
        """The index of these episodes alone, in this order."""
        picked = {name: getattr(self, name)[episodes] for name in ("shard", "offset", "lengths")}
        return replace(self, **picked)

    def joined(self, other: Index) -> Index:
        """These episodes and then those of another index of the same task, scaled as these are.

        Raises ShardError where it is of another task.
        """
        require_same_task(other.paths[0], self.spec, other.spec)
        return replace(
            self,
            paths=self.paths + other.paths,
            shard=np.concatenate([self.shard, other.shard + len(self.paths)]),
            offset=np.concatenate([self.offset, other.offset]),
            lengths=np.concatenate([self.lengths, other.lengths]),
            skipped=self.skipped + other.skipped,
            digest=_hash(f"{self.digest} {other.digest}"),
            outline=_hash(f"{self.outline} {other.outline}"),
            identities=self.identities + other.identities,
            optional=self.optional | other.optional,
            common=self.common & other.common,
        )

    def returns(self) -> Array:
        """The sum of every episode's rewards: float64 [episodes]."""
        return self._of_episodes(
            np.float64, lambda shard: np.add.reduceat(_column(shard, "reward").astype(np.float64), shard.offsets[:-1])
        )

    def has_rewards(self) -> bool:
        """Whether any step of any episode's file has a reward other than 0."""
        shards = (Shard(self.paths[number], expect=self.spec) for number in np.unique(self.shard).tolist())
        return any(_column(shard, "reward").any() for shard in shards)

    def terminated(self) -> Array:
        """Whether every episode ended in a terminal state: bool [episodes]."""
        return self._of_episodes(np.bool_, lambda shard: _column(shard, "terminated"))

    def best(self, fraction: float) -> Array:
        """The episodes with the highest returns, in the order of the index: a share of all, rounded, but one at least.

        Of equal returns the earlier episode is taken. Raises ValueError where all returns are the same.
        """
        returns = self.returns()
        if returns.min() == returns.max():
            raise ValueError(
                f"{self.paths[0].parent}: all {len(self)} episodes have the return {returns[0]:g}, so that none is "
                "better than another; collect others, as with collect.mixture=0.5, or learn from all: module=imitation"
            )
        count = max(1, round(fraction * len(self)))
        found: Array = np.sort(np.argsort(-returns, kind="stable")[:count])
        least = returns[found].min()
        same = returns == least
        log.info(
            "the best %d of %d episodes: returns of %g or more; %d of %d with just that",
            count, len(self), least, same[found].sum(), same.sum(),
        )  # fmt: skip
        return found

    def _of_episodes(self, kind: Any, read: Callable[[Shard], Array]) -> Array:
        """A value for every episode, from what `read` gives for all episodes of one shard."""
        values: Array = np.zeros(len(self), kind)
        for number in np.unique(self.shard).tolist():
            mine = self.shard == number
            with Shard(self.paths[number], expect=self.spec) as shard:
                values[mine] = read(shard)[np.searchsorted(shard.offsets, self.offset[mine])]
        return values


def build_index(
    root: Path | str,
    *,
    on_bad_shard: Literal["fail", "skip"] = "fail",
    verify: bool = True,
    served: Served | None = None,
) -> Index:
    """The index of all shards in a folder, in the order of their names, or of what is `served` alone.

    verify: read every byte of a file the first time this process meets it (checksums, finite numbers, actions within
    the space); without it only outlines are checked now, and checksums as windows are read.
    Raises ShardError on a folder that is empty or unfinished, a damaged shard, or shards of different tasks.
    """
    if on_bad_shard not in ("fail", "skip"):
        raise ValueError(f"on_bad_shard must be 'fail' or 'skip'; found {on_bad_shard!r}")
    root, digests = Path(root), (hashlib.sha256(), hashlib.sha256())
    left = sys.maxsize if served is None or served.episodes is None else served.episodes
    collection, skipped = Collection.read(root), list[Path]()
    checked: list[tuple[Shard, dict[str, Moments], str, Array]] = []  # the last: where its episodes begin and end
    for path in complete_shards(root, on_bad_shard, None if served is None else served.paths):
        shard = Shard(path)
        try:
            checked.append((shard, *check(shard, collection, verify, digests, left), shard.offsets[: left + 1]))
        except ShardError as error:
            if on_bad_shard == "fail":
                raise
            log.warning("skipping a shard: %s", error)
            skipped.append(path)
            continue
        # A shard of another task is a mistake of the user, not damage, and is never skipped.
        require_same_task(path, checked[0][0].spec, shard.spec)
        left -= len(checked[-1][-1]) - 1
    if not checked:
        raise ShardError(root, "folder", f"{len(skipped)} shards, all damaged", "at least one intact shard")
    if skipped:
        log.warning("%d of %d shards in %s are damaged and left out", len(skipped), len(skipped) + len(checked), root)
    good, moments, identities, ends = zip(*checked, strict=True)
    return Index(
        spec=_with_statistics(good, moments),
        paths=tuple(shard.path for shard in good),
        shard=np.repeat(np.arange(len(good)), [len(offsets) - 1 for offsets in ends]),
        offset=np.concatenate([offsets[:-1] for offsets in ends]),
        lengths=np.concatenate([np.diff(offsets) for offsets in ends]),
        skipped=tuple(skipped),
        digest=digests[0].hexdigest()[:16],
        outline=digests[1].hexdigest()[:16],
        identities=identities,
        optional=frozenset(OPTIONAL) & {key for shard in good for key in shard.columns},
        common=frozenset(OPTIONAL).intersection(*(shard.columns for shard in good)),
    )


def task_of(root: Path | str) -> TaskSpec:
    """The task of the shards in a folder, by the first of them. Raises ShardError where there is none."""
    for path in find_shards(Path(root)):
        with Shard(path) as shard:
            return shard.spec
    advice = "name the folder, shards=FOLDER env.id=NAME, or make it: stage=convert, data.writer.ShardWriter"
    raise ShardError(root, "folder", "no shards", f"files named *{SUFFIX}", advice)


def _with_statistics(shards: Sequence[Shard], gathered: Sequence[dict[str, Moments]]) -> TaskSpec:
    """The common specification, with mean and deviation over all shards where every shard asks for them."""
    spec = shards[0].spec
    wanted = set(gathered[0])
    observation = dict(spec.observation)
    for shard, moments in zip(shards, gathered, strict=True):
        if set(moments) != wanted:
            raise ShardError(shard.path, "normalise", f"{sorted(moments)}", f"{sorted(wanted)}, as in the first shard")
    for name in sorted(wanted):
        total = Moments()
        for moments in gathered:
            total.merge(moments[name])
        mean, std = total.mean_and_std()
        field = observation[name]
        assert isinstance(field, Vector)
        observation[name] = replace(field, mean=mean, std=std)
    return replace(spec, observation=observation)


def _hash(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _column(shard: Shard, key: str) -> Array:
    """The whole column of a shard."""
    per_episode = shard.columns[key].per_episode
    return shard.read(key, 0, len(shard.offsets) - 1 if per_episode else int(shard.offsets[-1]))
