"""POPGym on the real command line: collect, train, judge; the row that comes out, and what stops it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("popgym", reason="needs POPGym: pip install -e '.[popgym]'")

from data.shard import Shard
from envs.popgym import make_vector
from envs.rollout import RandomPolicy, rollout
from tests.command import CommandLine
from tests.data.test_convert import archive

TINY = (
    "model.d_model=8", "model.n_layer=1", "collect.num_episodes=64", "trainer.max_steps=2",
    "module.context_length=8", "trainer.accelerator=cpu", "data.lanes=32", "evaluation.num_episodes=5",
    "callbacks=last",
)  # fmt: skip
TASK = "task=popgym_repeat_first_easy"


def row_of(folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return row


def test_a_row_tells_the_expert_random_play_and_the_normalised_score(cli: CommandLine) -> None:
    done = cli.run(TASK, *TINY, to=(folder := cli.folder / "run"))
    assert (done.code, done.stderr) == (0, "")
    row = row_of(folder)
    assert (row["metric"], row["actions"], row["suite"]) == ("return", "argmax", "popgym48")
    assert set(row["reference"]) == {"random", "expert", "spread"}
    outcome, reference = row["outcomes"]["all"], row["reference"]
    assert outcome["mean_return"] == pytest.approx(np.mean(outcome["returns"]))
    share = (outcome["mean_return"] - reference["random"]) / (reference["expert"] - reference["random"])
    assert outcome["normalised"] == pytest.approx(share) and -0.5 < share < 0.6
    # The reference is what the env gives to random play on other seeds.
    env = make_vector(20, row["task"])
    returns = [episode.episode_return for episode in rollout(env, RandomPolicy(env.spec), range(300))]
    assert np.mean(returns) == pytest.approx(reference["random"], abs=4 * np.std(returns) / 300**0.5)
    lines = done.stdout.splitlines()
    assert any("seed 0 · argmax actions" in line for line in lines)
    (heading,) = [line for line in lines if "normalised" in line]
    (values,) = [line for line in lines if line.startswith("all ")]
    cells = [re.split(" {2,}", line.strip()) for line in (heading, values)]
    shown = dict(zip(*cells, strict=True))
    assert shown["expert"] == "1.00" and shown["random"] == "-0.50" and shown["normalised"] == f"{share:.2f}"
    assert "success" not in shown


def test_sampled_actions_are_said_to_be(cli: CommandLine) -> None:
    done = cli.run(TASK, *TINY, "evaluation.sample=true", to=(folder := cli.folder / "sampled"))
    assert done.code == 0 and row_of(folder)["actions"] == "sampled" and "sampled actions" in done.stdout


def test_an_expert_below_its_level_stops_the_run(cli: CommandLine) -> None:
    """The level is Autoencode's; the expert that is put there plays something else."""
    done = cli.run(
        "task=popgym_autoencode_easy", "env.expert.task=popgym-RepeatFirstEasy-v0", *TINY,
        f"shards={cli.folder}/other", to=cli.folder / "low",
    )  # fmt: skip
    assert done.code == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "popgym-AutoencodeEasy-v0: the expert scored" in done.stderr and "expected at least" in done.stderr
    assert not list((cli.folder / "other").rglob("*.h5")) and not (cli.folder / "low" / "checkpoints").exists()


def test_mixtures_and_noise_lower_returns_and_are_not_checked(cli: CommandLine) -> None:
    for kind in ("mixture", "noise"):
        shards = cli.folder / kind
        done = cli.run("stage=collect", TASK, "collect.num_episodes=40", f"collect.{kind}=0.5", f"shards={shards}")
        assert (done.code, done.stderr) == (0, "")
        (path,) = shards.rglob("*.h5")
        with Shard(path) as shard:
            rewards = shard.read("reward", 0, int(shard.offsets[-1]))
        assert rewards.sum() / 40 < 0.8, "the expert alone: 1.0"


