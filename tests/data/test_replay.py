"""Recorded episodes in the place of an environment: what is shown is what was recorded, whatever is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.replay import Replay
from data.shard import write_shard
from elmur.spec import TaskSpec
from envs.observers import Recorder
from envs.rollout import RandomPolicy, rollout


def test_it_shows_what_was_recorded(tmp_path: Path, spec: TaskSpec, episode: Any) -> None:
    given = [episode(spec, steps, seed) for seed, steps in enumerate((5, 1, 9))]
    write_shard(tmp_path / "shard-00000.h5", spec, given[:2], {})
    write_shard(tmp_path / "shard-00001.h5", spec, given[2:], {})
    env = Replay(2, tmp_path)
    assert env.spec == spec
    played = rollout(env, RandomPolicy(spec), [0, 1, 2, 4], observers=[Recorder()])  # the fourth is the second again
    for one, there in zip(played, [*given, given[1]], strict=True):
        assert one.steps is not None and one.length == len(there.reward)
        for part, values in there.observation.items():
            np.testing.assert_array_equal(one.steps.observation[part], values, part)
        np.testing.assert_array_equal(one.steps.reward, there.reward)
        assert (one.steps.terminated, one.steps.truncated) == (there.terminated, not there.terminated)
        assert not np.array_equal(one.steps.action, there.action), "others were chosen"


def test_a_row_without_a_seed_keeps_its_episode(tmp_path: Path, plain_spec: TaskSpec, episode: Any) -> None:
    given = [episode(plain_spec, 4, seed) for seed in range(2)]
    write_shard(tmp_path / "shard-00000.h5", plain_spec, given, {})
    env = Replay(2, tmp_path)
    env.reset([0, 1])
    env.step(np.zeros(2, np.int64), np.array([True, False]))
    shown = env.reset([None, 0])["state"]
    np.testing.assert_array_equal(shown, [given[0].observation["state"][1], given[0].observation["state"][0]])
    with pytest.raises(ValueError, match="one per environment"):
        env.reset([0])
