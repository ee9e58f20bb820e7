"""Ranks in the environment: they count where several processes were asked for, and nowhere else."""

from __future__ import annotations

import os
from typing import Any

import pytest

from callbacks.command.processes import RANKS, asked, is_first_process, settle, starts_others
from callbacks.errors import UsageError
from tests.command import TINY, CommandLine

TORCHRUN = {"RANK": "3", "LOCAL_RANK": "1", "GROUP_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "here", "MASTER_PORT": "1"}  # fmt: skip
SRUN = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4"}
CHILD = {"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": "1"}
FOUR, TWO, ONE = ({"devices": n, "num_nodes": m} for n, m in ((2, 2), (2, 1), (1, 1)))


@pytest.mark.parametrize(
    ("devices", "nodes", "expected"),
    [(1, 1, 1), (3, 2, 6), ("4", 1, 4), ([0, 2], 1, 2), ("0,1,", 2, 4), ("auto", 1, 1), (-1, 2, 2)],
)
def test_the_number_asked_for(devices: Any, nodes: int, expected: int) -> None:
    assert asked({"accelerator": "cpu", "devices": devices, "num_nodes": nodes}) == expected


@pytest.mark.parametrize(
    ("trainer", "environment", "first", "starts"),
    [
        (ONE, {}, True, True),
        (ONE, {"RANK": "1"}, True, True),
        (ONE, SRUN, True, True),  # independent runs as the tasks of one srun
        (ONE, CHILD, True, True),
        (FOUR, TORCHRUN, False, False),
        (FOUR, {**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0", "SLURM_PROCID": "1"}, True, False),
        (FOUR, {**SRUN, "RANK": "0"}, False, False),
        (FOUR, {**SRUN, "SLURM_PROCID": "0", "RANK": "5", "LOCAL_RANK": "2"}, True, False),
        (TWO, {"RANK": "1"}, True, True),  # left over; Lightning will start the other
        (TWO, {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "1"}, True, True),
        (TWO, {"LOCAL_RANK": "1"}, True, True),
        (TWO, {**CHILD, "RANK": "0"}, False, False),
        (FOUR, {"NODE_RANK": "1"}, False, True),  # the second machine of a run that is started on each by hand
    ],
)
def test_which_of_them_this_one_is(
    monkeypatch: pytest.MonkeyPatch, trainer: dict[str, int], environment: dict[str, str], first: bool, starts: bool
) -> None:
    for name in (*RANKS, *TORCHRUN, *SRUN):
        monkeypatch.setenv(name, "0")  # so that what is dropped comes back after the test
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert settle(trainer) == trainer["devices"] * trainer["num_nodes"]
    assert (is_first_process(), starts_others()) == (first, starts)


@pytest.mark.parametrize(
    ("trainer", "environment", "said"),
    [
        (ONE, TORCHRUN, "WORLD_SIZE=4 .* is 1: give trainer=ddp trainer.devices=2 trainer.num_nodes=2"),
        (TWO, SRUN, "srun has started 4 tasks, but .* is 2"),
        (TWO, {"SLURM_PROCID": "first", "SLURM_STEP_NUM_TASKS": "x"}, "SLURM_STEP_NUM_TASKS=x .* whole number"),
    ],
)
def test_another_number_than_was_started(
    monkeypatch: pytest.MonkeyPatch, trainer: dict[str, int], environment: dict[str, str], said: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=said):
        settle(trainer)
    assert all(os.environ[name] == value for name, value in environment.items())


@pytest.mark.slow
def test_a_run_with_a_rank_in_its_environment_is_a_run(cli: CommandLine) -> None:
    """From a cold start: Lightning looks at these variables as it is imported."""
    folder = cli.folder / "ranked"
    done = cli.start(*TINY, f"hydra.run.dir={folder}", RANK="1", LOCAL_RANK="1", SLURM_PROCID="1", SLURM_NTASKS="4")
    assert (done.code, done.stderr) == (0, "")
    assert "result row" in done.stdout and (folder / "result.json").exists() and (folder / "settings.json").exists()
    again = cli.run(*TINY, to=folder, SLURM_PROCID="2", SLURM_NTASKS="4")
    assert again.code == 0 and "finished before" in again.stdout


def test_lanes_that_cannot_be_shared_are_refused_before_there_are_processes(cli: CommandLine) -> None:
    done = cli.run(*TINY, "trainer=ddp", "trainer.devices=3", "trainer.accelerator=cpu")
    assert (done.code, done.stderr.count("\n"), done.stdout) == (1, 1, "")
    assert "data.lanes=8 cannot be shared by 3 processes" in done.stderr and "data.lanes=9" in done.stderr


def test_processes_of_torchrun_without_ddp_are_refused(cli: CommandLine) -> None:
    done = cli.run(*TINY, **TORCHRUN)
    assert (done.code, done.stderr.count("\n")) == (1, 1)
    assert "give trainer=ddp trainer.devices=2 trainer.num_nodes=2" in done.stderr
