"""A half-done evaluation goes on at its last saved step, a half-done sweep at its last row, with the same outcome."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.faults.killed import SMALL, Faulty, in_acting, kill, outcomes, wait_for

pytestmark = pytest.mark.faults
EVERY = "import callbacks.evaluation.halfway as halfway\nhalfway.Halfway.__init__.__defaults__ = (None, '', 0.2)\n"


@pytest.fixture(scope="module")
def checkpoint(runs: Faulty) -> Path:
    folder = runs.folder / "trained"
    assert runs.run(*SMALL, "trainer.max_steps=2", to=folder) == 0, runs.said
    return folder / "checkpoints" / "best.ckpt"


def asked(checkpoint: Path, *more: str) -> tuple[str, ...]:
    """Sampled actions, so that the policy's own stream counts; two waves, the last one not full."""
    return (
        "stage=evaluate", f"checkpoint={checkpoint}", "env.lengths=[100,4000]", "evaluation.num_episodes=7",
        "evaluation.num_envs=4", "evaluation.sample=true", *more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(runs: Faulty, checkpoint: Path) -> Path:
    folder = runs.folder / "whole"
    assert runs.run(*asked(checkpoint), to=folder) == 0, runs.said
    return folder


def kept(folder: Path) -> tuple[int, int]:
    """How many waves a half-done evaluation has finished, and the step of the one in work; its folder, or its file."""
    found = torch.load(folder if folder.is_file() else folder / "evaluation-0.partial", weights_only=True)
    return len(found["played"]), found["wave"]["state"]["count"] if found["wave"] else 0


@pytest.mark.parametrize("beyond", [0, 800, 2000])
def test_killed_in_a_long_wave_and_gone_on_at_the_saved_step(
    runs: Faulty, checkpoint: Path, whole: Path, beyond: int
) -> None:
    folder = runs.folder / f"killed{beyond}"
    pid = runs.start(*asked(checkpoint), to=folder, fault=EVERY)
    wait_for(folder / "evaluation-0.partial")
    while not (kept(folder)[0] >= 2 and kept(folder)[1] > beyond):  # in the long variant, however slow the machine
        time.sleep(0.01)
    kill(pid)
    assert runs.end() == -9
    waves, step = kept(folder)
    assert waves in (2, 3) and step > beyond
    assert runs.run(*asked(checkpoint), to=folder, fault=steps_noted()) == 0, runs.said
    assert f"{waves} waves are played, and at step {step} of the next" in runs.said
    first = int((folder / "first").read_text())
    assert first == step + 1, "nothing before the saved step was played again"
    assert outcomes(folder) == outcomes(whole)
    assert not (folder / "evaluation-0.partial").exists()


TWO = "import callbacks.evaluation.helpers as helpers, torch\nhelpers.AFTER = 0.0\ntorch.set_num_threads(2)\n"


def test_what_a_helping_process_has_played_is_gone_on_with(runs: Faulty, checkpoint: Path, whole: Path) -> None:
    """Killed with both at work: what the helper finished is not played again, what it had begun goes on."""
    folder = runs.folder / "helped"
    pid = runs.start(*asked(checkpoint, "evaluation.processes=2"), to=folder, fault=EVERY + TWO)
    last = folder / "evaluation-0-3.partial"  # of four waves, the first that it takes
    wait_for(last)
    while not (kept(folder)[0] >= 2 and kept(last)[1] > 100):
        time.sleep(0.01)
    kill(pid)
    assert runs.end() == -9 and "2 processes play side by side" in runs.said
    time.sleep(1.0)  # the helper ends with it
    (played, _), (finished, step) = kept(folder), kept(last)
    assert played in (2, 3) and (finished, step > 100) in ((0, True), (1, False))
    assert runs.run(*asked(checkpoint, "evaluation.processes=1"), to=folder) == 0, runs.said
    assert finished or f"0 waves are played, and at step {step} of the next" in runs.said
    assert outcomes(folder) == outcomes(whole) and not list(folder.glob("evaluation-*.partial"))


def steps_noted() -> str:
    """Leaves the number of the first step that is played in the run's folder."""
    return """
import pathlib, sys
import callbacks.evaluation.evaluate as evaluation
from envs.observers import Telling
folder = pathlib.Path(next(a for a in sys.argv if a.startswith("hydra.run.dir")).partition("=")[2])
real = evaluation.rollout
def note(step, running):
    if not (folder / "first").exists():
        (folder / "first").write_text(str(step))
def noted(*args, observers, **kwargs):
    return real(*args, observers=[Telling(note), *observers], **kwargs)
evaluation.rollout = noted
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_the_step_it_is_at(runs: Faulty, checkpoint: Path, whole: Path, number: int) -> None:
    folder = runs.folder / f"signal{number}"
    pid = runs.start(*asked(checkpoint), to=folder)  # at its own interval nothing would be saved within a wave
    wait_for(folder / "evaluation-0.partial")
    while kept(folder)[0] < 2:
        time.sleep(0.02)
    time.sleep(0.5)
    began = time.monotonic()
    kill(pid, number)
    assert runs.end() == 128 + number, runs.said
    assert time.monotonic() - began < 10
    waves, step = kept(folder)
    assert waves in (2, 3) and step > 0
    assert runs.run(*asked(checkpoint), to=folder) == 0, runs.said
    assert f"at step {step}" in runs.said and outcomes(folder) == outcomes(whole)


def test_one_of_another_checkpoint_or_damaged_is_not_used(runs: Faulty, checkpoint: Path, whole: Path) -> None:
    folder = runs.folder / "other"
    for damage in ("other", "damaged"):
        command = asked(checkpoint, "evaluation.first_seed=1000" if damage == "other" else "evaluation.num_envs=4")
        assert runs.run(*command, to=folder, fault=in_acting(600, call=1)) == -9
        partial = folder / "evaluation-0.partial"
        if damage == "damaged":
            partial.write_bytes(partial.read_bytes()[:-100])
        assert runs.run(*asked(checkpoint), to=folder) == 0, runs.said
        assert ("is of another evaluation" if damage == "other" else "it begins anew") in runs.said
        assert outcomes(folder) == outcomes(whole)
        (folder / "result.json").unlink()


def test_an_env_that_cannot_give_its_state_keeps_its_finished_waves(runs: Faulty) -> None:
    common = (
        "task=popgym_repeat_first_easy",
        "collect.num_episodes=40",
        "data.lanes=4",
        "data.backprop_segments=2",
    )
    folder = runs.folder / "popgym"
    small = (*common, *(a for a in SMALL if a.startswith(("model.", "trainer.", "callbacks.", "~"))))
    assert runs.run(*small, "trainer.max_steps=2", "evaluation.num_episodes=4", to=folder) == 0, runs.said
    command = (
        "stage=evaluate", "task=popgym_repeat_first_easy", f"checkpoint={folder}/checkpoints/best.ckpt",
        "evaluation.num_episodes=6", "evaluation.num_envs=2",
    )  # fmt: skip
    again, straight = runs.folder / "again", runs.folder / "straight"
    assert runs.run(*command, to=straight) == 0, runs.said
    steps = json.loads((straight / "result.json").read_text())["outcomes"]
    length = int(next(iter(steps.values()))["mean_length"])
    assert runs.run(*command, to=again, fault=in_acting(length + 5, call=1)) == -9
    assert kept(again) == (1, 0)
    assert runs.run(*command, to=again) == 0 and "1 waves are played" in runs.said
    assert outcomes(again) == outcomes(straight)


def test_a_repeated_sweep_skips_resumes_and_runs(runs: Faulty) -> None:
    sweep = runs.folder / "sweep"
    command = ("-m", *SMALL, "seed=0,1,2", f"hydra.sweep.dir={sweep}")
    in_the_second = """
import os, signal
from elmur.module import SequenceModule
whole = SequenceModule.run_window
def run_window(self, *args, **kwargs):
    if self.seed == 1 and self.trainer.global_step == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, *args, **kwargs)
