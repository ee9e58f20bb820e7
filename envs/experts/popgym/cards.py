"""Experts at cards: HigherLower counts what is left in the deck, Concentration remembers every card it has seen."""

from __future__ import annotations

import numpy as np

from envs.experts.history import WeighingRow, WeighingRowPolicy

DECKS = {"Easy": 1, "Medium": 2, "Hard": 3}
RANKS = 13
FACE_DOWN = {"Easy": 2, "Medium": 2, "Hard": 13}


class _Counter(WeighingRow):
    """What is left in the deck, by rank, and how many of these cards are higher and lower than the one shown."""

    def __init__(self, level: str) -> None:
        self._left = np.full(RANKS, 4 * DECKS[level])
        self._worth = np.zeros(2)

    def act(self, observation: np.ndarray, executed: int) -> int:
        """0 (higher) or 1 (lower)."""
        rank = int(observation[0])
        self._left[rank] -= 1
        higher, lower = self._left[rank + 1 :].sum(), self._left[:rank].sum()
        self._worth = np.array([higher, lower])
        by_rank = rank >= RANKS // 2 + 1  # equal numbers: as one would without having counted
        return int(by_rank if higher == lower else higher < lower)

    def worth(self) -> np.ndarray:
        """[2] how many of the cards left make each of them right."""
        return self._worth


class HigherLower(WeighingRowPolicy):
    """Whichever of higher and lower has more cards left. A guess changes nothing in the deck, so this is optimal."""

    player = _Counter


class _Pairs(WeighingRow):
    """One game of Concentration: the value of each position once seen, what is matched, and the turn so far."""

    def __init__(self, level: str) -> None:
        self._face_down = FACE_DOWN[level]
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


class Concentration(WeighingRowPolicy):
    """Takes what the card turned over last makes a pair with, else turns over the next card never seen.

    Optimal for two colours. Of moves that are worth the same it makes the one that the last few steps explain: a pair
    is begun with the card that completed it, and the next card is the one behind the newest. A learner can copy that
    with one look-up per turn, and goes on sensibly where it, or noise, has missed a pair.

    Worth the same: every partner of the card turned over; every card with a known partner, where it begins a pair;
    every card never seen, where it turns over the next one.
    """

    revision = 2  # the first completed the lowest pair and turned over the lowest card; its data are to be made anew

    player = _Pairs
