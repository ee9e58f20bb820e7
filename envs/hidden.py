"""What an environment can tell of what its observations hide: for those who look into a memory, never for a policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from envs.vector import Observation, SyncVector, VectorEnv


@dataclass(frozen=True)
class Demand:
    """What a policy has to hold at once: `items` of `what`, the oldest of them for `steps` steps at most."""

    items: int
    what: str
    steps: int


@runtime_checkable
class Revealing(Protocol):
    """Environments that tell what a policy has to hold, and what of it is true now."""

    def hidden(self) -> dict[str, np.ndarray]:
        """The hidden state now, by name: classes int64 [N] or [N, n], or numbers float32 [N, n]."""

    def demand(self) -> Demand | None:
        """What has to be held; None where that is not known."""


@runtime_checkable
class Twinned(Protocol):
    """Environments whose episodes have twins that differ in what has to be remembered, and in nothing else."""

    def twin(self) -> Observation | None:
        """The first observations of the twins, which are played from here on; right after `reset` alone.

        None, and nothing is changed, where the task has no twins.
        """


@runtime_checkable
class Pictured(Protocol):
    """Environments that can be shown as a grid of a few characters each: cards, a board, a corridor."""

    def picture(self, row: int) -> list[list[str]]:
        """One environment now, row by row of the grid."""


def picture_of(env: VectorEnv, row: int) -> list[list[str]]:
    """One of the environments as a grid; empty where it cannot be shown so."""
    if isinstance(env, SyncVector):
        one: Any = env.envs[row]
        return one.picture(0) if isinstance(one, Pictured) else []
    return env.picture(row) if isinstance(env, Pictured) else []


def hidden_of(env: VectorEnv) -> dict[str, np.ndarray]:
    """The hidden state of environments now; empty where they tell nothing."""
    if isinstance(env, SyncVector):
        rows = [one.hidden() for one in env.envs if isinstance(one, Revealing)]
        return {name: np.stack([row[name] for row in rows]) for name in (rows[0] if rows else ())}
    return env.hidden() if isinstance(env, Revealing) else {}


def twins_of(env: VectorEnv) -> Observation | None:
    """The first observations of the twins of what was reset, played from here on; None where there are none."""
    if not isinstance(env, SyncVector):
        return env.twin() if isinstance(env, Twinned) else None
    for row in np.flatnonzero(env.playing).tolist():
        one: Any = env.envs[row]
        shown = one.twin() if isinstance(one, Twinned) else None
        if shown is None:
            return None
        env.keep(row, shown)
    return env.seen()


def demand_of(make_env: Callable[..., VectorEnv], **variant: Any) -> Demand | None:
    """What the environments of a variant ask a policy to hold; None where they do not say."""
    env = make_env(num_envs=1, **variant)
    try:
        one: Any = env.envs[0] if isinstance(env, SyncVector) else env
        return one.demand() if isinstance(one, Revealing) else None
    finally:
        env.close()
