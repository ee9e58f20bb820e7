"""Experts in the labyrinths: they draw a map from the 3 x 3 views and walk by it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import numpy as np

from envs.experts.history import Row, RowPolicy

SIDE = {"Easy": 11, "Medium": 15, "Hard": 19}
FREE, WALL, START, GOAL = 0, 1, 2, 3
# A cell (row, column) of the map is the number row * WIDTH + column + ORIGIN. Along the wall where the walk starts, the
# place is unknown and counted from the start, so it can be negative.
WIDTH = 64
ORIGIN = 32 * WIDTH + 32
STEPS = (-1, 1, -WIDTH, WIDTH)  # left, right, up, down: POPGym's order of actions


class _Walker(Row):
    """The map so far (cell -> FREE, WALL, START, GOAL), where we are and have been.

    The start is in the outer wall and says which one. The view of a cell in the top or left wall is not centred on it:
    the window is shifted by one and padded with walls at its end. Only the start can be such a cell before the end.
    """

    def __init__(self, level: str) -> None:
        self._last = SIDE[level] - 1
        self._map: dict[int, int] = {}
        self._visited: set[int] = set()
        self._over = False

    @abstractmethod
    def choose(self) -> int | None:
        """The next move, None when there is nothing left to do."""

    def act(self, observation: np.ndarray, executed: int) -> int:
        """The next move; 0 when the episode is over."""
        view = observation[:9].reshape(3, 3).tolist()
        if not self._map:
            self._enter(view)
        elif not self._over:
            self._follow(view, executed)
        move = None if self._over else self.choose()
        self._over = move is None
        return move or 0

    def _enter(self, view: list[list[int]]) -> None:
        """Finds out in which wall we start, and looks around."""
        at = [(row, column) for row in range(3) for column in range(3) if view[row][column] == START]
        if not at:  # an idle row: there is no episode
            self._over = True
            return
        row, column = at[0]
        if row == 0:
            self._wall, place = "top", (0, 0)
        elif column == 0:
            self._wall, place = "left", (0, 0)
        elif view[0][1] == FREE:
            self._wall, place = "bottom", (self._last, 0)
        else:
            self._wall, place = "right", (0, self._last)
        self._place = self._start = place[0] * WIDTH + place[1] + ORIGIN
        self._visited.add(self._place)
        for i in range(2 if row == 0 else 3):  # without the padding, which is no wall of the maze
            for j in range(2 if column == 0 else 3):
                self._map[self._place + (i - row) * WIDTH + j - column] = view[i][j]

    def _follow(self, view: list[list[int]], executed: int) -> None:
        """Makes the executed move on the map and adds what is seen from there."""
        ahead = self._place + STEPS[executed]
        if self._map.get(ahead, WALL) != WALL:
            self._place = ahead
        self._visited.add(self._place)
        if self._map[self._place] == START:  # nothing new, and the window may be shifted
            return
        if self._map[self._place] == GOAL:
            self._over = True
            return
        for i in range(3):
            for j in range(3):
                self._map[self._place + (i - 1) * WIDTH + j - 1] = view[i][j]

    def _reachable(self) -> Iterator[tuple[int, int, int]]:
        """(cell, distance, first move on a shortest way there) over all cells known to be passable, nearest first."""
        known, seen = self._map, {self._place}
        ring = [(self._place, 0)]
        distance = 0
        while ring:
            onward = []
            for cell, move in ring:
                yield cell, distance, move
                for action, step in enumerate(STEPS):
                    other = cell + step
                    if other not in seen and known.get(other, WALL) != WALL:
                        seen.add(other)
                        onward.append((other, move if distance else action))
            ring = onward
            distance += 1


class _Escaper(_Walker):
    def choose(self) -> int | None:
        best: tuple[int, int] | None = None
        answer = None
        goal_seen = GOAL in self._map.values()
        for cell, distance, move in self._reachable():
            if self._map[cell] == GOAL:
                return move
            if best is not None and distance > best[0] and not goal_seen:
                break  # everything farther away costs more
            if cell in self._visited or all(cell + step in self._map for step in STEPS):
                continue
            cost = distance + self._to_goal_wall(cell)
            if best is None or (cost, cell) < best:
                best, answer = (cost, cell), move
        return answer

    def _to_goal_wall(self, cell: int) -> int:
        row, column = divmod(cell - ORIGIN + WIDTH // 2, WIDTH)
        column -= WIDTH // 2
        ways = {"top": self._last - row, "bottom": row, "left": self._last - column, "right": column}
        return ways[self._wall]


class _Explorer(_Walker):
    def choose(self) -> int | None:
        best: tuple[int, int, int] | None = None
        answer = None
        for cell, distance, move in self._reachable():
            if best is not None and distance > best[0]:
                break
            if cell in self._visited:
                continue
            cost = (distance, self._from_start(cell), cell)
            if best is None or cost < best:
                best, answer = cost, move
        return answer

    def _from_start(self, cell: int) -> int:
        row, column = divmod(cell - self._start + WIDTH // 2, WIDTH)
        return abs(row) + abs(column - WIDTH // 2)


class LabyrinthEscape(RowPolicy):
    """Heads for the wall opposite the start, where the goal is: to the open end with the least way there and on."""

    player = _Escaper


class LabyrinthExplore(RowPolicy):
    """Goes to the nearest cell not yet visited, among equals to the one nearest the start: nearly depth first."""

    player = _Explorer
