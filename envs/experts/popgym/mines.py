"""The exact probability of a mine below every closed cell of a minesweeper board."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from math import comb

import numpy as np


@lru_cache
def neighbours(board: int) -> list[list[int]]:
    """For each cell of a board x board grid (numbered row by row), the up to eight cells around it."""
    cells = [(row, column) for row in range(board) for column in range(board)]
    return [[r * board + c for r, c in cells if max(abs(r - row), abs(c - column)) == 1] for row, column in cells]


@dataclass
class _Group:
    """Closed cells that touch exactly the same opened numbers, and so are all alike."""

    numbers: tuple[int, ...]
    cells: list[int]


@dataclass
class _Component:
    """Groups tied together by numbers.

    weight[m]: ways to put m mines on them. share[g, m]: the fraction of group g that is mined, summed over these ways.
    """

    groups: list[_Group]
    weight: np.ndarray
    share: np.ndarray


def mine_probabilities(opened: dict[int, int], board: int, mines: int) -> tuple[np.ndarray, float]:
    """(probability of a mine [board * board], 2.0 on opened cells; number of mine layouts that fit).

    opened: cell -> number of mines around it. All layouts of `mines` mines are equally likely. When none fits, the
    count is 0 and every probability 2.0.
    """
    probability = np.full(board * board, 2.0)
    groups = _groups(opened, board)
    inside = sum(len(group.cells) for group in groups)
    outside = board * board - len(opened) - inside
    components = [_enumerate(tied, opened, mines) for tied in _connected(groups)]
    one = np.ones(1)
    before = list(accumulate((part.weight for part in components), np.convolve, initial=one))
    after = list(accumulate((part.weight for part in reversed(components)), np.convolve, initial=one))[::-1]
    together = before[-1]
    # ways to put the other mines on cells that touch no number
    rest = np.array([comb(outside, mines - m) if m <= mines else 0 for m in range(len(together))], float)
    total = float(together @ rest)
    if total <= 0.0:
        return probability, 0.0
    for i, part in enumerate(components):
        others = np.convolve(before[i], after[i + 1])
        for group, share in zip(part.groups, part.share, strict=True):
            probability[group.cells] = float(np.convolve(others, share) @ rest) / total
    if outside:
        expected = float((together * rest) @ (mines - np.arange(len(together)))) / total
        touching = {cell for group in groups for cell in group.cells}
        probability[[x for x in range(board * board) if x not in opened and x not in touching]] = expected / outside
    return probability, total


def _groups(opened: dict[int, int], board: int) -> list[_Group]:
    """The closed cells next to opened ones, grouped by the numbers they touch."""
    touching: dict[int, list[int]] = {}
    around = neighbours(board)
    for number in sorted(opened):
        for cell in around[number]:
            if cell not in opened:
                touching.setdefault(cell, []).append(number)
    groups: dict[tuple[int, ...], list[int]] = {}
    for cell, numbers in touching.items():
        groups.setdefault(tuple(numbers), []).append(cell)
    return [_Group(numbers, cells) for numbers, cells in groups.items()]


def _connected(groups: list[_Group]) -> list[list[_Group]]:
    """The groups, split into sets that share no number; within a set, each after one that it shares a number with."""
    waiting = list(groups)
    found = []
    while waiting:
        part: list[_Group] = []
        known: set[int] = set()
        while True:
            # the group with most numbers already under way: numbers are settled early and the search stays narrow
            best = max(waiting, key=lambda group: _overlap(group, known), default=None)
            if best is None or (part and not known.intersection(best.numbers)):
                break
            waiting.remove(best)
            part.append(best)
            known.update(best.numbers)
        found.append(part)
    return found


def _overlap(group: _Group, known: set[int]) -> tuple[int, int]:
    return sum(number in known for number in group.numbers), len(group.numbers)


def _enumerate(groups: list[_Group], opened: dict[int, int], mines: int) -> _Component:
    """The ways to put mines on tied groups such that every number is right."""
    sizes = [len(group.cells) for group in groups]
    weight = np.zeros(sum(sizes) + 1)
    share = np.zeros((len(groups), sum(sizes) + 1))
    placed = [0] * len(groups)

    def count(ways: float, used: int) -> None:
        weight[used] += ways
        for g, mined in enumerate(placed):
            if mined:
                share[g, used] += ways * mined / sizes[g]

    _search(groups, opened, mines, placed, count)
    return _Component(groups, weight, share)


def _search(
    groups: list[_Group], opened: dict[int, int], mines: int, placed: list[int], count: Callable[[float, int], None]
) -> None:
    """Calls `count(ways, mines used)` for every `placed` (mines in each group) that makes all the numbers right."""
    numbers = {number for group in groups for number in group.numbers}
    missing = {number: opened[number] for number in numbers}  # mines still to be placed around it
    room = dict.fromkeys(numbers, 0)  # cells around it in groups not yet decided
    for group in groups:
        for number in group.numbers:
            room[number] += len(group.cells)

    def decide(g: int, ways: float, used: int) -> None:
        if g == len(groups):
            count(ways, used)
            return
        size, touched = len(groups[g].cells), groups[g].numbers
        for number in touched:
            room[number] -= size
        fewest = max(0, *(missing[number] - room[number] for number in touched))
        most = min(size, mines - used, *(missing[number] for number in touched))
        for mined in range(fewest, most + 1):
            placed[g] = mined
            for number in touched:
                missing[number] -= mined
            decide(g + 1, ways * comb(size, mined), used + mined)
            for number in touched:
                missing[number] += mined
        placed[g] = 0
        for number in touched:
            room[number] += size

    decide(0, 1.0, 0)