SequenceModule.run_window = run_window
"""
    assert runs.run(*command, fault=in_the_second) == -9
    rows = {path.parent.name: path for path in sweep.rglob("result.json")}
    assert set(rows) == {"seed-0"}
    first = rows["seed-0"].read_bytes()
    assert runs.run(*command) == 0, runs.said
    rows = {path.parent.name: path for path in sweep.rglob("result.json")}
    assert set(rows) == {"seed-0", "seed-1", "seed-2"}
    assert rows["seed-0"].read_bytes() == first and runs.said.count("finished before") == 1
    assert runs.said.count("going on from") == 1
    # And the one that was killed is what it would have been.
    assert runs.run(*SMALL, "seed=1", to=runs.folder / "alone") == 0, runs.said
    assert outcomes(rows["seed-1"].parent) == outcomes(runs.folder / "alone")


def test_a_second_process_on_the_same_folder_is_refused_and_a_dead_one_is_not_waited_for(runs: Faulty) -> None:
    folder = runs.folder / "locked"
    holder = """
import sys, time
from pathlib import Path
from elmur.files import exclusive
with exclusive(Path(sys.argv[1]) / ".running"):
    Path(sys.argv[1], "ready").touch()
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", holder, str(folder)], cwd=Path(__file__).parents[2])
    try:
        wait_for(folder / "ready")
        assert runs.run(*SMALL, to=folder) == 1
        assert f"{folder} is in use by another process (host " in runs.said and f"pid {process.pid})" in runs.said
    finally:
        process.kill()
        process.wait()
    assert runs.run(*SMALL, to=folder) == 0, runs.said
