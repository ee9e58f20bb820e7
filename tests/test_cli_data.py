"""Trajectories of one's own at the command line: arrays to shards to a model, without an environment."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from data.writer import ShardWriter
from tests.command import CommandLine

QUICK = (
    "env=data", "data.lanes=8", "data.backprop_segments=2", "module.context_length=3", "model=gru", "model.d_model=16",
    "trainer.accelerator=cpu", "module.optimizer.lr=1e-2",
)  # fmt: skip
EPISODES, STEPS = 60, 6


@pytest.fixture(scope="module")
def shards(cli: CommandLine) -> Path:
    """A cue that is shown once and asked for until the end, and a number that is to be doubled."""
    folder, rng = cli.folder / "shards", np.random.default_rng(0)
    with ShardWriter(folder / "cue") as choices, ShardWriter(folder / "double") as numbers:
        for _ in range(EPISODES):
            cue = rng.integers(3)
            shown = np.eye(3)[np.full(STEPS, cue)] * (np.arange(STEPS) == 0)[:, None]
            choices.append(shown, np.full(STEPS, cue), np.ones(STEPS))
            number = rng.normal(size=(STEPS, 1))
            numbers.append({"number": number}, 2 * number, np.zeros(STEPS))
    return folder


def test_trajectories_alone_train_and_validate(cli: CommandLine, shards: Path) -> None:
    done = cli.run(*QUICK, "env.id=cue", "trainer.max_steps=60", to=cli.folder / "cue")
    assert done.code == 0, done.stderr
    assert "action accuracy" in done.stdout and "success needs an environment to act in" in done.stdout + done.stderr
    found = json.loads((cli.folder / "cue" / "validation.json").read_text())
    assert (found["task"], found["measure"], found["episodes"]) == ("cue", "action accuracy", EPISODES // 10)
    assert found["value"] > 0.9 and found["updates"] == 60, "a cue of three is told from its first step"
    assert not (cli.folder / "cue" / "result.json").exists(), "nobody has acted"
    again = cli.run(*QUICK, "env.id=cue", "trainer.max_steps=60", to=cli.folder / "cue")
    assert again.code == 0 and "finished before" in again.stdout + again.stderr and "action accuracy" in again.stdout
    checkpoint = cli.folder / "cue" / "checkpoints" / "last.ckpt"
    for stage in ("evaluate", "collect"):
        refused = cli.run(*QUICK, "env.id=cue", f"stage={stage}", f"checkpoint={checkpoint}")
        assert refused.code == 1 and refused.stderr.count("\n") == 1, refused.stderr
        assert "env=data: these are trajectories alone, without an environment to act in; for success name" in (
            refused.stderr
        )


def test_numbers_are_judged_by_their_error(cli: CommandLine, shards: Path) -> None:
    done = cli.run(*QUICK, "env.id=double", "trainer.max_steps=40", to=cli.folder / "double")
    assert done.code == 0 and "mean absolute error" in done.stdout, done.stderr
    found = json.loads((cli.folder / "double" / "validation.json").read_text())
    with_nothing = 2 * np.sqrt(2 / np.pi)  # the mean of |2x| of a standard normal
    assert 0 < found["value"] < with_nothing / 2 and found["loss"] > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("env.id=nothing",), "found no shards, expected files named *.h5; name the folder, shards=FOLDER env.id=NAME"),
        (("env.id=cue", "callbacks=default"), "RolloutSelection acts, and env=data has no environment; leave it out"),
        (("env.id=cue", "evaluation.video=1"), "evaluation.video=1: env=data cannot be rendered"),
        (("env.id=cue", "data.lanes=64"), "has 54 episodes to train on, so that most rows of a batch would stay empty"),
    ],
)
def test_what_cannot_be_is_one_sentence(cli: CommandLine, shards: Path, arguments: tuple[str, ...], words: str) -> None:
    done = cli.run(*QUICK, *arguments)
    assert done.code == 1 and done.stderr.count("\n") == 1 and words in done.stderr, done.stderr
