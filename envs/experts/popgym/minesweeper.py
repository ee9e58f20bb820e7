"""Expert at MineSweeper: opens what is safe, else weighs the best guess against giving up."""

from __future__ import annotations

import numpy as np

from envs.experts.history import WeighingRow, WeighingRowPolicy
from envs.experts.popgym.mines import mine_probabilities, neighbours

BOARD_AND_MINES = {"Easy": (4, 2), "Medium": (6, 6), "Hard": (8, 10)}
SURE = 1e-9
# Guesses at most this much riskier than the safest one are compared by what they would reveal; as many as that near
# opened numbers, and a few elsewhere.
SLACK, NEAR, FAR = 0.05, 6, 2
# What a closed free cell is worth, of its reward, while it is open whether the game goes well.
HOPE = 0.6


class _Sweeper(WeighingRow):
    """One game: the numbers opened so far and the steps taken."""

    def __init__(self, level: str) -> None:
        self._board, self._mines = BOARD_AND_MINES[level]
        self._free = self._board**2 - self._mines
        self._opened: dict[int, int] = {}
        self._steps = 0
        self._choice: tuple[dict[int, float], float] | None = None
        self._answer: dict[int, float] = {}  # cell -> worth, of what it might click now

    def act(self, observation: np.ndarray, executed: int) -> int:
        """The cell to click."""
        if executed >= 0:
            self._steps += 1
            if executed not in self._opened:
                self._opened[executed] = int(observation[0])
                self._choice = None
        if self._choice is None:  # a cell clicked again tells nothing new
            self._choice = self._best()
        self._answer, risk = self._choice
        if risk > SURE and self._opened and self._resigning() > self._guessing(risk):
            self._answer = dict.fromkeys(self._opened, 1.0)
        return max(self._answer, key=self._answer.__getitem__, default=0)  # the first of several

    def worth(self) -> np.ndarray:
        """[cells] see MineSweeper."""
        found = np.zeros(self._board**2)
        found[list(self._answer)] = list(self._answer.values())
        return found

    def _best(self) -> tuple[dict[int, float], float]:
        """(cell -> worth, of those worth opening, the first choice first; the smallest risk of any)."""
        probability, fitting = mine_probabilities(self._opened, self._board, self._mines)
        closed = [cell for cell in range(self._board**2) if cell not in self._opened]
        if fitting == 0.0 or not closed:  # a mine was hit, or all is open: the episode is over
            return {}, 0.0
        risk = float(probability[closed].min())
        if risk <= SURE:
            return {cell: 1.0 for cell in closed if probability[cell] <= SURE}, risk
        if not self._opened:
            around = neighbours(self._board)
            fewest = min(map(len, around))
            return {cell: 1.0 for cell in closed if len(around[cell]) == fewest}, risk
        return self._telling(closed, probability, risk), risk

    def _telling(self, closed: list[int], probability: np.ndarray, risk: float) -> dict[int, float]:
        """The safest guesses, each with the probability that it and the next cell can both be opened safely."""
        around = neighbours(self._board)
        worth = [cell for cell in closed if probability[cell] <= risk + SLACK]
        worth.sort(key=lambda cell: (probability[cell], cell))
        near = [cell for cell in worth if any(other in self._opened for other in around[cell])]
        far = sorted((cell for cell in worth if cell not in near), key=lambda cell: (len(around[cell]), cell))
        tried = sorted(near[:NEAR] + far[:FAR])
        return {cell: (1.0 - probability[cell]) * self._safe_after(cell) for cell in tried}

    def _safe_after(self, cell: int) -> float:
        """Expected probability that the safest cell is free once `cell` was opened and proved free."""
        layouts = safe = 0.0
        for number in range(min(len(neighbours(self._board)[cell]), self._mines) + 1):
            opened = self._opened | {cell: number}
            probability, fitting = mine_probabilities(opened, self._board, self._mines)
            if fitting > 0.0:
                layouts += fitting
                safe += fitting * (1.0 - min(float(probability.min()), 1.0))
        return safe / layouts if layouts else 0.0

    def _resigning(self) -> float:
        return -0.5 / (self._free - 2) * (self._free - self._steps)

    def _guessing(self, risk: float) -> float:
        closed = self._free - len(self._opened)
        gain = (1.0 + HOPE * (closed - 1)) / self._free
        return (1.0 - risk) * gain - risk * (0.5 + 1.0 / self._free)


class MineSweeper(WeighingRowPolicy):
    """The safest cell, by exact probabilities; deterministic.

    Clicking an opened cell again costs 0.5 / (free cells - 2), and as the episode ends after as many steps as there are
    free cells, a late guess with a risk of some 0.1 to 0.2 is worth less than clicking so until the end.

    Worth the same: all cells without risk; at first the four corners; all opened cells, where it clicks one again. Of
    guesses, those that it weighs are worth the probability that this cell and the next one prove free.
    """

    player = _Sweeper
