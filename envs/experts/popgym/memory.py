"""Experts that remember exactly: Autoencode, RepeatFirst, RepeatPrevious, CountRecall. All score 1.0."""

from __future__ import annotations

from collections import Counter

import numpy as np

from envs.experts.history import HistoryPolicy, Row, RowPolicy
from envs.vector import Observation

DELAY = {"Easy": 4, "Medium": 32, "Hard": 64}
MOST_OF_A_KIND = {"Easy": 26, "Medium": 26, "Hard": 16}


class _Stack(Row):
    def __init__(self, level: str) -> None:
        self._suits: list[int] = []
        self._playing = False

    def act(self, observation: np.ndarray, executed: int) -> int:
        watching, suit = observation.tolist()
        # The observation that first says "play" still shows a card, so the change of mode is noticed after the push.
        if not self._playing:
            self._suits.append(suit)
        self._playing = self._playing or not watching
        return self._suits.pop() if self._playing and self._suits else 0


class Autoencode(RowPolicy):
    """A stack of suits, pushed while watching and popped while playing; 0 while watching, where nothing is judged."""

    player = _Stack


class RepeatFirst(HistoryPolicy):
    """The suit of the first card, for ever."""

    def start(self, num_envs: int, seed: int = 0) -> None:
        """Forget everything."""
        self._suit = np.zeros(num_envs, np.int64)

    def act(self, observation: Observation, is_first: np.ndarray) -> np.ndarray:
        """The remembered suit."""
        self._suit = np.where(is_first, observation["observation"][:, 0], self._suit)
        return self._suit.copy()


class _Delay(Row):
    def __init__(self, level: str) -> None:
        self._suits = [0] * DELAY[level]  # so that the answer during the warm-up, which nobody judges, is 0

    def act(self, observation: np.ndarray, executed: int) -> int:
        self._suits = [*self._suits[1:], int(observation[0])]
        return self._suits[0]


class RepeatPrevious(RowPolicy):
    """The suit of k - 1 steps ago; 0 until there is one."""

    player = _Delay


class _Tally(Row):
    def __init__(self, level: str) -> None:
        self._dealt: Counter[int] = Counter()
        self._most = MOST_OF_A_KIND[level]

    def act(self, observation: np.ndarray, executed: int) -> int:
        dealt, asked = observation.tolist()
        self._dealt[dealt] += 1
        return min(self._dealt[asked], self._most)


class CountRecall(RowPolicy):
    """How often the asked kind was dealt, the card on the table included."""

    player = _Tally
