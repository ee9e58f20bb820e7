"""How many segments a second are trained on."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class Throughput(Callback):
    """Logs `train/segments_per_second`, lanes times segments over the wall time between two log steps."""

    def __init__(self) -> None:
        self._since = 0.0
        self._segments = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since, self._segments = time.perf_counter(), 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._segments += batch.batch_size * -(-batch.num_steps // pl_module.context_length) * trainer.world_size
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            now = time.perf_counter()
            rate = self._segments / max(now - self._since, 1e-9)
            pl_module.log("train/segments_per_second", torch.tensor(rate))
            self._since, self._segments = now, 0
