"""What POPGym's tasks hide, by family: the truth behind the observations, and how much of it a policy has to hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.hidden import Demand


@dataclass(frozen=True)
class Hidden:
    """What one family hides; both functions are given POPGym's own environment.

    fields: classes int64 [n] or numbers float32 [n], by name. demand: what has to be held at once.
    """

    fields: Callable[[Any], dict[str, np.ndarray]]
    demand: Callable[[Any], Demand]


def _dealt(env: Any) -> np.ndarray:
    """The suits of the whole deck in the order in which they are dealt: from its end."""
    return np.asarray(env.deck.suits_idx[env.deck.idx[::-1]], np.int64)


def _previous(env: Any) -> dict[str, np.ndarray]:
    """The last k suits, the oldest first; -1 where there is none yet. The oldest is what has to be said."""
    seen = np.asarray(env.deck.suits_idx[env.deck["player"]], np.int64)[-env.k :]
    return {"last suits": np.pad(seen, (env.k - len(seen), 0), constant_values=-1)}


def _classes(name: str, of: Callable[[Any], Any]) -> Callable[[Any], dict[str, np.ndarray]]:
    return lambda env: {name: np.asarray(of(env), np.int64).ravel()}


def _numbers(name: str, of: Callable[[Any], Any]) -> Callable[[Any], dict[str, np.ndarray]]:
    return lambda env: {name: np.asarray(of(env), np.float32).ravel()}


_CARTPOLE = Hidden(_numbers("state", lambda env: env.state), lambda env: Demand(2, "velocities", 1))
_PENDULUM = Hidden(_numbers("state", lambda env: env.state), lambda env: Demand(1, "velocity", 1))

FAMILIES: dict[str, Hidden] = {
    "Autoencode": Hidden(
        _classes("suits", _dealt), lambda env: Demand(env.deck.num_cards, "cards", 2 * env.deck.num_cards - 1)
    ),
    "RepeatFirst": Hidden(
        _classes("first suit", lambda env: _dealt(env)[:1]), lambda env: Demand(1, "card", env.max_episode_length)
    ),
    "RepeatPrevious": Hidden(_previous, lambda env: Demand(env.k, "cards", env.k - 1)),
    "CountRecall": Hidden(
        _classes("counts", lambda env: env.counts),
        lambda env: Demand(env.num_distinct_cards, "counts", env.max_episode_length),
    ),
    "HigherLower": Hidden(
        _classes("seen", lambda env: env.state), lambda env: Demand(len(env.state), "counts of ranks", env.deck_size)
    ),
    "Concentration": Hidden(
        _classes("faces", lambda env: env.deck_idx_type[env.deck.idx]),
        lambda env: Demand(env.deck.num_cards, "cards on the table", env.episode_length),
    ),
    "MultiarmedBandit": Hidden(
        _numbers("payoffs", lambda env: env.bandits),
        lambda env: Demand(env.num_bandits, "payoffs", env.max_episode_length),
    ),
    "Battleship": Hidden(
        _classes("board", lambda env: env.board), lambda env: Demand(env.board_size**2, "cells", env.max_episode_length)
    ),
    "MineSweeper": Hidden(
        _classes("mines", lambda env: env.hidden_grid == 1),
        lambda env: Demand(int(np.prod(env.dims)), "cells", env.max_episode_length),
    ),
    "PositionOnlyCartPole": _CARTPOLE,
    "NoisyPositionOnlyCartPole": _CARTPOLE,
    "VelocityOnlyCartpole": Hidden(
        _numbers("state", lambda env: env.state), lambda env: Demand(2, "positions", env.max_episode_length)
    ),
    "PositionOnlyPendulum": _PENDULUM,
    "NoisyPositionOnlyPendulum": _PENDULUM,
}
