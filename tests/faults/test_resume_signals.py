"""SIGTERM, SIGUSR1 and SIGUSR2 at any time: saved within seconds, an exit code that says so, and nothing lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from tests.faults.killed import (
    SMALL,
    Faulty,
    differences,
    in_acting,
    in_training_step,
    in_write,
    kill,
    slower,
    wait_for,
)
from tests.server import ROOT

pytestmark = pytest.mark.faults
LIMIT = 10.0  # seconds from a signal to the end


def sent(number: int, fault: str) -> str:
    """The same moment, at which a signal comes instead of death."""
    return fault.replace(
        "die = lambda: os.kill(os.getpid(), signal.SIGKILL)", f"die = lambda: os.kill(os.getpid(), {number})"
    )


MOMENTS = {
    "TERM in a batch": (signal.SIGTERM, in_training_step(7), 8),
    "Ctrl-C in a batch": (signal.SIGINT, in_training_step(4), 5),
    "a terminal closed in a selection": (signal.SIGHUP, in_acting(5, call=1), 6),
    "USR1 in the first batch": (signal.SIGUSR1, in_training_step(0), 1),
    "USR2 in the last batch of an epoch": (signal.SIGUSR2, in_training_step(14), 15),
    "TERM in the batch before a selection": (signal.SIGTERM, in_training_step(11), 12),
    "USR1 in a selection": (signal.SIGUSR1, in_acting(5, call=2), 12),
    "TERM in the last batch": (signal.SIGTERM, in_training_step(19), 20),
    "TERM in the last selection": (signal.SIGTERM, in_acting(5, call=4), 20),
    "TERM while a checkpoint is written": (signal.SIGTERM, in_write("next.ckpt", 2, "before"), 7),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_training_saves_and_ends(runs: Faulty, straight: Path, moment: str) -> None:
    number, fault, update = MOMENTS[moment]
    folder = runs.folder / moment.replace(" ", "-")
    began = time.monotonic()
    assert runs.run(*SMALL, to=folder, fault=sent(number, fault)) == 128 + number, runs.said
    assert time.monotonic() - began < 60
    assert f"saving update {update} in" in runs.said and "Traceback" not in runs.said, runs.said
    assert f"stopped by {signal.Signals(number).name}; give the same command again to go on" in runs.said
    rows = (folder / "logs" / "metrics.csv").read_text().splitlines()
    assert rows[-1].split(",")[1] == str(update), "the log is flushed"
    assert runs.run(*SMALL, to=folder) == 0, runs.said
    assert differences(straight, folder) == []


BY_VALIDATION = (
    *(one for one in SMALL if not one.startswith(("callbacks.selection.", "~callbacks"))),
    "callbacks=validation", "data.validation_fraction=0.2", "+trainer.val_check_interval=6",
)  # fmt: skip


@pytest.mark.parametrize("update", [6, 12])
def test_a_validation_that_was_due_is_made_up_for(runs: Faulty, update: int) -> None:
    """It comes after the batch in which the run stops. With the second the checkpoint knows the first one's state."""
    straight, folder = (runs.folder / f"{name}-{update}" for name in ("validated", "stopped"))
    assert runs.run(*BY_VALIDATION, to=straight) == 0, runs.said
    fault = sent(signal.SIGTERM, in_training_step(update - 1))
    assert runs.run(*BY_VALIDATION, to=folder, fault=fault) == 128 + signal.SIGTERM, runs.said
    assert f"validation at update {update}" not in (folder / "run.log").read_text()
    assert runs.run(*BY_VALIDATION, to=folder) == 0, runs.said
    assert differences(straight, folder) == []


@pytest.mark.parametrize(("workers", "pause"), [(0, 0.0), (0, 0.02), (0, 0.1), (2, 0.0), (2, 0.05)])
def test_a_signal_to_the_whole_process_group_and_a_second_one(
    runs: Faulty, straight: Path, workers: int, pause: float
) -> None:
    """As SLURM sends it; the workers outlive it, and a second signal while saving changes nothing."""
    folder = runs.folder / f"group-{workers}-{pause}"
    command = (*SMALL, f"data.num_workers={workers}")
    pid = runs.start(*command, to=folder, fault=slower(0.3))
    wait_for(folder / "logs" / "metrics.csv")
    began = time.monotonic()
    assert pid > 1
    os.killpg(pid, signal.SIGTERM)  # the server makes each command the leader of a group
    time.sleep(pause)
    with suppress(ProcessLookupError):  # it had saved and was gone
        os.killpg(pid, signal.SIGUSR1)
    # Of two signals that come at once the system may deliver either first.
    assert runs.end() - 128 in (signal.SIGTERM, signal.SIGUSR1), runs.said
    assert time.monotonic() - began < LIMIT
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    spent = saved["callbacks"]["Timer"]["time_elapsed"]["train"]
    assert spent > 0.3 * (saved["global_step"] - 1)
    assert runs.run(*command, to=folder) == 0, runs.said
    assert differences(straight, folder) == []
    assert json.loads((folder / "result.json").read_text())["train_seconds"] > spent, "of both parts"


