"""Expert at Battleship: shoots the cell that most probably hides a ship, given all hits and misses so far."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import product

import numpy as np

from envs.experts.history import WeighingRow, WeighingRowPolicy

BOARD = {"Easy": 8, "Medium": 10, "Hard": 12}
FLEET = {4: 1, 3: 2, 2: 1}  # ships of each length
SHIP_CELLS = sum(length * number for length, number in FLEET.items())
# Explanations of the hits that are looked at; more arise from a few hits far apart, rarely, and add little.
MOST_COVERS = 4000


class _Placements:
    """Every way to put one ship of each length on a board of n x n cells (numbered row by row).

    per length: `bits` [P] cells as a bit mask, `cells` [P, length], `covers` [P, n * n] as 0 and 1,
    `through[cell]` the placements that cover the cell.
    """

    def __init__(self, board: int) -> None:
        self.num_cells = board * board
        self.cells: dict[int, np.ndarray] = {}
        self.covers: dict[int, np.ndarray] = {}
        self.bits: dict[int, list[int]] = {}
        self.through: dict[int, list[list[int]]] = {}
        for length in FLEET:
            found = []
            for row, column in product(range(board), repeat=2):
                if column + length <= board:
                    found.append([row * board + column + i for i in range(length)])
                if row + length <= board:
                    found.append([(row + i) * board + column for i in range(length)])
            self.cells[length] = np.array(found)
            self.covers[length] = np.zeros((len(found), self.num_cells))
            self.covers[length][np.arange(len(found))[:, None], self.cells[length]] = 1.0
            self.bits[length] = [sum(1 << cell for cell in ship) for ship in found]
            self.through[length] = [[k for k, ship in enumerate(found) if c in ship] for c in range(self.num_cells)]


_placements = lru_cache(maxsize=len(BOARD))(_Placements)


class _Hunter(WeighingRow):
    """One game: the cells shot at and the placements that they leave possible.

    possible[length]: no miss below the ship. untouched[length]: no shot below it at all, neither hit nor miss.
    """

    def __init__(self, level: str) -> None:
        self._all = placements = _placements(BOARD[level])
        self._hits = 0  # bit mask
        self._shot = np.zeros(placements.num_cells, np.bool_)
        self._possible = {length: [True] * len(bits) for length, bits in placements.bits.items()}
        self._untouched = {length: np.ones(len(bits)) for length, bits in placements.bits.items()}
        self._chance: np.ndarray | None = None

    def act(self, observation: np.ndarray, executed: int) -> int:
        """The cell to shoot at."""
        if executed >= 0 and not self._shot[executed]:
            self._note(executed, hit=bool(observation[0]))
            self._chance = None
        if self._chance is None:  # a cell shot at again tells nothing new
            self._chance = self._chances().round(9)  # rounded: sums in another order must not break ties
            self._chance[self._shot] = -1.0
        return int(self._chance.argmax())

    def worth(self) -> np.ndarray:
        """[n * n] the probability that a ship is on each cell not yet shot at."""
        return np.zeros(self._all.num_cells) if self._chance is None else self._chance.clip(min=0.0)

    def _note(self, cell: int, hit: bool) -> None:
        self._shot[cell] = True
        if hit:
            self._hits |= 1 << cell
        for length, through in self._all.through.items():
            self._untouched[length][through[cell]] = 0.0
            if not hit:
                for placement in through[cell]:
                    self._possible[length][placement] = False

    def _chances(self) -> np.ndarray:
        """Probability that a ship is on each cell [n * n].

        Every way to cover the hits with ships is enumerated. The ships left over lie anywhere untouched, where their
        overlap with each other and with the covering ones is neglected; so a way with ships left over of lengths l
        counts the product of the numbers of untouched placements of l.
        """
        if self._hits.bit_count() >= SHIP_CELLS:  # over
            return np.zeros(self._all.num_cells)
        free = {length: float(untouched.sum()) for length, untouched in self._untouched.items()}
        covered = {length: np.zeros(len(bits)) for length, bits in self._all.bits.items()}
        left_over: dict[tuple[int, ...], float] = {}
        total = 0.0
        ways = self._covers(self._hits, 0, dict(FLEET), [])
        for (left, ships), _ in zip(ways, range(MOST_COVERS), strict=False):
            weight = float(np.prod([free[length] ** number for length, number in left.items()]))
            if weight <= 0.0:
                continue
            total += weight
            key = tuple(left.values())
            left_over[key] = left_over.get(key, 0.0) + weight
            for length, placement in ships:
                covered[length][placement] += weight
        alone = {n: self._untouched[n] @ self._all.covers[n] / max(free[n], 1.0) for n in FLEET}
        if total <= 0.0:
            return np.asarray(sum(alone.values()))
        chance = np.asarray(sum(covered[length] @ self._all.covers[length] for length in FLEET))
        for key, weight in left_over.items():
            nobody = np.prod([(1.0 - alone[n]) ** number for n, number in zip(FLEET, key, strict=True)], axis=0)
            chance = chance + weight * (1.0 - nobody)
        return chance / total

    def _covers(
        self, uncovered: int, occupied: int, left: dict[int, int], ships: list[tuple[int, int]]
    ) -> Iterator[tuple[dict[int, int], list[tuple[int, int]]]]:
        """(ships left over, ships placed) for each way to explain all hits; both change when the next is asked for."""
        if not uncovered:
            yield left, ships
            return
        cell = (uncovered & -uncovered).bit_length() - 1
        for length in FLEET:
            if not left[length]:
                continue
            bits, possible = self._all.bits[length], self._possible[length]
            left[length] -= 1
            for placement in self._all.through[length][cell]:
                ship = bits[placement]
                if possible[placement] and not ship & occupied:
                    ships.append((length, placement))
                    yield from self._covers(uncovered & ~ship, occupied | ship, left, ships)
                    ships.pop()
            left[length] += 1


class Battleship(WeighingRowPolicy):
    """The most probable cell; the first one, row by row, among equals. A cell is worth its probability."""

    player = _Hunter
