"""The index: a folder of shards as one table of episodes."""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data.collection import COLLECTION, Collection, Served, find_shards
from data.shard import OPTIONAL, SUFFIX, Array, Shard, ShardError, require_same_task
from data.statistics import Moments
from elmur.aliases import renamed
from elmur.files import leftovers
from elmur.spec import TaskSpec, Vector

log = logging.getLogger(__name__)

# Files whose every byte this process has read and found right: path -> (size, time of change).
_verified: dict[Path, tuple[int, int]] = {}


@dataclass(frozen=True)
class Index:
    """Every episode of a data set: `lengths[e]` steps from row `offset[e]` of file `paths[shard[e]]`.

    skipped: shards left out because they are damaged (only with on_bad_shard="skip").
    digest: a hash of the task and of every episode's length and seed, to tell other data from the same.
    identities: of each file, to tell whether it is still the one that was indexed (Shard.identity).
    optional: the arrays that only some of the shards have (data.shard.OPTIONAL). common: those of them that all have.
    """

    spec: TaskSpec
    paths: tuple[Path, ...]
    shard: Array
    offset: Array
    lengths: Array
    skipped: tuple[Path, ...] = ()
    digest: str = ""
    identities: tuple[str, ...] = ()
    optional: frozenset[str] = frozenset()
    common: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.lengths)

    def file(self, number: int) -> Shard:
        """One of the files, for reading; it raises ShardError where it is not the one that was indexed."""
        return Shard(self.paths[number], expect=self.spec, identity=self.identities[number])

    def subset(self, episodes: Array) -> Index:
        """The index of these episodes alone, in this order."""
        picked = {name: getattr(self, name)[episodes] for name in ("shard", "offset", "lengths")}
        return replace(self, **picked)

    def joined(self, other: Index) -> Index:
        """These episodes and then those of another index of the same task, scaled as these are.

        Raises ShardError where it is of another task.
        """
        require_same_task(other.paths[0], self.spec, other.spec)
        return Index(
            spec=self.spec,
            paths=self.paths + other.paths,
            shard=np.concatenate([self.shard, other.shard + len(self.paths)]),
            offset=np.concatenate([self.offset, other.offset]),
            lengths=np.concatenate([self.lengths, other.lengths]),
            skipped=self.skipped + other.skipped,
            digest=hashlib.sha256(f"{self.digest} {other.digest}".encode()).hexdigest()[:16],
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
    root, digest = Path(root), hashlib.sha256()
    left = sys.maxsize if served is None or served.episodes is None else served.episodes
    collection, skipped = Collection.read(root), list[Path]()
    checked: list[tuple[Shard, dict[str, Moments], str, Array]] = []  # the last: where its episodes begin and end
    for path in _complete_shards(root, on_bad_shard, None if served is None else served.paths):
        shard = Shard(path)
        try:
            checked.append((shard, *_check(shard, collection, verify, digest, left), shard.offsets[: left + 1]))
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
        digest=digest.hexdigest()[:16],
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


def _complete_shards(root: Path, on_bad_shard: str, wanted: Sequence[Path] | None = None) -> list[Path]:
    """The shards of a folder that is finished. Raises ShardError where it is not, or holds nothing or too much.

    wanted: those of them that are asked for, which may be there while others are still being made.
    """
    paths, partial = find_shards(root), leftovers(root)
    collection = Collection.read(root)  # after the files: another process that adds to them has written it before
    missing = collection.missing(root) if collection else []
    known = collection.names() if collection else [path.name for path in paths]
    if strangers := [path.name for path in paths if path.name not in known]:
        found = f"{len(strangers)} shards that are not of its collection ({_names(strangers)})"
        advice = f"move them to a folder of their own, without a {COLLECTION} several can be used together"
        raise ShardError(root, "folder", found, f"the {len(known)} shards that {COLLECTION} speaks of", advice)
    if wanted is not None:
        paths, partial = list(wanted), []
        missing = [path.name for path in wanted if not path.exists()]
    again = "run the collection again, or the conversion (it keeps the finished shards and makes the missing ones)"
    if not paths and not partial and not missing:
        raise ShardError(root, "folder", "no shards", f"files named *{SUFFIX}", "collect the data or correct the path")
    if partial:
        found = f"{len(partial)} half-written files ({_names([path.name for path in partial])})"
        advice = f"wait if another process is collecting here, else {again}, or delete them"
        _fail_or_warn(ShardError(root, "folder", found, "finished shards only", advice), on_bad_shard, paths)
    if missing:
        total = collection.num_shards if collection and wanted is None else len(paths)
        found = f"{total - len(missing)} of {total} shards (no {_names(missing)})"
        _fail_or_warn(ShardError(root, "folder", found, "a finished collection", again), on_bad_shard, paths)
    return paths


def _fail_or_warn(error: ShardError, on_bad_shard: str, paths: Sequence[Path]) -> None:
    """Raise the error, or, where bad shards are to be skipped and something is left, only report it."""
    if on_bad_shard == "fail" or not paths:
        raise error
    log.warning("going on without: %s", error)


def _check(
    shard: Shard, collection: Collection | None, verify: bool, digest: Any, most: int
) -> tuple[dict[str, Moments], str]:
    """The statistics of the shard's first `most` episodes, and its identity, after checking its outline and origin.

    All its bytes too, where this process has not yet. Adds what these episodes are to `digest`.
    """
    shard.open()
    path, found = shard.path.resolve(), shard.path.stat()
    state = found.st_size, found.st_mtime_ns
    try:
        if verify and _verified.get(path) != state:
            shard.verify()
            _verified[path] = state
        _check_origin(shard, collection)
        offsets = shard.offsets[: most + 1]
        found_moments = _moments(shard)
        if len(offsets) < len(shard.offsets):
            found_moments = {name: _moments_of(shard, name, offsets) for name in found_moments}
        seeds = shard.read("seed", 0, len(offsets) - 1)
        for content in (shard.spec.to_json().encode(), offsets.tobytes(), seeds.tobytes()):
            digest.update(content)
        return found_moments, shard.identity()
    finally:
        shard.close()


def _check_origin(shard: Shard, collection: Collection | None) -> None:
    """Raises ShardError for a shard of another collection, or another part of this one, under a name of this one's."""
    made = shard.attribute("provenance")
    known = collection is not None and not collection.converted and shard.path.name in collection.names()
    if collection is None or not known or "collection" not in made:
        return
    here = {key: value for key, value in collection.parameters.items() if key != "num_episodes"}
    there = {key: value for key, value in dict(renamed(made["collection"])).items() if key != "num_episodes"}
    differ = sorted(key for key in here.keys() | there.keys() if here.get(key) != there.get(key))
    first = collection.names().index(shard.path.name) * int(here["shard_episodes"])
    if differ:
        key = differ[0]
        found = f"a shard of another collection ({key} was {there.get(key)!r}, here {here.get(key)!r})"
    elif made["episodes"][0] != first:
        found = f"the episodes from {made['episodes'][0]}, those from {first} belong there"
    else:
        return
    raise ShardError(shard.path, "provenance", found, f"a shard of the collection in {COLLECTION}")


def _moments(shard: Shard) -> dict[str, Moments]:
    """The statistics of the parts that this shard asks to have normalised."""
    statistics, normalise = shard.attribute("statistics"), shard.attribute("normalise")
    try:
        moments = {name: Moments.from_json(statistics[name]) for name in normalise}
        for name, part in moments.items():
            field = shard.spec.observation[name]
            if not isinstance(field, Vector) or part.mean.shape != field.shape or part.m2.shape != field.shape:
                raise ValueError(f"part '{name}' has statistics of another shape")
            if not (np.isfinite(part.mean).all() and np.isfinite(part.m2).all() and part.count > 0):
                raise ValueError(f"part '{name}' has statistics that are not finite")
        return moments
    except (KeyError, TypeError, ValueError) as error:
        raise ShardError(shard.path, "statistics", str(error), "count, mean and m2 per normalised part") from error


def _moments_of(shard: Shard, name: str, offsets: Array) -> Moments:
    """The statistics of a part in these episodes, as they are gathered where a shard is written."""
    moments, rows = Moments(), shard.read(f"observation/{name}", 0, int(offsets[-1]))
    for begin, end in pairwise(offsets.tolist()):
        moments.add(rows[begin:end])
    return moments


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


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _column(shard: Shard, key: str) -> Array:
    """The whole column of a shard."""
    per_episode = shard.columns[key].per_episode
    return shard.read(key, 0, len(shard.offsets) - 1 if per_episode else int(shard.offsets[-1]))