def test_a_second_ctrl_c_ends_at_once(runs: Faulty, straight: Path) -> None:
    """In the middle of an update that takes long; what was saved before is what the run goes on from."""
    folder = runs.folder / "twice"
    twice = "os.kill(os.getpid(), signal.SIGINT), os.kill(os.getpid(), signal.SIGINT), __import__('time').sleep(60)"
    began = time.monotonic()
    assert runs.run(*SMALL, to=folder, fault=in_training_step(4, twice)) == 130, runs.said
    assert time.monotonic() - began < 45 and "Traceback" not in runs.said
    assert "a second one ends at once" in runs.said and "ended by a second Ctrl-C" in runs.said
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3
    assert runs.run(*SMALL, to=folder) == 0, runs.said
    assert differences(straight, folder) == []


def test_work_that_hangs_is_ended_though_it_comes_to_no_place_to_save(runs: Faulty) -> None:
    hang = "import callbacks.signals; callbacks.signals.PATIENCE = 3.0\n"
    hang += in_training_step(4, "os.kill(os.getpid(), signal.SIGTERM), __import__('time').sleep(600)")
    assert runs.run(*SMALL, to=runs.folder / "hangs", fault=hang) == 128 + signal.SIGTERM, runs.said
    assert "has come to no place where it could" in runs.said and "Traceback" not in runs.said


def test_a_signal_that_the_caller_ignores_stays_ignored(runs: Faulty) -> None:
    """nohup, and the background of a shell that is no terminal's."""
    ignore = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    fault = ignore + in_training_step(4, "os.kill(os.getpid(), signal.SIGHUP)")
    assert runs.run(*SMALL, to=runs.folder / "nohup", fault=fault) == 0, runs.said


def test_a_launcher_that_handles_the_signal_is_asked_once_everything_is_saved(runs: Faulty, straight: Path) -> None:
    """submitit's way: USR2 requeues and exits, TERM is ignored and the work goes on."""
    folder = runs.folder / "launcher"
    handlers = """
import os, signal, sys, pathlib
def requeue(number, frame):
    saved = pathlib.Path(os.environ["RUN"], "checkpoints", "last.ckpt").exists()
    print("requeued", saved)
    sys.exit(77)
def ignore(number, frame):
    print("ignored")
signal.signal(signal.SIGUSR2, requeue)
signal.signal(signal.SIGTERM, ignore)
"""
    fault = handlers + in_training_step(4, "os.kill(os.getpid(), signal.SIGTERM)")
    fault += in_training_step(7, "os.kill(os.getpid(), signal.SIGUSR2)")
    assert runs.run(*SMALL, to=folder, fault=fault, RUN=str(folder)) == 77, runs.said
    assert "ignored" in runs.said and runs.said.count("requeued True") == 1
    assert runs.run(*SMALL, to=folder) == 0, runs.said
    assert differences(straight, folder) == []


@pytest.mark.parametrize(
    ("number", "wait"), [(signal.SIGTERM, 0.0), (signal.SIGTERM, 2.0), (signal.SIGUSR1, 0.5), (signal.SIGINT, 0.5)]
)
def test_during_the_imports_of_a_cold_start(tmp_path: Path, number: int, wait: float) -> None:
    process = subprocess.Popen(
        [sys.executable, "run.py", *SMALL, f"hydra.run.dir={tmp_path}/run", f"shards={tmp_path}/shards"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    wait_until_handled(process.pid, number)  # before that, Python itself is starting
    time.sleep(wait)
    began = time.monotonic()
    kill(process.pid, number)
    said, _ = process.communicate(timeout=60)
    assert time.monotonic() - began < LIMIT
    assert process.returncode == 128 + number, said
    assert "Traceback" not in said


@pytest.mark.parametrize("how", ["TERM", "Ctrl-C to all", "a worker killed"])
def test_collection_ends_at_once_and_keeps_its_shards(runs: Faulty, how: str) -> None:
    shards = runs.folder / f"collected {how}".replace(" ", "-")
    command = ("stage=collect", "collect.num_episodes=4000", "collect.shard_episodes=100", f"shards={shards}")
    pid = runs.start(*command, "collect.processes=2", to=runs.folder / "collect")
    wait_for_shards(shards, 2)
    began = time.monotonic()
    if how == "TERM":
        kill(pid, signal.SIGTERM)
    elif how == "Ctrl-C to all":
        os.killpg(pid, signal.SIGINT)
    else:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        kill(next(int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()))
    code = {"TERM": 128 + signal.SIGTERM, "Ctrl-C to all": 130, "a worker killed": 1}[how]
    assert runs.end() == code, runs.said
    assert time.monotonic() - began < LIMIT and "Traceback" not in runs.said, runs.said
    assert how != "a worker killed" or "the same command goes on with the shards that are missing" in runs.said
    kept = {path: path.stat().st_mtime_ns for path in shards.rglob("*.h5")}
    assert 2 <= len(kept) < 40
    assert runs.run(*command, to=runs.folder / "collect") == 0, runs.said
    assert len(list(shards.rglob("*.h5"))) == 40
    assert all(path.stat().st_mtime_ns == time_of for path, time_of in kept.items()), "kept, not made again"
    assert not list(shards.rglob(".*.partial"))


def wait_for_shards(folder: Path, count: int, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while len(list(folder.rglob("*.h5"))) < count:
        assert time.monotonic() < end, "no shards appeared"
        time.sleep(0.01)


def wait_until_handled(pid: int, number: int, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while True:
        caught = next(
            line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt")
        )
        if int(caught.split()[1], 16) >> (number - 1) & 1:
            return
        assert time.monotonic() < end, "no handler was installed"
        time.sleep(0.005)
