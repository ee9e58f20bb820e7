"""Experts at cards: HigherLower counts what is left in the deck, Concentration remembers every card it has seen."""

from __future__ import annotations

import numpy as np

from envs.experts.popgym.memory import DECKS
from envs.experts.popgym.rows import HistoryPolicy, WeighingRow, WeighingRowPolicy, shares
from envs.vector import Observation

RANKS = 13
HIGHER, LOWER = 0, 1
FACE_DOWN = {"Easy": 2, "Medium": 2, "Hard": 13}


class HigherLower(HistoryPolicy):
    """Whichever of higher and lower has more cards left. A guess changes nothing in the deck, so this is optimal."""

    def __init__(self, level: str) -> None:
        self._suits = 4 * DECKS[level]
        self.start(1)

    def start(self, num_envs: int, seed: int = 0) -> None:
        """Forget everything."""
        self._left = np.full((num_envs, RANKS), self._suits)
        self._worth = np.zeros((num_envs, 2))

    def act(self, observation: Observation, is_first: np.ndarray) -> np.ndarray:
        """0 (higher) or 1 (lower)."""
        rank = observation["observation"][:, 0]
        self._left[is_first] = self._suits
        rows = np.arange(len(rank))
        self._left[rows, rank] -= 1
        up_to = self._left.cumsum(axis=1)
        higher = up_to[:, -1] - up_to[rows, rank]
        lower = up_to[rows, rank] - self._left[rows, rank]
        self._worth = np.stack([higher, lower], axis=1)
        by_rank = rank >= RANKS // 2 + 1  # equal numbers: as one would without having counted
        return np.where(higher == lower, by_rank, higher < lower).astype(np.int64)

    def preferences(self) -> np.ndarray:
        """float32 [N, 2], see envs.rollout.PreferringPolicy: how many of the cards left make each of them right."""
        return shares(self._worth)


class Concentration(WeighingRowPolicy):
    """Takes what the card turned over last makes a pair with, else turns over the next card never seen.

    Optimal for two colours. Of moves that are worth the same it makes the one that the last few steps explain: a pair
    is begun with the card that completed it, and the next card is the one behind the newest. A learner can copy that
    with one look-up per turn, and goes on sensibly where it, or noise, has missed a pair.

    Worth the same: every partner of the card turned over; every card with a known partner, where it begins a pair;
    every card never seen, where it turns over the next one.
    """

    revision = 2  # the first completed the lowest pair and turned over the lowest card; its data are to be made anew

    def __init__(self, level: str) -> None:
        self._face_down = FACE_DOWN[level]
        self.start(1)

    def begin(self) -> WeighingRow:
        """The player of a new episode."""
        return _Pairs(self._face_down)


class _Pairs(WeighingRow):
    """One game of Concentration: the value of each position once seen, what is matched, and the turn so far."""

    def __init__(self, face_down: int) -> None:
        self._face_down = face_down
        self._value: dict[int, int] = {}
        self._matched: set[int] = set()
        self._turn: list[int] = []
        self._newest = -1
        self._worth = np.zeros(0)

    def act(self, observation: np.ndarray, executed: int) -> int:
        """The position to turn over."""
        for position in np.flatnonzero(observation != self._face_down).tolist():
            self._newest = self._newest if position in self._value else position
            self._value[position] = int(observation[position])
        if executed >= 0:
            self._note(executed)
        choice, alike = self._choices(executed, len(observation))
        self._worth = np.zeros(len(observation))
        self._worth[alike] = 1.0
        return choice

    def worth(self) -> np.ndarray:
        """[cards] see Concentration."""
        return self._worth

    def _choices(self, executed: int, cards: int) -> tuple[int, list[int]]:
        """(the position to turn over, all that are worth the same); none where the game is over."""
        known = [position for position in sorted(self._value) if position not in self._matched]
        if self._turn:
            if partners := self._partners_of(self._turn[0], known):
                return partners[0], partners
        elif executed in known and self._partners_of(executed, known):
            return executed, [position for position in known if self._partners_of(position, known)]
        unseen = [position for position in range(cards) if position not in self._value]
        if unseen:
            return next((position for position in unseen if position > self._newest), unseen[0]), unseen
        return (known[0], known) if known else (0, [])

    def _note(self, executed: int) -> None:
        """The game's rules: a matched card ends the turn at once, two cards end it and stay open when alike."""
        if executed in self._matched:
            self._turn = []
            return
        self._turn.append(executed)
        if len(self._turn) == 2:
            first, second = self._turn
            if first != second and self._value.get(first) == self._value.get(second):
                self._matched.update(self._turn)
            self._turn = []

    def _partners_of(self, position: int, known: list[int]) -> list[int]:
        value = self._value.get(position)
        return [other for other in known if other != position and self._value[other] == value]
