"""How many processes work on this run, and which of them this one is; known before they have found each other."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from callbacks.errors import UsageError

# Set by torchrun, srun and Lightning for each of the processes that work on one run.
RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK")
TOLD = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # by one that starts several processes, to each
COUNTS = ("WORLD_SIZE", "LOCAL_WORLD_SIZE")


def is_first_process() -> bool:
    """Whether this process writes what is written once; right from `settle` on."""
    return not any(_number(name) for name in RANKS)


def asked(trainer: Mapping[str, Any]) -> int:
    """The number of processes that the trainer's settings ask for, on all machines together."""
    devices, nodes = trainer.get("devices", 1), trainer.get("num_nodes", 1)
    if isinstance(devices, str) and devices.strip().lstrip("-").isdigit():
        devices = int(devices)
    if isinstance(devices, str) and "," in devices:
        devices = devices.strip(",").split(",")
    if isinstance(devices, list | tuple):
        devices = len(devices)
    if devices in ("auto", -1):
        import torch

        devices = torch.cuda.device_count() if trainer.get("accelerator") != "cpu" else 1
    whole = type(devices) is int and type(nodes) is int
    return max(devices, 1) * max(nodes, 1) if whole else 1  # what they are instead, the trainer says


def settle(trainer: Mapping[str, Any]) -> int:
    """The number of processes of this run; ranks in the environment that are not of this run are dropped from it.

    They count where more than one process was asked for: a task of srun, or a shell in which a variable was left, may
    be a run by itself. Raises UsageError where those who started this process speak of another number than was asked
    for.
    """
    count = asked(trainer)
    by_others, tasks = all(name in os.environ for name in TOLD), _number("SLURM_STEP_NUM_TASKS", 1)
    if by_others:  # torchrun, Kubeflow
        if (started := _number("WORLD_SIZE")) != count:
            each = max(1, _number("LOCAL_WORLD_SIZE", 1))
            raise UsageError(
                f"WORLD_SIZE={started} processes were started for this run, but trainer.devices times "
                f"trainer.num_nodes is {count}: give trainer=ddp trainer.devices={each} "
                f"trainer.num_nodes={started // each}"
            )
        strangers: tuple[str, ...] = ("SLURM_PROCID", "NODE_RANK")
    elif count == 1:
        strangers = (*RANKS, *COUNTS)
    elif "SLURM_PROCID" in os.environ and tasks > 1:
        if tasks != count:
            raise UsageError(
                f"srun has started {tasks} tasks, but trainer.devices times trainer.num_nodes is {count}: "
                "make them equal"
            )
        strangers = ("RANK", "GROUP_RANK", "LOCAL_RANK", "NODE_RANK", *COUNTS)
    elif "WORLD_SIZE" in os.environ and "LOCAL_RANK" in os.environ:  # a child that Lightning started
        strangers = ("RANK", "SLURM_PROCID", "GROUP_RANK")
    else:  # Lightning is to start them, on each machine; NODE_RANK says on which this is
        strangers = ("RANK", "SLURM_PROCID", "LOCAL_RANK", *COUNTS)
    for name in strangers:
        os.environ.pop(name, None)
    return count


def starts_others() -> bool:
    """Whether a run of several processes has yet to start the others; right from `settle` on."""
    return not any(name in os.environ for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))


def check_shared(settings: Mapping[str, Any], processes: int) -> None:
    """Raises UsageError where the lanes of a training cannot be shared among its processes."""
    lanes = settings["data"].get("lanes")
    if settings["stage"] != "train" or type(lanes) is not int or lanes % processes == 0:
        return
    nearest = max(1, round(lanes / processes)) * processes
    raise UsageError(
        f"data.lanes={lanes} cannot be shared by {processes} processes (trainer.devices times trainer.num_nodes); use "
        f"data.lanes={nearest} or another multiple"
    )


def _number(name: str, otherwise: int = 0) -> int:
    """A variable of the environment as a number. Raises UsageError where it is none."""
    text = os.environ.get(name) or str(otherwise)
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{name}={text} in the environment: expected a whole number; unset it") from None
