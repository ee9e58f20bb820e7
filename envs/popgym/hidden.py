"""What POPGym's tasks hide, by family: the truth behind the observations, and how much of it a policy has to hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.hidden import Demand

SUITS, RANKS = "♠♦♣♥", "A23456789⑩JQK"  # in POPGym's order


@dataclass(frozen=True)
class Hidden:
    """What one family hides and shows; the functions are given POPGym's own environment.

    fields: classes int64 [n] or numbers float32 [n], by name. demand: what has to be held at once. picture: the cards
    or the board now, a grid of characters; None where there is nothing to draw but numbers. twin: makes of an episode
    at its first observation its twin, in which one card is another, and gives what POPGym shows of it then; None where
    what is hidden is not shown once and then remembered.
    """

    fields: Callable[[Any], dict[str, np.ndarray]]
    demand: Callable[[Any], Demand]
    picture: Callable[[Any], list[list[str]]] | None = None
    twin: Callable[[Any], Any] | None = None


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


def _card(of: Callable[[Any], Any], names: str = SUITS) -> Callable[[Any], list[list[str]]]:
    return lambda env: [[names[int(index)] for index in np.ravel(of(env))]]


def _last(env: Any) -> Any:
    """The card that was dealt last: dealing goes down the deck."""
    return env.deck.idx[len(env.deck)]


def _autoencode(env: Any) -> list[list[str]]:
    watching = env.mode.name == "WATCH"
    return [["watch" if watching else "play", SUITS[env.deck.suits_idx[env.deck["system"][-1]]] if watching else "?"]]


def _table(env: Any) -> list[list[str]]:
    """The table of Concentration in rows of 13, cards that lie face down as dots."""
    names = {index: str(name) for index, name in zip(env.deck_idx_type, env.deck_type, strict=True)}
    shown = [names.get(index, "·") for index in env.get_obs().tolist()]
    return [shown[i : i + 13] for i in range(0, len(shown), 13)]


def _battle(env: Any) -> list[list[str]]:
    """The board of Battleship as it is: water and ships, and what was shot at."""
    return [["·□✕■"[2 * int(shot) + int(ship)] for ship, shot in zip(*row, strict=True)]
            for row in zip(env.board, env.guesses, strict=True)]  # fmt: skip


def _mines(env: Any) -> list[list[str]]:
    """The field of MineSweeper as it is: mines, and the numbers of what was uncovered."""
    return [[str(near) if cell == 2 else "·✹"[cell] for cell, near in zip(*row, strict=True)]
            for row in zip(env.hidden_grid.tolist(), env.neighbor_grid.tolist(), strict=True)]  # fmt: skip


def _map(env: Any) -> np.ndarray:
    """1 where the labyrinth has a wall, row by row."""
    return np.asarray(env.maze.grid == 1, np.int64).ravel()


def _walk(env: Any) -> dict[str, np.ndarray]:
    """What walking about has to find out and to keep: the map, and where on it one is (row, column)."""
    return {"walls": _map(env), "place": np.asarray(env.position, np.int64)}


def _escape(env: Any) -> dict[str, np.ndarray]:
    return _walk(env) | {"exit": np.asarray(env.maze.end, np.int64)}


def _explore(env: Any) -> dict[str, np.ndarray]:
    return _walk(env) | {"visited": np.asarray(env.explored, np.int64).ravel()}


def _labyrinth(env: Any) -> list[list[str]]:
    """The labyrinth as it is: walls, free cells, those that were visited, the place, and the exit, if it has one."""
    shown = np.asarray(["·", "█", "·", "✕"])[np.asarray(env.maze.grid, np.int64)]
    shown[env.explored == 1] = "+"
    shown[env.position] = "●"
    return shown.tolist()


def _cells(env: Any) -> Demand:
    """Rooms, and one passage less: a labyrinth without circles."""
    rooms = env.maze_dims[0] * env.maze_dims[1]
    return Demand(2 * rooms - 1, "cells that are free", env.max_episode_length - 1)


def _first_card(deck: Any, hand: str, kinds: np.ndarray) -> int:
    """The kind of the first card that was dealt, after it was replaced by the next one of another kind."""
    before = deck.idx[-1]
    later = np.roll(np.arange(len(kinds)), -before - 1)
    deck.idx[-1] = deck[hand][0] = after = int(later[(kinds[later] != kinds[before]).argmax()])
    return int(kinds[after])


def _repeat_first_twin(env: Any) -> int:
    suit = _first_card(env.deck, "player", env.deck.suits_idx)
    env.card = np.asarray(suit)
    return suit


def _autoencode_twin(env: Any) -> Any:
    _first_card(env.deck, "system", env.deck.suits_idx)
    return env.make_obs(env.deck["system"][-1])


def _higher_lower_twin(env: Any) -> int:
    rank = _first_card(env.deck, "player", env.deck.ranks_idx)
    env.state[:] = 0
    env.state[rank] = 1
    return rank


def _count_recall_twin(env: Any) -> np.ndarray:
    """The first card changes places with the last one of another kind: one more of a kind could not be answered."""
    deck, kinds = env.value_deck, env.deck_idx_type[env.value_deck.idx]
    last = int((kinds != kinds[-1]).argmax())
    deck.idx[[-1, last]] = deck.idx[[last, -1]]
    deck["in_play"][0], env.value = int(deck.idx[-1]), kinds[last]
    env.counts[:] = 0
    env.counts[env.value] = 1
    env.last_obs = np.array([env.value, env.query], np.int64)
    return env.last_obs.copy()


def _concentration_twin(env: Any) -> np.ndarray:
    """The first card on the table changes places with the next one of another kind."""
    faces, idx = env.deck_idx_type[env.deck.idx], env.deck.idx
    other = int((faces != faces[0]).argmax())
    idx[[0, other]] = idx[[other, 0]]
    env.state = env.deck_idx_type[idx].astype(np.int64)
    return env.get_obs()


_CARTPOLE = Hidden(_numbers("state", lambda env: env.state), lambda env: Demand(2, "velocities", 1))
_PENDULUM = Hidden(_numbers("state", lambda env: env.state), lambda env: Demand(1, "velocity", 1))

FAMILIES: dict[str, Hidden] = {
    "Autoencode": Hidden(
        _classes("suits", _dealt),
        lambda env: Demand(env.deck.num_cards, "cards", 2 * env.deck.num_cards - 1),
        _autoencode,
        _autoencode_twin,
    ),
    "RepeatFirst": Hidden(
        _classes("first suit", lambda env: _dealt(env)[:1]),
        lambda env: Demand(1, "card", env.max_episode_length),
        _card(lambda env: env.deck.suits_idx[_last(env)]),
        _repeat_first_twin,
    ),
    "RepeatPrevious": Hidden(
        _previous,
        lambda env: Demand(env.k, "cards", env.k - 1),
        _card(lambda env: env.deck.suits_idx[_last(env)]),
        lambda env: _first_card(env.deck, "player", env.deck.suits_idx),
    ),
    "CountRecall": Hidden(
        _classes("counts", lambda env: env.counts),
        lambda env: Demand(env.num_distinct_cards, "counts", env.max_episode_length),
        lambda env: [[f"dealt {env.value}", f"asked {env.query}"]],
        _count_recall_twin,
    ),
    "HigherLower": Hidden(
        _classes("seen", lambda env: env.state),
        lambda env: Demand(len(env.state), "counts of ranks", env.deck_size),
        _card(lambda env: env.deck.ranks_idx[_last(env)], RANKS),
        _higher_lower_twin,
    ),
    "Concentration": Hidden(
        _classes("faces", lambda env: env.deck_idx_type[env.deck.idx]),
        lambda env: Demand(env.deck.num_cards, "cards on the table", env.episode_length),
        _table,
        _concentration_twin,
    ),
    "MultiarmedBandit": Hidden(
        _numbers("payoffs", lambda env: env.bandits),
        lambda env: Demand(env.num_bandits, "payoffs", env.max_episode_length),
    ),
    "Battleship": Hidden(
        _classes("board", lambda env: env.board),
        lambda env: Demand(env.board_size**2, "cells", env.max_episode_length),
        _battle,
    ),
    "MineSweeper": Hidden(
        _classes("mines", lambda env: env.hidden_grid == 1),
        lambda env: Demand(int(np.prod(env.dims)), "cells", env.max_episode_length),
        _mines,
    ),
    "LabyrinthEscape": Hidden(_escape, _cells, _labyrinth),
    "LabyrinthExplore": Hidden(_explore, _cells, _labyrinth),
    "PositionOnlyCartPole": _CARTPOLE,
    "NoisyPositionOnlyCartPole": _CARTPOLE,
    "VelocityOnlyCartpole": Hidden(
        _numbers("state", lambda env: env.state), lambda env: Demand(2, "positions", env.max_episode_length)
    ),
    "PositionOnlyPendulum": _PENDULUM,
    "NoisyPositionOnlyPendulum": _PENDULUM,
}
