"""Environments in several processes: the same as in one, also where a process is lost on the way."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs.experts.tmaze import TMazeExpert
from envs.hidden import hidden_of, twins_of
from envs.isolated import EnvError
from envs.observers import Recorder, Telling
from envs.processes import ProcessVector
from envs.rollout import Episode, RandomPolicy, rollout
from envs.tmaze import HINT, make_vector
from envs.vector import SUCCESS, Observation, TimeStep, VectorEnv

ROWS, SEEDS = 5, range(12)


@pytest.fixture
def vector() -> Iterator[ProcessVector]:
    env = ProcessVector(make_vector, ROWS, 2, {"time_limit": 30}, timeout=60.0)
    yield env
    env.close()


def outcomes(episodes: list[Episode]) -> list[Any]:
    return [(e.seed, e.length, e.episode_return, e.success) for e in episodes]


def recorded(episodes: list[Episode]) -> list[Any]:
    return [{name: part.tolist() for name, part in e.steps.observation.items()} for e in episodes if e.steps]


def test_plays_the_same_as_one_process_does(vector: ProcessVector) -> None:
    alone = make_vector(num_envs=ROWS, time_limit=30)
    assert vector.spec == alone.spec
    play = partial(rollout, policy=RandomPolicy(alone.spec), seeds=SEEDS, policy_seed=3, observers=[Recorder()])
    ours, theirs = play(vector), play(alone)
    assert outcomes(ours) == outcomes(theirs)
    assert recorded(ours) == recorded(theirs)
    assert vector.restarts == 0


def uneven(num_envs: int) -> VectorEnv:
    """The second process of three rows starts after the first."""
    time.sleep(num_envs - 1)
    return make_vector(num_envs=num_envs, time_limit=30)


def test_no_process_is_spoken_to_while_it_starts() -> None:
    env = ProcessVector(uneven, 3, 2, {}, timeout=60.0)
    assert env.spec.name == "tmaze"
    shown = env.reset([1, 2, 3])
    env.close()
    alone = make_vector(num_envs=3, time_limit=30).reset([1, 2, 3])
    np.testing.assert_array_equal(shown["state"], alone["state"])


def test_a_process_that_is_killed_is_replaced_and_its_episodes_repeated(vector: ProcessVector) -> None:
    def kill(step: int, running: int) -> None:
        if step == 7 and vector.restarts == 0:
            os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)

    undisturbed = rollout(make_vector(num_envs=ROWS, time_limit=30), TMazeExpert(), SEEDS, observers=[Recorder()])
    disturbed = rollout(vector, TMazeExpert(), SEEDS, observers=[Recorder(), Telling(kill)])
    assert vector.restarts == 1
    assert outcomes(disturbed) == outcomes(undisturbed)
    assert recorded(disturbed) == recorded(undisturbed)


class Fragile:
    """A T-Maze whose process ends at its third step, every time."""

    metrics = (SUCCESS,)

    def __init__(self, num_envs: int) -> None:
        self._env = make_vector(num_envs=num_envs, time_limit=30)
        self.num_envs, self.spec, self._steps = num_envs, self._env.spec, 0

    def reset(self, seeds: Sequence[int | None]) -> Observation:
        return self._env.reset(seeds)

    def close(self) -> None:
        self._env.close()

    def step(self, action: np.ndarray, active: np.ndarray) -> TimeStep:
        self._steps += 1
        if self._steps == 3:
            os._exit(9)
        return self._env.step(action, active)


@pytest.mark.slow
def test_what_is_hidden_in_them_is_told_also_where_one_is_lost(vector: ProcessVector) -> None:
    vector.reset(range(ROWS))
    assert hidden_of(vector)["cue"].tolist() == [0, 1, 0, 1, 0], "the side of each goal, by its seed"
    os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
    assert hidden_of(vector)["cue"].tolist() == [0, 1, 0, 1, 0] and vector.restarts == 1


@pytest.mark.slow
def test_twins_are_played_in_all_processes_also_where_one_is_lost(vector: ProcessVector) -> None:
    first = vector.reset(range(ROWS))["state"]
    shown = twins_of(vector)
    assert shown is not None
    changed = np.argwhere(shown["state"] != first)
    assert changed.tolist() == [[row, HINT] for row in range(ROWS)], "the hint, and nothing else"
    os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
    assert hidden_of(vector)["cue"].tolist() == [1, 0, 1, 0, 1], "the other side of each goal"
    assert vector.restarts == 1


@pytest.mark.slow
def test_what_is_lost_at_the_same_place_every_time_is_an_error() -> None:
    env = ProcessVector(Fragile, 2, 1, {}, timeout=60.0)
    with pytest.raises(EnvError, match="exit code 9"):
        rollout(env, TMazeExpert(), [1, 2])
    assert env.restarts == 2
    env.close()


class Seen:
    """A T-Maze that shows the steps of its episode as a shade; one process ends at its second frame."""

    metrics = (SUCCESS,)

    def __init__(self, num_envs: int, mark: str) -> None:
        self._env, self._mark = make_vector(num_envs=num_envs, time_limit=30), mark
        self.num_envs, self.spec, self._shade, self._frames = num_envs, self._env.spec, 0, 0

    def reset(self, seeds: Sequence[int | None]) -> Observation:
        self._shade = 0
        return self._env.reset(seeds)

    def step(self, action: np.ndarray, active: np.ndarray) -> TimeStep:
        self._shade += 1
        return self._env.step(action, active)

    def render(self) -> np.ndarray:
        self._frames += 1
        if self._frames == 2:
            with contextlib.suppress(FileExistsError):
                os.close(os.open(self._mark, os.O_CREAT | os.O_EXCL))
                os._exit(9)
        return np.full((self.num_envs, 2, 2, 3), self._shade, np.uint8)

    def close(self) -> None:
        self._env.close()


@pytest.mark.slow
def test_frames_of_all_processes_are_one_array_also_where_one_is_lost(tmp_path: Path) -> None:
    env = ProcessVector(Seen, 3, 2, {"mark": str(tmp_path / "mark")}, timeout=60.0)
    env.reset([1, 2, 3])
    for shade in range(4):
        frames = env.render()
        assert frames.shape == (3, 2, 2, 3) and (frames == shade).all()
        env.step(np.zeros(3, np.int64), np.ones(3, np.bool_))
    assert env.restarts == 1
    env.close()


def test_needs_a_row_for_every_process() -> None:
    with pytest.raises(ValueError, match="expected 1 to 2, the number of environments; found 3"):
        ProcessVector(make_vector, 2, 3, {}, timeout=1.0)
