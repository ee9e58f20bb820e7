"""The scripted Minigrid-Memory policy: go back and look, walk to the fork, look, and step toward the same object."""

from __future__ import annotations

import numpy as np

from envs.experts.history import HistoryPolicy
from envs.minigrid import FORWARD, LEFT, PART, RIGHT
from envs.vector import Observation

WALL, KEY, BALL = 2, 5, 6  # kinds of a cell
EAST, SOUTH, WEST, NORTH = range(4)  # where the agent looks; a turn to the right is one more
UNKNOWN = 0


class MinigridExpert(HistoryPolicy):
    """Always right, from the observation history alone; it counts its own turns, for the view does not say them.

    Where another acts, or noise, it may stand in the room beside the corridor's row, and goes back to that first.

    At the fork either side may be looked at first. It looks north for a key and south for a ball: else no step would
    say which of them is remembered but the last, where that and what is seen there decide together, as in XOR, and
    imitators did not learn to remember in 1,500 updates.
    """

    def start(self, num_envs: int, seed: int = 0) -> None:
        """Forget what was seen."""
        self._facing = np.zeros(num_envs, np.int64)
        self._object = np.zeros(num_envs, np.int64)  # in the room
        self._northern = np.zeros(num_envs, np.int64)  # at the fork
        self._row = np.zeros(num_envs, np.int64)  # south of the corridor's; others are in the room alone
        self._at_fork = np.zeros(num_envs, np.bool_)
        self._wall_ahead = np.zeros(num_envs, np.bool_)
        self._blocked = np.zeros(num_envs, np.bool_)

    def act(self, observation: Observation, is_first: np.ndarray) -> np.ndarray:
        """Actions int64 [N]."""
        for state in (self._facing, self._object, self._northern, self._row, self._at_fork):
            state[is_first] = 0
        cells = observation[PART]
        size = round((cells.shape[1] // 3) ** 0.5)
        kinds = cells.reshape(len(cells), size, size, 3)[..., 0]  # [N, from left to right, the agent's row last]
        ahead = kinds[:, size // 2, size - 2]
        self._wall_ahead, self._blocked = ahead == WALL, np.isin(ahead, (WALL, KEY, BALL))
        return np.array([self._choose(i, kinds[i]) for i in range(len(kinds))])

    def observe(self, action: np.ndarray, reward: np.ndarray) -> None:
        """Keep count of where the agent looks, whatever it did."""
        turn = (action == RIGHT).astype(np.int64) - (action == LEFT)
        moved = (action == FORWARD) & ~self._blocked
        self._at_fork &= ~moved
        self._row += moved * ((self._facing == SOUTH).astype(np.int64) - (self._facing == NORTH))
        self._facing = (self._facing + turn) % 4

    def _choose(self, i: int, kinds: np.ndarray) -> int:
        facing, middle, last = self._facing[i], kinds.shape[0] // 2, kinds.shape[1] - 1
        if self._object[i] == UNKNOWN:
            # Next to the agent there is only the room's object, and before it when it looks back.
            beside, before = kinds[middle - 1 : middle + 2, last], kinds[:, :last].ravel()
            seen = np.concatenate([beside, before]) if facing == WEST else beside
            found = seen[(seen == KEY) | (seen == BALL)]
            self._object[i] = found[0] if found.size else UNKNOWN
        if self._row[i]:
            return self._toward(facing, NORTH if self._row[i] > 0 else SOUTH)
        if self._object[i] == UNKNOWN:
            return self._toward(facing, WEST)
        self._at_fork[i] |= facing == EAST and self._wall_ahead[i]
        if not self._at_fork[i]:
            return self._toward(facing, EAST)
        ahead = kinds[middle, last - 2]
        if facing in (NORTH, SOUTH) and ahead in (KEY, BALL):
            self._northern[i] = ahead if facing == NORTH else KEY + BALL - ahead
        if self._northern[i] == UNKNOWN:
            wanted = NORTH if self._object[i] == KEY else SOUTH
        else:
            wanted = NORTH if self._northern[i] == self._object[i] else SOUTH
        return self._toward(facing, wanted)

    def _toward(self, facing: int, wanted: int) -> int:
        if facing == wanted:
            return FORWARD
        return RIGHT if (wanted - facing) % 4 == 1 else LEFT
