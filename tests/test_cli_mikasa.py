"""MIKASA-Robo from the command line: data, training and video from pictures, and the sentences of what is missing."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from data.collection import find_shards
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


def test_the_published_archive_becomes_shards_without_the_suite(cli: CommandLine) -> None:
    source = cli.folder / "archive"
    source.mkdir()
    rng = np.random.default_rng(0)
    for number in range(2):
        np.savez(
            source / f"train_data_{number}.npz",
            rgb=rng.integers(0, 256, (60, 128, 128, 6), np.uint8), joints=np.zeros((60, 25), np.float32),
            action=rng.normal(scale=0.5, size=(60, 8)).astype(np.float32), reward=np.zeros(60, np.float32),
            success=np.zeros(60, int), done=np.arange(60) // 59,
        )  # fmt: skip
    convert = ("stage=convert", TASK, f"source={source}", "shards=" + str(cli.folder / "converted"))
    assert "holds pictures, not observation=vector; add observation=rgb" in sentence(cli.run(*convert))
    assert "stage=convert needs source=FOLDER" in sentence(cli.run("stage=convert", TASK, "observation=rgb"))
    done = cli.run(*convert, "observation=rgb")
    assert done.code == 0, done.stderr
    with only_shard(cli.folder / "converted" / "RememberColor3-v0-rgb") as shard:
        assert sorted(shard.spec.observation) == ["base_camera", "hand_camera"]
        assert np.abs(shard.read("action", 0, 120)).max() == 1.0
    assert "lay outside the bounds and were clipped to them" in done.stdout + done.stderr
    with np.load(source / "train_data_1.npz") as archive:
        absolute = {**archive, "action": archive["action"] + 2.0}  # positions of the joints, not differences
    np.savez(source / "train_data_1.npz", **absolute)
    said = sentence(cli.run(*convert, "observation=rgb"))
    assert "train_data_1.npz: 60 of 60 actions outside the bounds" in said and "absolute positions" in said
    (source / "train_data_1.npz").write_bytes(b"PK")
    assert "1 of 2 episodes are bad: train_data_1.npz: not a whole npz" in sentence(
        cli.run(*convert, "observation=rgb")
    )


@pytest.mark.mikasa
@pytest.mark.skipif(not INSTALLED, reason="needs MIKASA-Robo: make setup-mikasa")
def test_pictures_are_collected_learned_from_and_acted_on(cli: CommandLine) -> None:
    """The published experiment in small, with real rendering; takes minutes on a CPU."""
    folder = cli.folder / "pictures"
    few = (
        "collect.num_episodes=2", "collect.shard_episodes=2", "+collect.make_env.processes=0",
        "env.make.processes=0", "data.lanes=2", "trainer.max_steps=2", "trainer.accelerator=cpu", "callbacks=last",
        "model.n_layer=1", "model.memory.memory_size=4", "evaluation.num_episodes=1", "evaluation.video=1",
    )  # fmt: skip
    done = cli.run(TASK, "experiment=mikasa_published", *few, to=folder)
    assert done.code == 0, done.stderr
    assert "2 episodes of 60 steps at most, 120 in all; 98.3 kB a step, at most 11.8 MB" in done.stdout + done.stderr
    with only_shard(cli.folder / "shards" / "RememberColor3-v0-rgb") as shard:
        assert sorted(shard.spec.observation) == ["base_camera", "hand_camera"]
        pictures = shard.read("observation/base_camera", 0, 60)
        assert pictures.shape == (60, 3, 128, 128)
        assert pictures.dtype == np.uint8
        assert pictures.std() > 10
        assert shard.attribute("provenance")["success"] == 1.0
    row = json.loads((folder / "result.json").read_text())
    assert (row["task"], row["updates"], row["outcomes"]["all"]["mean_length"]) == ("RememberColor3-v0", 2, 60.0)
    (film,) = folder.glob("video.*")
    assert film.stat().st_size > 10_000
    checkpoint = f"checkpoint={folder / 'checkpoints' / 'last.ckpt'}"
    asked = ("stage=evaluate", TASK, "observation=rgb", checkpoint, "env.make.processes=0", "evaluation.num_episodes=1")
    done = cli.run(*asked, to=cli.folder / "again")
    assert done.code == 0, done.stderr
    again = json.loads((cli.folder / "again" / "result.json").read_text())
    assert again["outcomes"]["all"]["seeds"] == row["outcomes"]["all"]["seeds"]
    assert not list((cli.folder / "again").glob("video.*")), "only when asked for"
    done = cli.run(TASK, "experiment=mikasa_cameras", "collect.noise=0.0", *few[:-1], to=cli.folder / "shifted")
    assert done.code == 0, done.stderr
    assert "collecting" not in done.stdout + done.stderr, "the same pictures"
