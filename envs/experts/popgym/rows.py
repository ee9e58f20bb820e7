"""What POPGym's experts share: they read the history from the observations alone and draw nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import cast

import numpy as np

from envs.vector import Observation


class HistoryPolicy(ABC):
    """A policy that answers the same to the same history, whatever the seed and whoever plays in the other rows.

    What was really executed it learns from the part `previous_action`, so replaced actions do not confuse it. A row
    whose episode is over keeps its last observation; the answer there must be a legal action and need not make sense.
    """

    @abstractmethod
    def start(self, num_envs: int, seed: int = 0) -> None:
        """Forget everything; nothing is drawn, so the seed has no effect."""

    @abstractmethod
    def act(self, observation: Observation, is_first: np.ndarray) -> np.ndarray:
        """The chosen actions, int64 [N] or float32 [N, A]."""

    def observe(self, action: np.ndarray, reward: np.ndarray) -> None:  # noqa: B027 (nothing to do, for anyone)
        """The next observation says the same."""


class Row(ABC):
    """The player of one episode of a task with discrete actions."""

    @abstractmethod
    def act(self, observation: np.ndarray, executed: int) -> int:
        """The chosen action. `executed` is the action that led to this observation, -1 at the first step."""


class WeighingRow(Row):
    """The player of one episode that can say how good it held each action."""

    @abstractmethod
    def worth(self) -> np.ndarray:
        """[A] what each action was worth at its last answer, 0 where it would not do it; all 0 once it is over."""


class RowPolicy(HistoryPolicy):
    """One `Row` object per running episode, for tasks whose reasoning is not an array operation."""

    def start(self, num_envs: int, seed: int = 0) -> None:
        """Forget everything."""
        self._rows: list[Row] = [self.begin() for _ in range(num_envs)]

    @abstractmethod
    def begin(self) -> Row:
        """The player of a new episode."""

    def act(self, observation: Observation, is_first: np.ndarray) -> np.ndarray:
        """The chosen actions, int64 [N]."""
        seen = observation["observation"]
        executed = (observation["previous_action"][:, 0] - 1).tolist()
        answers = np.zeros(len(seen), np.int64)
        for i, first in enumerate(is_first.tolist()):
            if first:
                self._rows[i] = self.begin()
            answers[i] = self._rows[i].act(seen[i], -1 if first else executed[i])
        return answers


class WeighingRowPolicy(RowPolicy):
    """A RowPolicy whose rows say how good they hold each action."""

    @abstractmethod
    def begin(self) -> WeighingRow:
        """The player of a new episode."""

    def preferences(self) -> np.ndarray:
        """float32 [N, A], see envs.rollout.PreferringPolicy."""
        return shares(np.stack([row.worth() for row in cast(list[WeighingRow], self._rows)]))


def shares(worth: np.ndarray) -> np.ndarray:
    """What each action is worth [N, A], 0 or more, as float32 shares of its row's sum; all alike where all are 0.

    Rounded to nine digits of the largest first: sums in another order must not break ties.
    """
    most = worth.max(axis=1, keepdims=True)
    rounded = np.where(most > 0, np.round(worth / np.where(most > 0, most, 1.0), 9), 1.0)
    return (rounded / rounded.sum(axis=1, keepdims=True)).astype(np.float32)
