"""Short trainings on made-up episodes, for what is tested of objectives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer, seed_everything

from callbacks.checkpoint import AtomicCheckpointIO, ResumePoint, resume_point
from data.datamodule import TrajectoryDataModule
from data.shard import write_shard
from elmur.baselines.recurrent import GRU
from elmur.module import SequenceModule
from elmur.objectives.objective import Objective
from elmur.optim import adamw
from elmur.spec import Discrete, TaskSpec


@dataclass
class Episode:
    """One episode, as `write_shard` takes it."""

    observation: dict[str, np.ndarray]
    action: np.ndarray
    reward: np.ndarray
    terminated: bool
    truncated: bool
    loss_mask: np.ndarray


def random_episode(spec: TaskSpec, length: int, seed: int) -> Episode:
    """Random steps of a task; every other episode ends in a terminal state, and some steps do not count."""
    rng = np.random.default_rng(seed)
    observation = {
        name: rng.integers(field.sizes, size=(length, len(field.sizes)))
        if isinstance(field, Discrete)
        else rng.normal(size=(length, *field.shape)).astype(np.float32)
        for name, field in spec.observation.items()
    }
    action: np.ndarray
    if isinstance(spec.action, Discrete):
        action = rng.integers(spec.action.sizes[0], size=length)
    else:
        low, high = np.array(spec.action.low), np.array(spec.action.high)
        action = rng.uniform(low, high, (length, spec.action.size)).astype(np.float32)
    reward, ends = rng.normal(size=length).astype(np.float32), bool(seed % 2)
    return Episode(observation, action, reward, ends, not ends, rng.random(length) < 0.8)


def small(spec: TaskSpec) -> GRU:
    return GRU(spec, d_model=8, dropout=0.2)


class Stop(Exception):
    """A kill: nothing that comes after it is run."""


class KillAt(Callback):
    """Ends training abruptly after an update."""

    def __init__(self, update: int) -> None:
        self.update = update

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.update:
            raise Stop


def shards_of(folder: Path, spec: TaskSpec, episodes: Sequence[Episode]) -> Path:
    """A folder with one shard of these episodes."""
    write_shard(folder / "shard-00000.h5", spec, episodes, {})
    return folder


def train(
    shards: Path,
    folder: Path,
    objective: Objective,
    updates: int,
    *more: Callback,
    model: Callable[..., Any] = small,
    lanes: int = 4,
    lr: float = 1e-3,
    length: int = 3,
    validation: float = 0.0,
) -> tuple[SequenceModule, dict[str, float]]:
    """Train to `updates` in all, from the resume point in `folder` where there is one; the module, what it logged."""
    seed_everything(11, workers=True, verbose=False)
    data = TrajectoryDataModule(shards, length, 2, lanes=lanes, seed=2, validation_fraction=validation)
    data.reads = objective.reads

    def optimizer(made: torch.nn.Module) -> torch.optim.Optimizer:
        return adamw(made, lr=lr, fused=False)

    module = SequenceModule(
        model, length, optimizer, label_smoothing=objective.label_smoothing, seed=2, objective=objective,
        model_config={"_target_": "elmur.baselines.recurrent.GRU", "d_model": 8},
    )  # fmt: skip
    trainer = Trainer(
        max_steps=updates, max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0,
        default_root_dir=folder, plugins=[AtomicCheckpointIO()], log_every_n_steps=1, gradient_clip_val=1.0,
        callbacks=[*more, ResumePoint(folder, 1 if more else updates)],
    )  # fmt: skip
    trainer.fit(module, datamodule=data, ckpt_path=resume_point(folder), weights_only=True)
    return module, {name: float(value) for name, value in trainer.callback_metrics.items()}