def test_what_the_expert_held_is_collected_and_learned(cli: CommandLine) -> None:
    """And a folder collected without it is refused, before the run and, for one that was brought, as it is read."""
    asked = ("task=popgym_mine_sweeper_easy", *TINY, "collect.num_episodes=40", "module=preferences")
    shards, plain = f"shards={cli.folder}/held", f"shards={cli.folder}/plain"
    wanted = ("collect.preferences=true", "collect.draw_ties=true")
    done = cli.run(*asked, *wanted, shards, to=(folder := cli.folder / "soft"))
    assert (done.code, done.stderr) == (0, "")
    row = row_of(folder)
    assert row["settings"]["module"]["objective"]["temperature"] == 0.1
    assert row["data"]["collection"]["preferences"] is True and row["data"]["collection"]["draw_ties"] is True
    assert cli.run("stage=collect", *asked[:-1], plain).code == 0
    again = cli.run(*asked, wanted[0], plain)
    assert again.code == 1 and "was collected in another way (preferences was None, now True)" in again.stderr
    (record,) = (cli.folder / "plain").rglob("collection.json")
    record.unlink()
    brought = cli.run(*asked, wanted[0], plain)
    assert brought.code == 1 and "its shards do not say what their expert held" in brought.stderr
    assert "set collect.preferences=true and collect again" in brought.stderr.splitlines()[-1]


def test_a_name_without_a_task_gets_the_nearest(cli: CommandLine) -> None:
    done = cli.run(TASK, "env.id=popgym-RepeatFristEasy-v0")
    assert done.code == 1 and "nearest: popgym-RepeatFirstEasy-v0" in done.stderr


def test_the_report_reads_what_runs_have_left(cli: CommandLine) -> None:
    run = cli.folder / "runs" / "popgym-RepeatFirstEasy-v0" / "elmur" / "default" / "seed-0"
    assert cli.run(TASK, *TINY, to=run).code == 0
    done = cli.run("stage=report", f"source={cli.folder}/runs", to=(folder := cli.folder / "report"))
    assert (done.code, done.stderr) == (0, "")
    assert "Return in popgym48: elmur" in done.stdout and "47 of 48 tasks have no run yet" in done.stdout
    assert "missing" not in done.stdout and "1 finished run: 1 task x 1 model x 1 seed" in done.stdout
    assert {path.name for path in folder.iterdir()} >= {"report.html", "report.md", "report.csv", "runs.csv"}
    asked = cli.run("stage=report", "sweep=popgym48", f"source={cli.folder}/runs", to=folder)
    assert (asked.code, asked.stderr) == (0, "") and asked.stdout.count("missing") == 47
    assert "What sweep=popgym48 reached" in (folder / "report.html").read_text()
    nothing = cli.run("stage=report", f"source={cli.folder}/nowhere")
    assert nothing.code == 1 and f"source={cli.folder}/nowhere: expected a folder of runs" in nothing.stderr


def test_an_archive_is_converted_and_trained_on(cli: CommandLine) -> None:
    archive(cli.folder / "archive", "popgym-RepeatFirstEasy-v0", 40)
    shards = f"shards={cli.folder}/converted"
    done = cli.run("stage=convert", TASK, f"source={cli.folder}/archive", shards)
    assert (done.code, done.stderr) == (0, "") and "1 shards in" in done.stdout
    done = cli.run(TASK, *TINY, shards, to=(folder := cli.folder / "on-archive"))
    assert done.code == 0 and "was made with popgym 1.0.6" in done.stdout and row_of(folder)["updates"] == 2
    (cli.folder / "archive" / "train_data_3.npz").write_bytes(b"x")
    bad = cli.run("stage=convert", TASK, f"source={cli.folder}/archive", shards)
    assert bad.code == 1 and "1 of 40 episodes are bad: train_data_3.npz" in bad.stderr
    assert cli.run("stage=convert", f"source={cli.folder}/archive").code == 1, "the T-Maze has no archive"
