"""Runs, checkpoints and shards written before the code's rooms moved are read as if nothing had moved."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from callbacks.command.registry import PLATFORM
from elmur.aliases import renamed
from elmur.build import resolve
from elmur.checkpoint import load_policy
from elmur.spec import Discrete
from tests.command import CommandLine

HERE = Path(__file__).parent / "written_before"
RUNS = ("concentration", "default", "gru", "varied")
NAMES = HERE.joinpath("names.txt").read_text().split()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the finished runs and the shards that they were trained on."""
    folder = tmp_path_factory.mktemp("written")
    with tarfile.open(HERE / "runs.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    assert tuple(sorted(path.name for path in folder.iterdir() if path.name != "shards")) == RUNS
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_a_checkpoint_acts(written: Path, name: str) -> None:
    policy = load_policy(written / name / "checkpoints" / "best.ckpt")
    policy.start(3)
    observation = {
        part: np.zeros((3, *field.shape), np.int64 if isinstance(field, Discrete) else np.float32)
        for part, field in policy.model.spec.observation.items()
    }
    for step in range(25):
        assert policy.act(observation, np.full(3, step == 0)).shape == (3,)


@pytest.mark.parametrize("name", RUNS)
def test_a_finished_run_is_shown(written: Path, cli: CommandLine, name: str) -> None:
    row = (written / name / "result.json").read_text()
    done = cli.run(f"resume={written / name}", f"shards={written / 'shards'}", to=written / name)
    assert (done.code, done.stderr) == (0, ""), done.stderr
    assert "finished before" in done.stdout
    assert (written / name / "result.json").read_text() == row


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_was_interrupted_goes_on(written: Path, cli: CommandLine, name: str) -> None:
    folder = written / name
    row = json.loads((folder / "result.json").read_text())
    (folder / "result.json").unlink()
    (folder / "checkpoints" / "previous.ckpt").rename(folder / "checkpoints" / "last.ckpt")  # of update 3
    shards = f"shards={written / 'shards'}"
    done = cli.run(f"resume={folder}", "allow_mismatch=[code]", shards, to=folder)
    assert (done.code, done.stderr) == (0, ""), done.stderr
    assert "going on from" in done.stdout and "collecting" not in done.stdout
    again = json.loads((folder / "result.json").read_text())
    assert again["updates"] == row["updates"] == 6
    assert {k: o["returns"] for k, o in again["outcomes"].items()} == {
        k: o["returns"] for k, o in row["outcomes"].items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_found(name: str) -> None:
    today = renamed(name.partition(" (")[0])
    assert callable(resolve(today, "name", None, PLATFORM))
    if not today.startswith("envs.experts.popgym.cards."):  # of which a collection tells, but no configuration
        assert PLATFORM.find(name) is not None
