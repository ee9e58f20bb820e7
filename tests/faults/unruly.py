"""T-Mazes that misbehave in the middle of an episode, for a configuration of a test to name by file."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from elmur.spec import TaskSpec
from envs.tmaze import make_vector
from envs.vector import SUCCESS, Observation, TimeStep, VectorEnv

AT_STEP = 4


class Unruly:
    """A T-Maze of 30 steps that fails at its fourth step where an episode of the seed `bad` is played.

    how: "raise", "die", "hang" (with a process of its own that must not be left), or "once": die the first time only.
    """

    metrics = (SUCCESS,)

    def __init__(self, num_envs: int, how: str, bad: int, notes: str) -> None:
        self._env: VectorEnv = make_vector(num_envs, 30)
        self.num_envs, self.spec = num_envs, self._env.spec
        self._how, self._bad, self._notes = how, bad, Path(notes)
        self._armed, self._steps = False, 0
        self._note(f"pid {os.getpid()}")

    def reset(self, seeds: Sequence[int | None]) -> Observation:
        self._armed, self._steps = self._bad in seeds, 0
        self._note(f"seeds {list(seeds)}")
        return self._env.reset(seeds)

    def step(self, action: np.ndarray, active: np.ndarray) -> TimeStep:
        self._steps += 1
        if self._armed and self._steps == AT_STEP:
            self._fail()
        return self._env.step(action, active)

    def close(self) -> None:
        self._env.close()

    def _fail(self) -> None:
        if self._how == "raise":
            raise ZeroDivisionError("the simulator is out of sorts")
        if self._how == "hang":
            self._note(f"pid {subprocess.Popen(['sleep', '600']).pid}")
            time.sleep(600)
        if self._how == "die" or not (self._notes / "failed").exists():
            (self._notes / "failed").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def _note(self, line: str) -> None:
        with (self._notes / "notes").open("a") as file:
            file.write(line + "\n")


def make(num_envs: int, **arguments: Any) -> VectorEnv:
    env: VectorEnv = Unruly(num_envs, **arguments)
    return env


def task() -> TaskSpec:
    return make_vector(1, 30).spec
