"""Several processes as one: their ranks, sums over all of them, and what each of them holds."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TypeVar

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.kubeflow import KubeflowEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, distributed

T = TypeVar("T")
# Waits that have no natural end: the slowest process plays a million steps while the others are done.
PATIENCE = timedelta(days=30)
_patient: list[distributed.ProcessGroup] = []


def place() -> tuple[int, int]:
    """The rank of this process among those that work together now, and their number; (0, 1) for a process alone."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def total(values: Tensor) -> Tensor:
    """The sum of `values` over all processes; a process alone gets them back."""
    if place()[1] > 1:
        values = values.clone()
        distributed.all_reduce(values)
    return values


def from_all(value: T) -> list[T]:
    """What each process gives, by rank. All must ask; the first to ask wait for the last, however long it takes."""
    rank, count = place()
    if count == 1:
        return [value]
    if not _patient:
        _patient.append(distributed.new_group(backend="gloo", timeout=PATIENCE))
    found: list[T | None] = [None] * count
    distributed.all_gather_object(found, value, group=_patient[0])
    found[rank] = value
    return found  # type: ignore[return-value]


def lanes_of_all(tensors: list[Tensor]) -> list[Tensor]:
    """The tensors of all lanes, given those of this process's lanes: rank r has the r-th block."""
    parts = from_all([tensor.cpu() for tensor in tensors]) if place()[1] > 1 else [tensors]
    return [torch.cat(blocks) if len(blocks) > 1 else blocks[0] for blocks in zip(*parts, strict=True)]


def own_lanes(tensor: Tensor) -> Tensor:
    """This process's block of a tensor of all lanes."""
    rank, count = place()
    lanes = tensor.shape[0] // count
    return tensor[rank * lanes : (rank + 1) * lanes]


def ddp(timeout_minutes: float = 10.0, find_unused_parameters: bool = False) -> DDPStrategy:
    """One model in several processes: gloo between CPUs, nccl between GPUs.

    timeout_minutes: a process that waits longer than this for the others, within training, gives up.
    find_unused_parameters: for models that leave parameters out of some windows; costs a walk over the graph.
    """
    return DDPStrategy(
        timeout=timedelta(minutes=timeout_minutes),
        find_unused_parameters=find_unused_parameters,
        gradient_as_bucket_view=True,
    )


def environment() -> ClusterEnvironment:
    """Who started the processes of this run, by the ranks in the environment; without any, Lightning does.

    Under SLURM it leaves putting jobs back into the queue to submitit: two that requeue would save in each other's way,
    and Lightning's saves inside a signal handler, where a window may be half done.
    """
    if "SLURM_PROCID" in os.environ:
        return SLURMEnvironment(auto_requeue=False)
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    return KubeflowEnvironment() if "RANK" in os.environ else LightningEnvironment()
