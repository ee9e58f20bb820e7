"""The passive T-Maze: a hint at the start says which way to turn at the end of a corridor.

Cells (0..L, 0) and the goals (L, +1), (L, -1); the walk begins at x = 0. Actions 0 = +x, 1 = +y, 2 = -x, 3 = -y; a
blocked move leaves the position unchanged. The episode ends on a goal cell (terminated) or at the time limit L + 2
(truncated); reward 1 on the goal that the hint named, 0 otherwise and everywhere else. Observation "state" = [y, hint,
flag, noise]: hint is the side of the goal in the first observation and 0 later, flag is 1 where x = L, noise is uniform
in -1, 0, 1.

All of an episode follows from its seed: even seeds have their goal at -1, odd ones at +1, so that any even run of
consecutive seeds is balanced; the corridor (where it is drawn) and the noise come from the episode's own generator.
`TMaze` and `VectorTMaze` are two implementations of this and give the identical episode for a seed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from elmur.spec import Discrete, TaskSpec, Vector
from envs.hidden import Demand
from envs.seeded import Seeded
from envs.vector import SUCCESS, Observation, TimeStep, check_active, check_playing, check_seeds

PART = "state"
Y, HINT, FLAG, NOISE = range(4)  # components of the state
RIGHT, TOWARD_POSITIVE, LEFT, TOWARD_NEGATIVE = range(4)  # actions
_IDLE = 4  # an action of our own: stay
_DX = np.array([1, 0, -1, 0, 0], np.int64)
_DY = np.array([0, 1, 0, -1, 0], np.float32)
# Noise is drawn this many numbers at a time: one generator call per step and environment would cost more than the step.
NOISE_BLOCK = 1024
MOST_CELLS = 31  # of a corridor in a picture
# Keeps an episode's stream apart from those of others that were given the same seed, such as a random policy's.
_STREAM = 0x73A2E
# What steps and resets change in a VectorTMaze, apart from its generators.
_CHANGING = ("_noise", "_next_noise", "_x", "_corridor", "_steps_left", "_goal", "_playing", "_state")


@dataclass(frozen=True)
class TMazeRules:
    """Which corridors a T-Maze has, and everything an episode draws.

    time_limit: the corridor has L = time_limit - 2 cells before the junction; the optimal episode takes L + 1 steps.
    random_corridor: L is drawn for each episode, uniform in 1 .. time_limit - 2, and its time limit is L + 2.
    min_time_limit: smallest time limit drawn; 3 unless given, only with random_corridor.
    """

    time_limit: int
    random_corridor: bool = False
    min_time_limit: int | None = None

    def __post_init__(self) -> None:
        if self.time_limit < 3:
            raise ValueError(f"time_limit: expected 3 or more (corridor = time_limit - 2); found {self.time_limit}")
        if self.min_time_limit is None:
            return
        if not self.random_corridor:
            raise ValueError(f"min_time_limit={self.min_time_limit} has an effect only with random_corridor=true")
        if not 3 <= self.min_time_limit <= self.time_limit:
            raise ValueError(f"min_time_limit: expected 3 to time_limit={self.time_limit}; found {self.min_time_limit}")

    @property
    def task_spec(self) -> TaskSpec:
        """What a policy may know of the task."""
        state = Vector(4, low=(-1.0, -1.0, 0.0, -1.0), high=(1.0, 1.0, 1.0, 1.0))
        return TaskSpec("tmaze", {PART: state}, Discrete((4,)), horizon=self.time_limit)

    def draw(self, seed: int) -> tuple[int, int, np.random.Generator]:
        """Goal side (-1 or +1), corridor length and generator of the noise of the episode with this seed."""
        rng = np.random.default_rng([_STREAM, seed])
        corridor = self.time_limit - 2
        if self.random_corridor:
            corridor = int(rng.integers((self.min_time_limit or 3) - 2, corridor, endpoint=True))
        return (1 if seed % 2 else -1), corridor, rng


def noise_block(rng: np.random.Generator) -> np.ndarray:
    """The next NOISE_BLOCK noise values of an episode, int8 in -1, 0, 1."""
    return rng.integers(-1, 2, size=NOISE_BLOCK, dtype=np.int8)


class TMaze(Seeded):
    """The T-Maze as a Gymnasium environment. `reset(seed=s)` begins episode s; without a seed, the next drawn one."""

    def __init__(self, time_limit: int = 30, random_corridor: bool = False, min_time_limit: int | None = None) -> None:
        self._rules = TMazeRules(time_limit, random_corridor, min_time_limit)
        super().__init__(self._rules.task_spec)
        self._playing = False

    def begin(self, seed: int) -> Observation:
        """The first observation, with the hint."""
        self._goal, self._corridor, self._rng = self._rules.draw(seed)
        self._x, self._y, self._steps, self._playing = 0, 0, 0, True
        return self._observe()

    def step(self, action: int) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """One move. `info["success"]` says whether the right goal was reached."""
        if not self._playing:
            raise RuntimeError("no episode is running: call reset() first")
        if not self.action_space.contains(action):
            raise ValueError(f"action: expected 0 to 3; found {action!r}")
        if action == RIGHT and self._x < self._corridor:
            self._x += 1
        elif action == LEFT and self._x > 0:
            self._x -= 1
        elif action in (TOWARD_POSITIVE, TOWARD_NEGATIVE) and self._x == self._corridor:
            self._y = 1 if action == TOWARD_POSITIVE else -1
        self._steps += 1
        terminated = self._y != 0
        truncated = not terminated and self._steps >= self._corridor + 2
        success = self._y == self._goal
        self._playing = not (terminated or truncated)
        return self._observe(), float(success), terminated, truncated, {SUCCESS: success}

    def _observe(self) -> dict[str, np.ndarray]:
        if self._steps % NOISE_BLOCK == 0:
            self._noise = noise_block(self._rng)
        hint = self._goal if self._steps == 0 else 0
        noise = self._noise[self._steps % NOISE_BLOCK]
        return {PART: np.array([self._y, hint, self._x == self._corridor, noise], np.float32)}


class VectorTMaze:
    """N T-Mazes in numpy arrays: a step costs the same few array operations for 1 environment as for 100."""

    metrics = (SUCCESS,)

    def __init__(
        self, num_envs: int, time_limit: int, random_corridor: bool = False, min_time_limit: int | None = None
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs: expected 1 or more; found {num_envs}")
        self._rules = TMazeRules(time_limit, random_corridor, min_time_limit)
        self.num_envs, self.spec = num_envs, self._rules.task_spec
        self._rngs = [np.random.default_rng(0) for _ in range(num_envs)]
        self._noise = np.zeros((num_envs, NOISE_BLOCK), np.float32)
        self._block_start = np.arange(num_envs) * NOISE_BLOCK
        self._next_noise = self._block_start.copy()  # where each environment reads next in the flattened _noise
        self._until_refill = NOISE_BLOCK  # steps before any environment can have used up its block
        self._x = np.zeros(num_envs, np.int64)
        self._corridor = np.ones(num_envs, np.int64)
        self._steps_left = np.zeros(num_envs, np.int64)
        self._goal = np.zeros(num_envs, np.float32)
        self._playing = np.zeros(num_envs, np.bool_)
        self._state = np.zeros((num_envs, 4), np.float32)
        self._move = np.zeros(num_envs, np.int64)
        self._loss_mask = np.ones(num_envs, np.bool_)
        self._loss_mask.flags.writeable = False  # handed out at every step

    def reset(self, seeds: Sequence[int | None]) -> Observation:
        """First observations where a seed is given, last ones elsewhere (zeros where there never was an episode)."""
        for i, seed in enumerate(check_seeds(seeds, self.num_envs)):
            if seed is None:
                continue
            goal, corridor, rng = self._rules.draw(seed)
            self._goal[i], self._corridor[i], self._rngs[i] = goal, corridor, rng
            self._x[i], self._steps_left[i], self._playing[i] = 0, corridor + 2, True
            self._noise[i] = noise_block(rng)
            self._state[i] = 0.0, goal, 0.0, self._noise[i, 0]
            self._next_noise[i] = self._block_start[i] + 1
        self._refill()
        return {PART: self._state.copy()}

    def step(self, action: np.ndarray, active: np.ndarray) -> TimeStep:
        """One step of every active environment. Raises RuntimeError where an active one has no episode running."""
        move = self._moves(np.asarray(action), active)
        state, x = self._state, self._x
        # At the junction (the last flag) a vertical move reaches a goal, and a running episode always has y = 0.
        reached = _DY.take(move) * state[:, FLAG]
        np.add(x, _DX.take(move), out=x)
        np.maximum(x, 0, out=x)
        np.minimum(x, self._corridor, out=x)
        np.subtract(self._steps_left, active, out=self._steps_left)

        terminated = reached != 0
        success = reached * self._goal > 0
        truncated = (self._steps_left == 0) & active & ~terminated
        np.greater(self._playing, terminated | truncated, out=self._playing)  # playing and not ended

        state[:, Y] += reached
        np.copyto(state[:, HINT], 0.0, where=active)
        np.equal(x, self._corridor, out=state[:, FLAG])
        np.copyto(state[:, NOISE], self._noise.take(self._next_noise), where=active)
        np.add(self._next_noise, active, out=self._next_noise)
        self._until_refill -= 1
        if self._until_refill == 0:
            self._refill()
        reward, seen = success.astype(np.float32), {PART: state.copy()}
        return TimeStep(seen, reward, terminated, truncated, self._loss_mask, {SUCCESS: success})

    def close(self) -> None:
        """Nothing to free."""

    def hidden(self) -> dict[str, np.ndarray]:
        """The side of each goal: 0 for -1, 1 for +1 (see envs/hidden.py)."""
        return {"cue": (self._goal > 0).astype(np.int64)}

    def twin(self) -> Observation:
        """The first observations of the same episodes with the other hint; right after `reset` alone."""
        if (self._steps_left != self._corridor + 2)[self._playing].any():
            raise RuntimeError("twin: expected episodes at their first observation; call reset() first")
        self._goal *= -1
        self._state[:, HINT] *= -1
        return {PART: self._state.copy()}

    def picture(self, row: int) -> list[list[str]]:
        """The two goals and the corridor between them, which is drawn in at most MOST_CELLS cells."""
        cells = min(MOST_CELLS, int(self._corridor[row]) + 1)
        at = int(self._x[row] * (cells - 1) / max(1, self._corridor[row]))
        y, hint = self._state[row, Y], self._state[row, HINT]
        middle = ["·"] * cells
        if hint:
            middle[0] = "▲" if hint > 0 else "▼"
        grid = [[""] * (cells - 1) + ["★" if self._goal[row] > 0 else "○"], middle,
                [""] * (cells - 1) + ["★" if self._goal[row] < 0 else "○"]]  # fmt: skip
        walker = 1 - int(y)
        grid[walker][at] = f"{grid[walker][at]}●" if grid[walker][at] in "▲▼" else "●"
        return grid

    def demand(self) -> Demand:
        """The hint, from the first step to the junction."""
        return Demand(1, "hint", self._rules.time_limit - 1)

    def snapshot(self) -> dict[str, Any]:
        """All that the next steps depend on, in arrays and plain values."""
        arrays = {name: getattr(self, name).copy() for name in _CHANGING}
        states = [json.dumps(rng.bit_generator.state) for rng in self._rngs]
        return {**arrays, "generators": states, "until_refill": self._until_refill}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go on where a snapshot of as many environments was taken."""
        for name in _CHANGING:
            getattr(self, name)[...] = snapshot[name]
        for rng, state in zip(self._rngs, snapshot["generators"], strict=True):
            rng.bit_generator.state = json.loads(state)
        self._until_refill = int(snapshot["until_refill"])

    def _moves(self, action: np.ndarray, active: np.ndarray) -> np.ndarray:
        """The action where active and _IDLE elsewhere, int64 [N], checked."""
        check_active(active, self.num_envs)
        if action.shape != (self.num_envs,) or action.dtype.kind not in "iu":
            raise ValueError(f"action: expected integers [{self.num_envs}]; found {action.dtype} {list(action.shape)}")
        move = self._move
        move.fill(RIGHT)
        np.copyto(move, action, where=active, casting="same_kind" if action.dtype.kind == "i" else "unsafe")
        if move.view(np.uint64).max() >= _IDLE:  # seen as unsigned, a negative number is a large one
            row = int(((move < 0) | (move >= _IDLE)).argmax())
            raise ValueError(f"action: expected 0 to 3; found {move[row]} for environment {row}")
        np.copyto(move, _IDLE, where=~active)
        if np.logical_or.reduce(active & ~self._playing):
            check_playing(active, self._playing)
        return move

    def _refill(self) -> None:
        """Draw a new block for every environment that has read all of its last one."""
        used = self._next_noise - self._block_start
        for i in np.flatnonzero(used == NOISE_BLOCK):
            self._noise[i] = noise_block(self._rngs[i])
            self._next_noise[i], used[i] = self._block_start[i], 0
        used[~self._playing] = 0  # they read no further until a reset, which comes here again
        self._until_refill = NOISE_BLOCK - int(used.max())


def make_vector(
    num_envs: int, time_limit: int, random_corridor: bool = False, min_time_limit: int | None = None
) -> VectorTMaze:
    """N T-Mazes side by side, as `conf/env/tmaze.yaml` names them; the arguments are those of TMazeRules."""
    return VectorTMaze(num_envs, time_limit, random_corridor, min_time_limit)


def variants(lengths: Sequence[int]) -> dict[str, dict[str, int]]:
    """Arguments of `make_vector` for each time limit to act under, by the name that results carry."""
    whole = isinstance(lengths, Sequence) and all(isinstance(length, int) for length in lengths)
    if not whole or not lengths:
        raise ValueError(f"lengths: expected a list of time limits, e.g. [9,90]; found {lengths!r}")
    return {f"T={length}": {"time_limit": length} for length in lengths}


gymnasium.register("elmur/TMaze-v0", entry_point="envs.tmaze:TMaze")
