"""What scripted policies share: they read the history from the observations alone and draw nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from envs.vector import Observation


class HistoryPolicy(ABC):
    """A policy that answers the same to the same history, whatever the seed and whoever plays in the other rows.

    A row whose episode is over keeps its last observation; the answer there must be a legal action and need not make
    sense.
    """

    def __init__(self, *task: Any) -> None:
        """task: what the expert is told of the task, such as POPGym's level; most need nothing."""
        self.start(1)

    @abstractmethod
    def start(self, num_envs: int, seed: int = 0) -> None:
        """Forget everything; nothing is drawn, so the seed has no effect."""

    @abstractmethod
    def act(self, observation: Observation, is_first: np.ndarray) -> np.ndarray:
        """The chosen actions, int64 [N] or float32 [N, A]."""

    def observe(self, action: np.ndarray, reward: np.ndarray) -> None:  # noqa: B027 (nothing to do, for most)
        """What was really executed is read from the next observation, so replaced actions do not confuse it."""


class Row(ABC):
    """The player of one episode of a task with discrete actions."""

    @abstractmethod
    def act(self, observation: np.ndarray, executed: int) -> int:
        """The chosen action. `executed` is the action that led to this observation, -1 at the first step.

        Where the task does not show the previous action, which then matters to nobody, it is -1 at every step.
        """


class WeighingRow(Row):
    """The player of one episode that can say how good it held each action."""

    @abstractmethod
    def worth(self) -> np.ndarray:
        """[A] what each action was worth at its last answer, 0 where it would not do it; all 0 once it is over."""


class RowPolicy(HistoryPolicy):
    """One `Row` object per running episode, for tasks whose reasoning is not an array operation.

    player: begins an episode, from what the expert was told of the task. part: of the observation that it is shown.
    """

    player: Callable[..., Row]
    part = "observation"

    def __init__(self, *task: Any) -> None:
        self._task = task
        super().__init__(*task)

    def start(self, num_envs: int, seed: int = 0) -> None:
        """Forget everything."""
        self._rows = [self.begin() for _ in range(num_envs)]

    def begin(self) -> Any:
        """The player of a new episode."""
        return type(self).player(*self._task)

    def act(self, observation: Observation, is_first: np.ndarray) -> np.ndarray:
        """The chosen actions, int64 [N]."""
        seen = observation[self.part]
        before = observation.get("previous_action", np.zeros((len(seen), 1), np.int64))
        answers = np.zeros(len(seen), np.int64)
        for i, (first, executed) in enumerate(zip(is_first.tolist(), before[:, 0].tolist(), strict=True)):
            if first:
                self._rows[i] = self.begin()
            answers[i] = self._rows[i].act(seen[i], -1 if first else executed - 1)
        return answers


class WeighingRowPolicy(RowPolicy):
    """A RowPolicy whose rows, each a WeighingRow, say how good they hold each action."""

    def preferences(self) -> np.ndarray:
        """float32 [N, A], see envs.rollout.PreferringPolicy."""
        return shares(np.stack([row.worth() for row in self._rows]))


def shares(worth: np.ndarray) -> np.ndarray:
    """What each action is worth [N, A], 0 or more, as float32 shares of its row's sum; all alike where all are 0.

    Rounded to nine digits of the largest first: sums in another order must not break ties.
    """
    most = worth.max(axis=1, keepdims=True)
    rounded = np.where(most > 0, np.round(worth / np.where(most > 0, most, 1.0), 9), 1.0)
    return (rounded / rounded.sum(axis=1, keepdims=True)).astype(np.float32)
