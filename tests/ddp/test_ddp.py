"""Two real processes on one run: they train as one does, save what both hold, and none outlives the other."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.command import ROOT, TIMEOUT, TINY

pytestmark = pytest.mark.faults
UPDATES, SAVED_AT = 20, 14
SETTINGS = (
    *TINY, f"trainer.max_steps={UPDATES}", "callbacks.resume.every_n_updates=7",
    "callbacks.selection.every_n_updates=8", "evaluation.num_envs=2",
)  # fmt: skip
NO_DROPOUT = ("model.dropout=0", "model.dropatt=0", "model.memory.memory_dropout=0")
PLAIN = (*SETTINGS, *NO_DROPOUT, "trainer.precision=64-true")
TWO = ("trainer=ddp", "trainer.devices=2")


def command(folder: Path, *arguments: str, script: Path = ROOT / "run.py") -> subprocess.Popen[str]:
    """`python run.py ...` in a process group of its own, with its output folder and its shards beside each other."""
    environment = {**os.environ, "ELMUR_SHARDS": str(folder.parent / "shards"), "COLUMNS": "200"}
    return subprocess.Popen(
        [sys.executable, str(script), *arguments, f"hydra.run.dir={folder}"],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> str:
    """What a command says, when it is over and went well."""
    try:
        said, _ = process.communicate(timeout=TIMEOUT)
    finally:
        kill_group(process)
    assert process.returncode == 0, said
    return said


def kill_group(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(TIMEOUT)
    if process.stdout is not None:
        process.stdout.close()


def last(folder: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint


def tensors(node: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a nest by their place in it."""
    if isinstance(node, Tensor):
        yield path, node
    elif isinstance(node, dict | list | tuple):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from tensors(value, f"{path}/{key}")


def distance(one: Any, other: Any) -> float:
    """The largest difference between the tensors of two nests of the same shape."""
    a, b = dict(tensors(one)), dict(tensors(other))
    assert a.keys() == b.keys() and len(a) > 0
    return max((a[key].double() - b[key].double()).abs().max().item() for key in a if a[key].numel())


def outcomes(folder: Path) -> dict[str, Any]:
    """The row's outcomes without their times."""
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())["outcomes"]
    return {name: {k: v for k, v in outcome.items() if k != "wall_seconds"} for name, outcome in found.items()}


def undo(folder: Path) -> None:
    """Put a finished run back to where its checkpoint before the last was written, as if it had been killed then."""
    (folder / "result.json").unlink()
    (folder / "checkpoints" / "best.ckpt").unlink()
    (folder / "checkpoints" / "previous.ckpt").replace(folder / "checkpoints" / "last.ckpt")
    assert last(folder)["global_step"] == SAVED_AT


def anew(folder: Path) -> Path:
    """A copy of the finished run to compare with, while the run itself is put back."""
    shutil.copytree(folder, kept := folder.with_name(f"{folder.name}-finished"), dirs_exist_ok=True)
    undo(folder)
    return kept


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same run in one process and in two, without dropout, in double precision.

    In single precision Adam blows the rounding of gradients that are exactly zero (the slowest waves of the relative
    positions, which softmax cancels) up to its full step, so those weights wander, without any effect.
    """
    folder = tmp_path_factory.mktemp("plain")
    finish(command(folder / "one", *PLAIN))
    finish(command(folder / "two", *PLAIN, *TWO))
    return folder / "one", folder / "two"


def test_two_processes_learn_the_weights_of_one(plain: tuple[Path, Path]) -> None:
    one, two = (last(folder) for folder in plain)
    assert one["global_step"] == two["global_step"] == UPDATES
    assert one["elmur"]["trained_steps"] == two["elmur"]["trained_steps"] > 0
    assert distance(one["state_dict"], two["state_dict"]) < 1e-5
    assert distance(one["optimizer_states"], two["optimizer_states"]) < 1e-5
    assert distance(one["elmur"]["carry"], two["elmur"]["carry"]) < 1e-5, "memory of all lanes, in their order"
    assert torch.equal(one["elmur"]["noise"], two["elmur"]["noise"])
    assert len(one["elmur"]["rng_of_others"]) == 0 and len(two["elmur"]["rng_of_others"]) == 1


def test_evaluation_is_split_and_gathered_into_one_row(plain: tuple[Path, Path]) -> None:
    one, two = plain
    assert outcomes(one) == outcomes(two)
    assert all(o["seeds"] == list(range(500_000, 500_006)) for o in outcomes(two).values())
    assert len((one / "logs/metrics.csv").read_text().split()) == len((two / "logs/metrics.csv").read_text().split())
    assert (two / "run.log").read_text().count("result row") == 1
    assert "result row" not in (two / "train_ddp_process_1.log").read_text()


def test_what_two_saved_goes_on_in_one(plain: tuple[Path, Path]) -> None:
    two = plain[1]
    finished = anew(two)
    said = finish(command(two, *PLAIN))
    assert re.search(r"written by 2 process\(es\) and is taken up by 1: .* exactly; dropout draws other numbers", said)
    assert distance(last(two)["state_dict"], last(finished)["state_dict"]) < 1e-10
    assert distance(last(two)["elmur"]["carry"], last(finished)["elmur"]["carry"]) < 1e-10
    assert outcomes(two) == outcomes(finished)


def test_what_two_saved_goes_on_in_two_to_the_bit(tmp_path: Path) -> None:
    run = tmp_path / "run"
    finish(command(run, *SETTINGS, *TWO))  # with dropout: each process has random numbers of its own
    mine, other = last(run)["elmur"]["rng"]["torch"], last(run)["elmur"]["rng_of_others"][0]["torch"]
    assert not torch.equal(mine, other)
    finished = anew(run)
    said = finish(command(run, *SETTINGS, *TWO))
    assert "going on from" in said and "is taken up by" not in said
    for part in ("state_dict", "optimizer_states", "elmur"):
        assert distance(last(run)[part], last(finished)[part]) == 0.0, part
    assert outcomes(run) == outcomes(finished)


def test_a_signal_to_one_process_stops_both_where_they_can_go_on(tmp_path: Path) -> None:
    """SIGTERM to either process alone: both end within ten seconds, with a checkpoint of that very update."""
    run = tmp_path / "run"
    for turn in (0, 1):
        before = last(run)["global_step"] if turn else 0
        process = command(run, *SETTINGS, *TWO, "trainer.max_steps=100000")
        try:
            wait_for_update(run, process, before + 1)
            os.kill([process.pid, *children(process.pid)][turn], signal.SIGTERM)
            begin = time.monotonic()
            process.communicate(timeout=60)
            assert time.monotonic() - begin < 10
            assert process.returncode == 128 + signal.SIGTERM
            assert last(run)["global_step"] > before
            assert len(last(run)["elmur"]["rng_of_others"]) == 1
        finally:
            kill_group(process)


def test_ctrl_c_in_a_terminal_stops_both_where_they_can_go_on(tmp_path: Path) -> None:
    """It comes to all processes of the group at once."""
    run = tmp_path / "run"
    process = command(run, *SETTINGS, *TWO, "trainer.max_steps=100000")
    try:
        wait_for_update(run, process, 1)
        os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 130 and "Traceback" not in said, said
        assert said.count("stopped by SIGINT; give the same command again to go on") == 1
        assert last(run)["global_step"] >= 1 and len(last(run)["elmur"]["rng_of_others"]) == 1
    finally:
        kill_group(process)


# Lightning starts the second process by the first one's own script.
IN_BETWEEN = """
import os, signal, sys
sys.path.insert(0, os.getcwd())
from elmur import ranks
real, asked = ranks.total, 0
def total(values):
    global asked
    found = real(values)
    asked += values.ndim == 0  # training sums several values, StopOnSignal one
    if values.ndim == 0 and asked == 5 and ranks.place()[0] == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return found
