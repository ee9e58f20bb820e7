"""Minigrid-Memory: an object at the start says which of two to walk to at the far end of a corridor (Farama Minigrid).

The agent starts in the corridor, facing away from the room where the object lies: a key or a ball. It has to go back
and look, walk to the fork at the other end, look there, and step toward the same object. As in RATE's experiments
(arXiv 2306.09459) it sees `view` x `view` cells before it and has three actions: turn left, turn right, forward.

A map of size S is S x S cells; the corridor's fork is S - 2 cells from the left edge. All of an episode follows from
its seed. An observation is the kind of each cell, its colour and its state, as Minigrid numbers them; where the agent
looks and what it did last is not shown.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from elmur.spec import Discrete, TaskSpec
from envs.seeded import Seeded
from envs.vector import SUCCESS, Observation, SyncVector

PART = "view"
LEFT, RIGHT, FORWARD = range(3)
KINDS, COLOURS, STATES = 11, 6, 4  # of a cell, in Minigrid's encoding; the state of the agent's own cell is a direction
STEPS_PER_CELL = 4  # the time limit is so many times the size; who looks first needs at most 2 S + 4
_STREAM = 0x3E30  # apart from what else draws by the episode's seed


class MinigridError(ValueError):
    """A Minigrid environment that cannot be made; the message says what to do."""


class MinigridMemory(Seeded):
    """An episode on a map whose size is drawn from `sizes`, odd numbers from 7; its reward is Minigrid's.

    `info["success"]` says whether the episode ended at the object that was shown.
    """

    def __init__(self, sizes: Sequence[int], view: int = 3, render: bool = False) -> None:
        self._sizes, self._view, self._render = sizes, view, render
        self._envs: dict[int, Any] = {}  # of each size, made when it is first needed
        cells = view * view
        part = Discrete((KINDS, COLOURS, STATES) * cells)
        horizon = STEPS_PER_CELL * max(sizes)
        super().__init__(TaskSpec("minigrid-memory", {PART: part}, Discrete((3,)), horizon=horizon))

    def begin(self, seed: int) -> Observation:
        """The first observation of the episode of this seed."""
        self._env = self._of_size(int(np.random.default_rng([_STREAM, seed]).choice(self._sizes)))
        shown, _ = self._env.reset(seed=seed)
        return _seen(shown)

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One turn or one cell forward."""
        shown, reward, terminated, truncated, _ = self._env.step(action)
        return _seen(shown), float(reward), terminated, truncated and not terminated, {SUCCESS: reward > 0}

    def render(self) -> Any:
        """The map as a picture, where it was made with render=True."""
        return self._env.render()

    def close(self) -> None:
        """Free the maps."""
        for env in self._envs.values():
            env.close()

    def _of_size(self, size: int) -> Any:
        from minigrid.envs.memory import MemoryEnv  # an extra

        if size not in self._envs:
            mode = {"render_mode": "rgb_array"} if self._render else {}
            self._envs[size] = MemoryEnv(size=size, agent_view_size=self._view, max_steps=STEPS_PER_CELL * size, **mode)
        return self._envs[size]


def make_vector(num_envs: int, sizes: Sequence[int], view: int = 3, render: bool = False) -> SyncVector:
    """`num_envs` Minigrid-Memory environments; the arguments are those of MinigridMemory.

    Raises MinigridError for a size or view that there is not, and where Minigrid is not installed.
    """
    if importlib.util.find_spec("minigrid") is None:
        raise MinigridError("env=minigrid needs the package minigrid: pip install -e '.[minigrid]'")
    if not sizes or any(type(size) is not int or size < 7 or size % 2 == 0 for size in sizes):
        raise MinigridError(f"sizes: expected a list of odd numbers from 7, e.g. [7,9]; found {sizes!r}")
    if type(view) is not int or view < 3 or view % 2 == 0:
        raise MinigridError(f"view: expected an odd number of cells from 3; found {view!r}")
    return SyncVector([partial(MinigridMemory, tuple(sizes), view, render)] * num_envs)


def variants(sizes: Sequence[int]) -> dict[str, dict[str, list[int]]]:
    """Arguments of `make_vector` for each size of map to act on, by the name that results carry."""
    return {f"S={size}": {"sizes": [size]} for size in sizes}


def _seen(shown: dict[str, Any]) -> Observation:
    """Minigrid's picture [view, view, 3] as its numbers in order."""
    return {PART: shown["image"].astype(np.int64).reshape(-1)}
