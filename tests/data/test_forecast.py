"""What is said before collecting: sizes from the columns, time from a short beginning; and actions out of bounds."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from data.collect import collect
from data.forecast import forecast
from data.shard import Shard
from envs.rollout import rollout
from tests.slow_env import SPEC, Slow


class Eager:
    """Asks for more than the bounds allow in the steps 3 and 4 of every episode."""

    def start(self, num_envs: int, seed: int = 0) -> None:
        self.count = 0

    def act(self, observation: dict[str, np.ndarray], is_first: np.ndarray) -> np.ndarray:
        self.count = 0 if is_first.all() else self.count + 1
        value = {3: 1.5, 4: -9.0}.get(self.count, 0.5)
        return np.full((len(is_first), 2), value, np.float32)

    def observe(self, action: np.ndarray, reward: np.ndarray) -> None: ...


def test_a_sentence_by_a_short_beginning_made_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """789 bytes: a picture of 3 x 16 x 16, state and action of 2 floats each, the reward, whether the step counts."""
    monkeypatch.setattr("data.forecast.time.perf_counter", lambda: Slow.clock)
    env, begin = Slow(2, seconds=5.0, resetting=40.0), Slow.clock
    play = partial(rollout, env, Eager(), [1, 2])
    found = forecast(SPEC, lambda steps: play(max_steps=steps), 8, waves=4)
    assert Slow.clock - begin == 3 * 40 + (1 + 1 + 6) * 5, "one step, once more, and six"
    assert found == (  # four waves of a reset and 12 steps: 4 x (40 + 12 x 5) seconds
        "8 episodes of 12 steps at most, 96 in all; 789 bytes a step, at most 75.7 kB; about 0:06:40"
    )
    assert forecast(SPEC, lambda steps: play(max_steps=steps), 8, waves=0.5).endswith("; less than a minute")
    unknown = forecast(replace(SPEC, horizon=None), play, 1000, waves=4)
    assert unknown == "1,000 episodes of unknown length, 789 bytes a step"


def test_is_said_before_anything_is_collected_and_clipped_actions_after(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    options = {"num_episodes": 6, "seed": 0, "num_envs": 2, "shard_episodes": 3, "progress": False}
    paths = collect(partial(Slow), Eager(), tmp_path / "shards", **options).paths  # type: ignore[arg-type]
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith("collecting shards: 6 episodes of 12 steps at most, 72 in all;")
    assert said[1] == "6 episodes, 72 steps, mean return 0.00 (worst 0.00)"
    assert said[2] == "12 of 72 actions (16.7 %) lay outside the bounds and were clipped to them"
    for path in paths:
        with Shard(path) as shard:
            assert shard.attribute("provenance")["clipped_actions"] == 6
            action = shard.read("action", 0, 12)
            assert action[[2, 3, 4, 5], 0].tolist() == [0.5, 1.0, -1.0, 0.5]
    caplog.clear()
    collect(partial(Slow), Eager(), tmp_path / "shards", **options)  # type: ignore[arg-type]
    assert not caplog.records, "nothing was missing"
