"""The real command line: a run stays the same run, what is allowed acts, what is refused leaves things as they were."""

from __future__ import annotations

import csv
import html
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.command.label import LONGEST
from tests.command import DEEP, TINY, CommandLine


@pytest.fixture(scope="module")
def trained(cli: CommandLine) -> Path:
    """A tiny finished run, in a folder whose name Hydra's grammar does not take as it stands."""
    folder = cli.folder / "lr=1 (José)"
    done = cli.run(*TINY, *DEEP, "seed=7", to=folder)
    assert (done.code, done.stderr) == (0, "")
    return folder


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """A copy of it that may be spoilt."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def row_of(folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return row


def contents(folder: Path) -> dict[str, bytes]:
    """What a command must not touch."""
    names = ("result.json", "settings.json", "checkpoints/last.ckpt", "checkpoints/best.ckpt")
    return {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}


def test_the_row_says_where_it_comes_from_and_what_it_cost(trained: Path) -> None:
    row = row_of(trained)
    assert row["command"].startswith("run.py ") and "seed=7" in row["command"] and len(row["code"]) == 16
    assert row["machine"]["cpu"] and row["machine"]["cores"] > 0 and row["threads"] >= 1
    for what in ("train", "selection", "evaluation"):
        assert row[f"{what}_seconds"] > 0 and row[f"{what}_cpu_seconds"] >= 0
    assert row["peak_memory_bytes"] > 1e8
    assert (row["data"]["episodes"], row["data"]["folder"]) == (60, "tmaze-T30") and len(row["data"]["digest"]) == 16
    with (trained / "logs" / "metrics.csv").open() as file:
        scores = [float(line["eval/success"]) for line in csv.DictReader(file) if line["eval/success"]]
    assert row["selection_score"] == max(scores) and len(scores) == 2


@pytest.mark.parametrize("multirun", [False, True])
def test_the_command_of_a_row_finds_its_run_again(tmp_path: Path, multirun: bool) -> None:
    """With settings of one's own and a folder whose name has a space: what is kept was found, and not trained anew."""
    (own := tmp_path / "own" / "experiment" / "mine.yaml").parent.mkdir(parents=True)
    own.write_text("# @package _global_\nmodel:\n  d_model: 16\n")
    cli, folder = CommandLine(tmp_path), tmp_path / "a run"
    typed = [f"--config-dir={tmp_path}/own", "model=mlp", "experiment=mine", *TINY, f"hydra.run.dir={folder}"]
    if multirun:
        typed = ["-m", *typed, "seed=3", "hydra/launcher=basic", f"hydra.sweep.dir={folder}"]
    done = cli.run(*typed, to=folder)
    assert (done.code, done.stderr) == (0, "")
    (path,) = folder.rglob("result.json")
    written = path.stat().st_mtime_ns
    program, *again = shlex.split(row_of(path.parent)["command"])
    assert program == "run.py" and f"--config-dir={tmp_path}/own" in again and "hydra.mode=MULTIRUN" not in again
    cli.server.begin(again, tmp_path / "out", tmp_path / "err", cli.all_of({}))
    assert (cli.server.end(), (tmp_path / "err").read_text()) == (0, "")
    assert path.stat().st_mtime_ns == written and [*tmp_path.rglob("result.json")] == [path]
    if multirun:
        (page,) = tmp_path.rglob("report.html")
        said = html.unescape(page.read_text())
        assert f"run.py --config-dir={tmp_path}/own -m model=mlp" in said and "hydra.sweep.dir=" in said


def test_the_same_run_shown_elsewhere_is_kept(cli: CommandLine, trained: Path) -> None:
    before = contents(trained)
    shown = ("logger=tensorboard", "data.num_workers=1", "evaluation.isolate=true", "trainer.log_every_n_steps=5")
    done = cli.run(*TINY, *DEEP, "seed=7", *shown, "~callbacks.summary", "trainer.devices=1", to=trained)
    assert done.code == 0 and "finished before" in done.stdout, done.stderr
    assert contents(trained) == before


def test_a_key_that_was_not_known_then(cli: CommandLine, copied: Path) -> None:
    settings = json.loads((copied / "settings.json").read_text())
    del settings["trainer"]["precision"], settings["callbacks"]["selection"]["sample"], settings["evaluation"]["sample"]
    (copied / "settings.json").write_text(json.dumps(settings))
    assert cli.run(*TINY, *DEEP, "seed=7", "trainer.precision=32-true", to=copied).code == 0
    done = cli.run(*TINY, *DEEP, "seed=7", "trainer.precision=bf16-mixed", to=copied)
    assert done.code == 1 and "trainer.precision is None there, bf16-mixed here" in done.stderr


