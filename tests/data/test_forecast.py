"""What is said before collecting: sizes from the columns, time from a short beginning; and actions out of bounds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from data.collect import collect
from data.forecast import Forecast, forecast, readable
from data.shard import Shard
from elmur.spec import Image, TaskSpec, Vector
from envs.observers import Recorder
from envs.rollout import Trajectory, rollout
from envs.vector import SUCCESS, Step

PIXELS = 3 * 16 * 16
SPEC = TaskSpec("slow", {"camera": Image(3, 16, 16), "state": Vector(2)}, Vector(2, (-1.0, -1.0), (1.0, 1.0)), 12)


class Slow:
    """Episodes of 12 steps, each of which takes `seconds` by `clock`; a picture of one colour, or of noise."""

    metrics = (SUCCESS,)
    clock = 0.0

    def __init__(self, num_envs: int, seconds: float = 0.0, noise: bool = False) -> None:
        self.num_envs, self.spec, self.seconds = num_envs, SPEC, seconds
        self.rng = np.random.default_rng(0) if noise else None
        self.count = 0

    def seen(self) -> dict[str, np.ndarray]:
        shape = (self.num_envs, 3, 16, 16)
        camera = np.full(shape, 7, np.uint8) if self.rng is None else self.rng.integers(0, 256, shape, np.uint8)
        return {"camera": camera, "state": np.zeros((self.num_envs, 2), np.float32)}

    def reset(self, seeds: Sequence[int | None]) -> dict[str, np.ndarray]:
        self.count = 0
        return self.seen()

    def step(self, action: np.ndarray, active: np.ndarray) -> Step:
        self.clock += self.seconds
        self.count += 1
        none, every = np.zeros(self.num_envs, np.bool_), np.ones(self.num_envs, np.bool_)
        over = active & (self.count >= 12)
        return Step(self.seen(), np.zeros(self.num_envs, np.float32), none, over, every, {SUCCESS: over})

    def close(self) -> None: ...


class Eager:
    """Asks for more than the bounds allow in the steps 3 and 4 of every episode."""

    def start(self, num_envs: int, seed: int = 0) -> None:
        self.count = 0

    def act(self, observation: dict[str, np.ndarray], is_first: np.ndarray) -> np.ndarray:
        self.count = 0 if is_first.all() else self.count + 1
        value = {3: 1.5, 4: -9.0}.get(self.count, 0.5)
        return np.full((len(is_first), 2), value, np.float32)

    def observe(self, action: np.ndarray, reward: np.ndarray) -> None: ...


def foretold(env: Slow, episodes: int, processes: int = 1) -> Forecast:
    """The forecast for shards of 4 episodes."""

    def play(steps: int) -> Trajectory:
        first = rollout(env, Eager(), [1, 2], max_steps=steps, observers=[Recorder()])[0].steps
        assert first is not None
        return first

    return forecast(SPEC, play, episodes, 4, env.num_envs, processes)


@pytest.mark.parametrize("noise", [False, True])
def test_sizes_are_those_of_the_columns(noise: bool) -> None:
    found = foretold(Slow(2, noise=noise), 10)
    per_step = PIXELS + 2 * 4 + 2 * 4 + 4 + 1  # picture, state, action, reward, whether it counts
    assert (found.episodes, found.steps, found.step_bytes) == (10, 120, per_step)
    # what is written for a compressed picture of noise is about as much as it holds; of one colour next to nothing
    assert found.stored_bytes == pytest.approx(per_step if noise else per_step - PIXELS, rel=0.25)
    assert ("compressed" in str(found)) == (not noise)


def test_time_is_that_of_a_short_beginning_made_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    env = Slow(2, seconds=0.02)
    monkeypatch.setattr("data.forecast.time.perf_counter", lambda: env.clock)
    found = foretold(env, 8)
    assert env.clock == pytest.approx(8 * 0.02), "six steps, and before that one, twice"
    assert found.seconds == pytest.approx(4 * 12 * 0.02), "four waves of two episodes"
    assert foretold(env, 8, processes=2).seconds == pytest.approx(4 * 12 * 0.02 / 2)


def test_reads_as_a_sentence() -> None:
    hours = Forecast(1000, 60_000, 98_341, 41_000.0, 3 * 3600.0)
    assert str(hours) == (
        "1,000 episodes of 60 steps at most, 60,000 in all; 98 kB a step, about 41 kB compressed, "
        "at most 2.5 GB on disk; about 3:00:00"
    )
    assert [readable(size) for size in (29, 1500, 12e6, 5e13)] == ["29 bytes", "1.5 kB", "12 MB", "50,000 GB"]


def test_is_said_before_anything_is_collected_and_clipped_actions_after(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    options = {"num_episodes": 6, "seed": 0, "num_envs": 2, "shard_episodes": 3, "progress": False}
    paths = collect(partial(Slow), Eager(), tmp_path / "shards", **options)  # type: ignore[arg-type]
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith("collecting shards: 6 episodes of 12 steps at most, 72 in all;")
    assert said[1] == "12 of 72 actions (16.7 %) lay outside the bounds and were clipped to them"
    for path in paths:
        with Shard(path) as shard:
            assert shard.attribute("provenance")["clipped_actions"] == 6
            action = shard.read("action", 0, 12)
            assert action[[2, 3, 4, 5], 0].tolist() == [0.5, 1.0, -1.0, 0.5]
    caplog.clear()
    collect(partial(Slow), Eager(), tmp_path / "shards", **options)  # type: ignore[arg-type]
    assert not caplog.records, "nothing was missing"
