"""Shards that others replace: kept beside them until those are finished, put back where they never are.

They lie in the folder `replaced`, on their way there or back in `.replaced`, so that a killed process loses none.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from data.collection import COLLECTION, Collection, find_shards

ASIDE, MOVING = "replaced", ".replaced"


def put_aside(root: Path) -> Path | None:
    """Where the shards of a folder are now, None where it has none.

    Where a writer was killed, they are those from before it, and what it left half done is removed.
    """
    aside, moving = root / ASIDE, root / MOVING
    if moving.is_dir():
        _move_back(root)
    if aside.is_dir() and is_finished(root):
        shutil.rmtree(aside)  # killed when it was done
    shards = find_shards(root)
    if aside.is_dir():
        for path in shards:
            path.unlink()
        return aside
    if not shards:
        return None
    moving.mkdir()
    for path in shards:
        path.rename(moving / path.name)
    if (root / COLLECTION).exists():  # a copy: without its record a folder of fewer shards would look whole
        Path(shutil.copy2(root / COLLECTION, moving / "copy")).rename(moving / COLLECTION)
    moving.rename(aside)
    return aside


def put_back(root: Path) -> None:
    """Bring the shards that were put aside back in place of those that are in the folder now, if there are any."""
    for path in find_shards(root):
        path.unlink()
    if not (root / ASIDE / COLLECTION).exists():
        (root / COLLECTION).unlink(missing_ok=True)
    if (root / ASIDE).is_dir():
        (root / ASIDE).rename(root / MOVING)
        _move_back(root)


def is_finished(root: Path) -> bool:
    """Whether all shards that the record of a folder speaks of are there."""
    recorded = Collection.read(root)
    return recorded is not None and not recorded.missing(root)


def _move_back(root: Path) -> None:
    moving = root / MOVING
    for path in find_shards(moving):
        path.replace(root / path.name)
    if (moving / COLLECTION).exists():
        (moving / COLLECTION).replace(root / COLLECTION)
    shutil.rmtree(moving)
