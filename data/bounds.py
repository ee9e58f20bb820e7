"""Actions outside a task's bounds: counted, and clipped to them, which is what its environment does with them."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from data.columns import Array
from data.shard import EpisodeArrays, Shard
from elmur.spec import TaskSpec, Vector

log = logging.getLogger(__name__)
CLIPPED = "clipped_actions"  # in the provenance of a shard: how many steps' actions were


def clip(spec: TaskSpec, episodes: list[EpisodeArrays], key: str = "action") -> int:
    """How many steps of these episodes had an action outside the bounds; it is clipped to them, in place.

    key: the actions in question, those executed or another array of the kind.

    An imitator whose head is bounded could not say it, and the environment executes the nearest action within. What
    is not a finite number stays, for the writer to refuse.
    """
    if not isinstance(spec.action, Vector) or spec.action.low is None or spec.action.high is None:
        return 0
    low, high = np.array([spec.action.low, spec.action.high], np.float32)
    count = 0
    for episode in episodes:
        action: Array = np.asarray(getattr(episode, key))
        if action.dtype.kind not in "fiu" or action.ndim != 2 or action.shape[1] != len(low):
            continue  # the writer says what is wrong with it
        with np.errstate(over="ignore"):
            stored = action.astype(np.float32)  # as the bounds are: 0.7 lies within 0.7
        outside = np.isfinite(action).all(axis=1) & ((stored < low) | (stored > high)).any(axis=1)
        if outside.any():
            setattr(episode, key, np.where(outside[:, None], np.clip(stored, low, high), stored))
        count += int(outside.sum())
    return count


def tell(paths: list[Path]) -> None:
    """Say what these shards hold: how many episodes, their return, and how many of their actions were clipped."""
    clipped = steps = 0
    returns: list[float] = []
    bounded = False
    for path in paths:
        with Shard(path) as shard:
            bounded = isinstance(shard.spec.action, Vector)
            clipped += shard.attribute("provenance").get(CLIPPED, 0)
            steps += int(shard.offsets[-1])
            returns += np.add.reduceat(shard.read("reward", 0, int(shard.offsets[-1])), shard.offsets[:-1]).tolist()
    if returns:
        log.info(
            "%d episodes, %d steps, mean return %.2f (worst %.2f)", len(returns), steps, np.mean(returns), min(returns)
        )
    if not bounded:
        return
    if clipped:
        share = 100 * clipped / steps
        log.warning("%d of %d actions (%.1f %%) lay outside the bounds and were clipped to them", clipped, steps, share)
    elif steps:
        log.info("none of %d actions lay outside the bounds", steps)
