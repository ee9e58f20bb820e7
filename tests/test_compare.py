"""`sweep=compare` through the real command line: searched, reported, tables; the same command computes nothing anew."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command import TINY, CommandLine

ALIKE = ("selection.num_episodes=4", "selection.every_n_updates=3", "evaluation.num_episodes=4")
OWN = ("callbacks.selection.num_episodes=4", "callbacks.selection.every_n_updates=3", "evaluation.num_episodes=6")
HERE = "hydra/launcher=basic"  # in one process: the test of sweep=popgym48 has runs in processes of their own


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path)


@pytest.mark.slow
def test_rates_are_chosen_apart_from_what_is_reported(cli: CommandLine) -> None:
    command = (
        "sweep=compare", HERE, *(part for part in TINY if part not in OWN), *ALIKE, "seed=0,1",
        "model=gru,mlp,diffusion_policy", "module.optimizer.lr=1e-3,1e-2", f"hydra.sweep.dir={cli.folder}/compare",
    )  # fmt: skip
    done = cli.start(*command)
    assert (done.code, done.stderr) == (0, ""), done.stderr
    assert "left out: diffusion_policy: model: diffusion_policy draws continuous actions" in done.stdout
    assert "2 contenders, 8 runs: 0:0" in done.stdout
    rows = [(path, json.loads(path.read_text())) for path in sorted(cli.folder.rglob("result.json"))]
    searched = [row for path, row in rows if "search" in path.parts]
    reported = [row for path, row in rows if "runs" in path.parts]
    assert [row["seed"] for row in searched] == [100] * 4
    assert sorted(row["seed"] for row in reported) == [0, 0, 1, 1]
    assert {tuple(row["outcomes"]) for row in searched} == {("T=9",)}, "the variants by which checkpoints are chosen"
    episodes = [{s for row in of for o in row["outcomes"].values() for s in o["seeds"]} for of in (searched, reported)]
    assert not episodes[0] & episodes[1] and min(episodes[0]) > 1000 and len(episodes[1]) == 4
    assert {row["updates"] for _, row in rows} <= {3, 6}
    table = (cli.folder / "compare" / "comparison.md").read_text()
    for words in ("## tmaze: scores and costs", "| gru | 0.001 | 2 |", "## tmaze: probability of improvement", "T=30"):
        assert words in table, table
    again = cli.start(*command)
    assert (again.code, again.stderr) == (0, "") and "0 finished, 8 had been finished before" in again.stdout


@pytest.mark.slow
def test_models_that_would_be_trained_otherwise_are_not_compared(cli: CommandLine) -> None:
    done = cli.start("sweep=compare", HERE, "model=gru,elmur", f"hydra.sweep.dir={cli.folder}/compare")
    assert done.code == 1 and "Traceback" not in done.stderr
    assert (
        "trainer.max_steps: 150 for elmur and 200 for gru" in done.stderr and "type trainer.max_steps=" in done.stderr
    )
    assert not list(cli.folder.rglob("*.h5"))
