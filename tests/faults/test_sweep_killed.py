"""Sweeps on one machine that are killed, whole or in part: nothing stays behind, and the same command goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from callbacks.command.local import quoted
from tests.command import ROOT, TINY, CommandLine, patience

pytestmark = pytest.mark.faults
LONG = (*TINY, "trainer.max_steps=90", "trainer.log_every_n_steps=50", "callbacks.selection.every_n_updates=90",
        "evaluation.num_envs=6")  # fmt: skip
TWO = ("-m", "hydra/launcher=local", "hydra.launcher.n_jobs=2", "seed=0,1")


def begin(cli: CommandLine, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """A sweep in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "run.py", *arguments, f"hydra.sweep.dir={folder}"], cwd=ROOT, env=cli.all_of({}), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def until(found: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + patience(seconds)
    while not found():
        assert time.monotonic() < end, what
        time.sleep(0.1)


def named(folder: Path) -> list[int]:
    """The processes that have the folder on their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [int(path.parent.name)] if str(folder).encode() in path.read_bytes() else []
        except OSError:
            continue
    return found


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.rglob("last.ckpt"))


def rows(folder: Path) -> list[int]:
    return sorted(json.loads(path.read_text())["seed"] for path in folder.rglob("result.json"))


def test_a_sweep_whose_first_process_is_killed(cli: CommandLine) -> None:
    """Its runs and their workers save and end; the same command, given at once, takes them up again."""
    folder = cli.folder / "killed"
    command = (*TWO, *LONG, "data.num_workers=1")
    process = begin(cli, folder, *command)
    until(lambda: len(checkpoints(folder)) == 2, 60, "no checkpoints")
    process.kill()
    process.communicate()
    again = begin(cli, folder, *command)  # at once, while those are still saving
    said, _ = again.communicate(timeout=patience(240))
    assert again.returncode == 0, said
    assert "2 finished, 0 had been finished before, 0 failed" in said and rows(folder) == [0, 1]
    logs = [path.read_text() for path in folder.rglob("output.log")]
    assert len(logs) == 2 and all("going on from" in log for log in logs)
    assert named(folder) == []


def test_a_run_that_is_killed_stops_no_other_and_goes_on(cli: CommandLine) -> None:
    folder = cli.folder / "one-killed"
    process = begin(cli, folder, *TWO, *LONG)
    until(lambda: len(checkpoints(folder)) == 2, 60, "no checkpoints")
    (victim,) = [pid for pid in named(folder) if b"\0seed=1\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(victim, signal.SIGKILL)
    said, _ = process.communicate(timeout=patience(240))
    assert process.returncode == 1 and rows(folder) == [0], said
    assert "1 finished, 0 had been finished before, 1 failed" in said
    (line,) = [line for line in said.splitlines() if "failed: " in line and "seed=1" in line]
    assert "ended by signal 9 (Killed); the same command goes on" in line and line.endswith("seed-1/output.log")
    saved = torch.load(next(path for path in checkpoints(folder) if "seed-1" in str(path)), weights_only=True)
    assert 0 < saved["global_step"] < 90
    # One run of a sweep goes on by itself, and the sweep's own command knows it for finished.
    (run,) = [path.parents[1] for path in checkpoints(folder) if "seed-1" in str(path)]
    resumed = cli.run(f"resume={run}", to=run)
    assert resumed.code == 0 and "going on from" in resumed.stdout, resumed.stderr
    last = begin(cli, folder, *TWO, *LONG)
    said, _ = last.communicate(timeout=patience(120))
    assert last.returncode == 0 and "2 had been finished before" in said and rows(folder) == [0, 1]


def test_ctrl_c_in_a_sweep_saves_all_runs(cli: CommandLine) -> None:
    folder = cli.folder / "ctrl-c"
    process = begin(cli, folder, *TWO, *LONG)
    until(lambda: len(checkpoints(folder)) == 2, 60, "no checkpoints")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    said, _ = process.communicate(timeout=patience(30))
    assert process.returncode == 130 and "Traceback" not in said, said
    assert "2 failed" in said and said.count("ended by signal") == 4, "each as it ends, and in the list"
    assert "stopped by SIGINT; give the same command again to go on" in said
    assert named(folder) == [] and rows(folder) == []
    assert not list(folder.glob(".sweep-*"))


FOLDERS = ("José", "a (2)", "v=1", "it's", 'say "a"', "a,b", "50 %", "${x}", "back\\slash", "[1] {b}", "#1: ~x")


def test_options_are_handed_to_the_runs_of_a_sweep(cli: CommandLine) -> None:
    """A folder of configurations, and what is said of Hydra itself, from a folder whose name is none of Hydra's."""
    folder, conf = cli.folder / FOLDERS[0] / "a (2) v=1, it's", cli.folder / "my conf" / "experiment"
    folder.mkdir(parents=True)
    conf.mkdir(parents=True)
    (conf / "mine.yaml").write_text("# @package _global_\nmodel: {d_model: 8, n_head: 2, n_layer: 1}\n")
    command = ["-m", "--config-dir", str(conf.parent), "hydra/launcher=local", "hydra.job.name=renamed", *TINY]
    command = [*(one for one in command if not one.startswith("model.d_model")), "experiment=mine", "seed=0"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *command], cwd=folder, env=cli.all_of({}), capture_output=True,
        text=True, timeout=patience(120),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    (row,) = (folder / "outputs" / "runs").rglob("result.json")
    assert json.loads(row.read_text())["settings"]["model"]["d_model"] == 8
    assert (row.parent / "renamed.log").exists()


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_any_name_is_one_value_of_hydra(name: str) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"hydra.run.dir={quoted(f'/home/{name}/x')}"])
    config = OmegaConf.create({"dir": override.value()})
    assert config.dir == f"/home/{name}/x"


def test_plain_multirun_lists_all_that_failed(cli: CommandLine) -> None:
    """One after another in one process: those that fail stop no other either."""
    done = cli.run("-m", *TINY, "model.n_head=3,2,5", f"hydra.sweep.dir={cli.folder}/plain")
    assert done.code == 1 and done.stderr == "" and "Traceback" not in done.stdout
    assert "1 finished, 0 had been finished before, 2 failed" in done.stdout and rows(cli.folder / "plain") == [0]
    for heads in (3, 5):
        (line,) = [line for line in done.stdout.splitlines() if "failed: " in line and f"model.n_head={heads}:" in line]
        assert "n_head must divide d_model" in line
        log = Path(line.rpartition("; see ")[2])
        assert log.name == "run.log" and "n_head must divide d_model" in log.read_text()


def test_several_processes_for_a_job_of_plain_multirun_are_refused(cli: CommandLine) -> None:
    done = cli.run("-m", *TINY, "trainer=ddp", "seed=0,1", f"hydra.sweep.dir={cli.folder}/ddp")
    assert done.code == 1 and done.stdout.count("need hydra/launcher=local or slurm") >= 2