ranks.total = total
exec(compile(open("run.py").read(), "run.py", "exec"))
"""


def test_a_signal_after_the_processes_have_asked_each_other_waits_for_the_next_time(tmp_path: Path) -> None:
    """One that left on its own account would leave the other behind in the middle of an update."""
    (script := tmp_path / "between.py").write_text(IN_BETWEEN)
    process = command(tmp_path / "run", *SETTINGS, *TWO, script=script)
    try:
        said, _ = process.communicate(timeout=TIMEOUT)
    finally:
        kill_group(process)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert last(tmp_path / "run")["global_step"] == 6


def test_two_that_are_stopped_in_their_last_batch_choose_when_they_go_on(tmp_path: Path) -> None:
    """Training is over then, and what it would have done after its last batch is left to do."""
    (script := tmp_path / "late.py").write_text(IN_BETWEEN.replace("asked == 5", f"asked == {UPDATES - 1}"))
    finish(command(tmp_path / "straight", *SETTINGS, *TWO))
    run = tmp_path / "run"
    process = command(run, *SETTINGS, *TWO, script=script)
    try:
        said, _ = process.communicate(timeout=TIMEOUT)
    finally:
        kill_group(process)
    assert process.returncode == 128 + signal.SIGTERM and last(run)["global_step"] == UPDATES, said
    said = finish(command(run, *SETTINGS, *TWO))
    assert f"selection at update {UPDATES}" in said
    for part in ("state_dict", "optimizer_states", "elmur"):
        assert distance(last(run)[part], last(tmp_path / "straight")[part]) == 0.0, part
    assert outcomes(run) == outcomes(tmp_path / "straight")


def wait_for_update(run: Path, process: subprocess.Popen[str], update: int) -> None:
    """Until a checkpoint of this update or a later one is there."""
    deadline = time.monotonic() + TIMEOUT
    path = run / "checkpoints" / "last.ckpt"
    while saved(path) < update:
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()[0]
        time.sleep(0.2)


def saved(path: Path) -> int:
    """The update of a checkpoint; -1 where there is none, and for the moment in which one takes the other's name."""
    try:
        return int(torch.load(path, weights_only=True)["global_step"])
    except FileNotFoundError:
        return -1


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")
def test_no_process_outlives_the_other(tmp_path: Path) -> None:
    """SIGKILL to the second process in the middle of training ends the first with an error, within a minute."""
    run = tmp_path / "run"
    process = command(run, *SETTINGS, *TWO, "trainer.max_steps=100000")
    try:
        wait_for_update(run, process, 1)
        (second,) = children(process.pid)
        os.kill(second, signal.SIGKILL)
        begin = time.monotonic()
        process.communicate(timeout=60)
        assert process.returncode != 0
        assert time.monotonic() - begin < 60
        stat = Path(f"/proc/{second}/stat")
        assert not stat.exists() or stat.read_text().split()[2] == "Z", "gone, whether or not anyone took note"
    finally:
        kill_group(process)
