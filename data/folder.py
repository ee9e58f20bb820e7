"""A folder of shards before it is read: whether it is finished, and each file whole and where it belongs."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from data.aside import ASIDE
from data.collection import COLLECTION, Collection, find_shards
from data.columns import Array
from data.shard import SUFFIX, Shard, ShardError
from data.statistics import Moments
from elmur.aliases import renamed
from elmur.files import leftovers
from elmur.spec import Vector

log = logging.getLogger(__name__)

# Files whose every byte this process has read and found right: path -> (size, time of change).
_verified: dict[Path, tuple[int, int]] = {}


def complete_shards(root: Path, on_bad_shard: str, wanted: Sequence[Path] | None = None) -> list[Path]:
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
    if (root / ASIDE).is_dir():
        again += f"; the shards that it was to replace are in {root / ASIDE}"
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


def check(
    shard: Shard, collection: Collection | None, verify: bool, digests: tuple[Any, Any], most: int
) -> tuple[dict[str, Moments], str]:
    """The statistics of the shard's first `most` episodes, and its identity, after checking its outline and origin.

    All its bytes too, where this process has not yet. Adds what these episodes are to `digests`: task, lengths and
    seeds to both; to the first also the checksums of episodes that were not collected, whose seeds do not say what
    they hold.
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
            for digest in digests:
                digest.update(content)
        is_collected = collection is not None and not collection.converted
        if not is_collected and "collection" not in shard.attribute("provenance"):
            digests[0].update(json.dumps(shard.sums(), sort_keys=True).encode())
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


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
