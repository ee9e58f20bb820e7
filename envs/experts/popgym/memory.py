"""Experts that remember exactly: Autoencode, RepeatFirst, RepeatPrevious, CountRecall. All score 1.0."""

from __future__ import annotations

import numpy as np

from envs.experts.popgym.rows import HistoryPolicy
from envs.vector import Observation

CARDS = 52
DECKS = {"Easy": 1, "Medium": 2, "Hard": 3}
DELAY = {"Easy": 4, "Medium": 32, "Hard": 64}
MOST_OF_A_KIND = {"Easy": 26, "Medium": 26, "Hard": 16}
KINDS = 13


class Autoencode(HistoryPolicy):
    """A stack of suits, pushed while watching and popped while playing; 0 while watching, where nothing is judged."""

    def __init__(self, level: str) -> None:
        self._cards = CARDS * DECKS[level]
        self.start(1)

    def start(self, num_envs: int, seed: int = 0) -> None:
        """Forget everything."""
        self._stack = np.zeros((num_envs, self._cards + 1), np.int64)
        self._depth = np.zeros(num_envs, np.int64)
        self._playing = np.zeros(num_envs, np.bool_)

    def act(self, observation: Observation, is_first: np.ndarray) -> np.ndarray:
        """The suit on top of the stack."""
        watching, suit = observation["observation"].T
        self._depth[is_first] = 0
        self._playing[is_first] = False
        # The observation that first says "play" still shows a card, so the change of mode is noticed after the push.
        push = np.flatnonzero(~self._playing & (self._depth < self._cards))
        self._stack[push, self._depth[push]] = suit[push]
        self._depth[push] += 1
        self._playing |= watching == 0
        self._depth[self._playing] -= 1
        np.maximum(self._depth, 0, out=self._depth)
        top = self._stack[np.arange(len(suit)), self._depth]
        return np.where(self._playing, top, 0)


class RepeatFirst(HistoryPolicy):
    """The suit of the first card, for ever."""

    def __init__(self, level: str) -> None:
        self.start(1)

    def start(self, num_envs: int, seed: int = 0) -> None:
        """Forget everything."""
        self._suit = np.zeros(num_envs, np.int64)

    def act(self, observation: Observation, is_first: np.ndarray) -> np.ndarray:
        """The remembered suit."""
        self._suit = np.where(is_first, observation["observation"][:, 0], self._suit)
        return self._suit.copy()


class RepeatPrevious(HistoryPolicy):
    """The suit of k - 1 steps ago from a ring of the last k; 0 until there is one."""

    def __init__(self, level: str) -> None:
        self._delay = DELAY[level]
        self.start(1)

    def start(self, num_envs: int, seed: int = 0) -> None:
        """Forget everything."""
        self._ring = np.zeros((num_envs, self._delay), np.int64)
        self._time = np.zeros(num_envs, np.int64)

    def act(self, observation: Observation, is_first: np.ndarray) -> np.ndarray:
        """The oldest suit in the ring."""
        self._ring[is_first] = 0  # so that the answer during the warm-up, which nobody judges, is 0
        self._time[is_first] = 0
        rows = np.arange(len(is_first))
        self._ring[rows, self._time % self._delay] = observation["observation"][:, 0]
        self._time += 1
        return self._ring[rows, self._time % self._delay]


class CountRecall(HistoryPolicy):
    """How often the asked kind was dealt, the card on the table included."""

    def __init__(self, level: str) -> None:
        self._most = MOST_OF_A_KIND[level]
        self.start(1)

    def start(self, num_envs: int, seed: int = 0) -> None:
        """Forget everything."""
        self._counts = np.zeros((num_envs, KINDS), np.int64)

    def act(self, observation: Observation, is_first: np.ndarray) -> np.ndarray:
        """The count of the asked kind."""
        dealt, asked = observation["observation"].T
        self._counts[is_first] = 0
        rows = np.arange(len(is_first))
        self._counts[rows, dealt] += 1
        return np.minimum(self._counts[rows, asked], self._most)
