"""MIKASA-Robo from the command line: data of both observations, and the sentences of what is missing."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from data.index import find_shards
from data.shard import Shard
from tests.command import CommandLine, Done

INSTALLED = importlib.util.find_spec("mikasa_robo_suite") is not None
TASK = "task=mikasa_remember_color_3"
FEW = ("collect.num_episodes=2", "collect.shard_episodes=2", "+collect.make_env.processes=0")


def sentence(done: Done) -> str:
    assert done.code == 1, done
    assert "Traceback" not in done.stderr + done.stdout
    return done.stderr.splitlines()[-1]


def only_shard(folder: Path) -> Shard:
    (path,) = find_shards(folder)
    return Shard(path)


@pytest.mark.skipif(INSTALLED, reason="the suite is installed")
def test_a_missing_suite_is_named_with_the_command_that_installs_it(cli: CommandLine) -> None:
    said = sentence(cli.run("stage=collect", TASK))
    assert said.startswith("error: RememberColor3-v0 needs the package mani-skill 3.0.1, found none; make setup-mikasa")


def test_an_observation_is_asked_for_only_where_there_is_a_choice(cli: CommandLine) -> None:
    assert "observation: there is no such setting" in sentence(cli.run("stage=collect", "observation=rgb"))


@pytest.mark.mikasa
@pytest.mark.skipif(not INSTALLED, reason="needs MIKASA-Robo: make setup-mikasa")
def test_collects_numbers(cli: CommandLine) -> None:
    done = cli.run("stage=collect", TASK, *FEW)
    assert done.code == 0, done.stderr
    with only_shard(cli.folder / "shards" / "RememberColor3-v0-vector") as shard:
        assert sorted(shard.spec.observation) == ["joints", "objects"]
        assert shard.offsets.tolist() == [0, 60, 120]
        assert json.dumps(shard.attribute("provenance")).count("MotionPolicy") >= 1
        assert shard.attribute("provenance")["success"] == 1.0
        action = shard.read("action", 0, 120)
        assert np.abs(action).max() <= 1.0  # nothing that the head, which ends in tanh, could not say
        seen = shard.read("observation/objects", 0, 60).reshape(60, 3, 4)[:, :, 0].sum(axis=1)
        assert seen.tolist() == [1.0] * 5 + [0.0] * 5 + [3.0] * 50


@pytest.mark.mikasa
@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="needs MIKASA-Robo: make setup-mikasa")
def test_collects_pictures(cli: CommandLine) -> None:
    done = cli.run("stage=collect", TASK, "observation=rgb", *FEW, "collect.num_episodes=1")
    assert done.code == 0, done.stderr
    with only_shard(cli.folder / "shards" / "RememberColor3-v0-rgb") as shard:
        assert sorted(shard.spec.observation) == ["base_camera", "hand_camera"]
        pictures = shard.read("observation/base_camera", 0, 60)
        assert pictures.shape == (60, 3, 128, 128)
        assert pictures.dtype == np.uint8
        assert pictures.std() > 10
        assert shard.attribute("provenance")["success"] == 1.0