def test_more_updates_with_another_rate_act(cli: CommandLine, copied: Path) -> None:
    """The one way to train a finished run further: its own command with what differs allowed."""
    tiny = [argument for argument in TINY if not argument.startswith("module.schedule")]
    asked = [*tiny, *DEEP, "seed=7", "trainer.max_steps=8", "module.optimizer.lr=0.5", "module/schedule=constant"]
    before = contents(copied)
    done = cli.run(*asked, to=copied)
    assert done.code == 1 and "go on all the same with allow_mismatch=[module.optimizer.lr," in done.stderr
    assert contents(copied) == before, "nothing is written before everything is accepted"
    done = cli.run(*asked, "allow_mismatch=[trainer.max_steps,module]", to=copied)
    assert done.code == 0, done.stderr
    with (copied / "logs" / "metrics.csv").open() as file:
        rates = [float(line["train/learning_rate"]) for line in csv.DictReader(file) if line["train/learning_rate"]]
    assert len(rates) == 8 and rates[6:] == [0.5, 0.5] and max(rates[:6]) < 0.01
    assert row_of(copied)["updates"] == 8
    groups = torch.load(copied / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"]
    assert all(group["lr"] == group["initial_lr"] == 0.5 for group in groups)


def test_what_cannot_act_is_not_offered(cli: CommandLine, copied: Path) -> None:
    done = cli.run(*TINY, *DEEP, "seed=7", "data.lanes=4", "allow_mismatch=[data]", to=copied)
    assert done.code == 1 and "data.lanes cannot change in the middle of a run" in done.stderr
    assert "go on all the same" not in done.stderr


def test_other_shards_of_a_finished_run_are_named(cli: CommandLine, trained: Path, tmp_path: Path) -> None:
    done = cli.run(*TINY, *DEEP, "seed=7", f"shards={tmp_path / 'others'}", to=trained)
    assert done.code == 0 and "give hydra.run.dir=ANOTHER to train on those in" in done.stdout

    done = cli.run(*TINY, *DEEP, "seed=7", f"data.root={tmp_path / 'others'}", to=trained)
    assert done.code == 0 and f"ANOTHER to train on those in {tmp_path / 'others'}" in done.stdout


def test_a_sweep_over_data_needs_a_folder_for_each(cli: CommandLine, tmp_path: Path) -> None:
    sweep = ("-m", *TINY, *DEEP, f"hydra.sweep.dir={tmp_path / 'runs'}")
    done = cli.run(*sweep, f"shards={tmp_path / 'a'},{tmp_path / 'b'}")
    assert done.code == 1 and "0 had been finished before, 1 failed" in done.stdout, done.stderr
    assert f"was trained on {tmp_path / 'a' / 'tmaze-T30'}, not on {tmp_path / 'b' / 'tmaze-T30'}" in done.stdout
    (tmp_path / "a").rename(tmp_path / "moved")
    done = cli.run(*sweep, f"shards={tmp_path / 'moved'}")
    assert done.code == 0 and "1 had been finished before" in done.stdout, "a place that data have left is no other one"


def test_a_damaged_best_checkpoint_has_one_way_on(cli: CommandLine, copied: Path) -> None:
    (copied / "result.json").unlink()
    best = copied / "checkpoints" / "best.ckpt"
    best.write_bytes(best.read_bytes()[:1000])
    done = cli.run(*TINY, *DEEP, "seed=7", to=copied)
    assert done.code == 1 and "best.ckpt" in done.stderr
    assert "delete it, and the same command judges the last one" in done.stderr
    best.unlink()
    assert cli.run(*TINY, *DEEP, "seed=7", to=copied).code == 0
    assert row_of(copied)["checkpoint"].endswith("last.ckpt")


def test_a_command_that_is_refused_leaves_no_folder(cli: CommandLine, tmp_path: Path) -> None:
    done = cli.run(*TINY, *DEEP, "model.dropout=2", to=tmp_path / "a" / "b")
    assert done.code == 1 and not (tmp_path / "a").exists()


def test_an_evaluation_is_the_checkpoints_own_and_overwrites_no_other(cli: CommandLine, trained: Path) -> None:
    asked = ("stage=evaluate", f"checkpoint={trained}/checkpoints/best.ckpt", "env.lengths=[9]", "seed=3")
    one, other = (*asked, "evaluation.num_episodes=4"), (*asked, "evaluation.num_episodes=5")
    folder = cli.folder / "acted"
    assert cli.run(*one, to=folder).code == 0
    row = row_of(folder)
    assert (row["stage"], row["model"], row["seed"], row["updates"]) == ("evaluate", "elmur", 7, 6)
    assert row["label"] == f"{row_of(trained)['label']}+env.lengths=9+evaluation.num_episodes=4"
    assert "~" not in row["label"] and len(row["label"]) > LONGEST, "only the name of a folder is cut"
    assert (row["settings"]["seed"], row["settings"]["data"]["lanes"]) == (7, 8)
    assert row["settings"]["evaluation"]["num_episodes"] == 4 and row["data"] == row_of(trained)["data"]
    before = contents(folder)
    done = cli.run(*one, to=folder)
    assert done.code == 0 and "acted before" in done.stdout
    done = cli.run(*other, to=folder)
    assert done.code == 1 and "holds the row of another evaluation" in done.stderr
    assert contents(folder) == before
