"""Ending training where a metric gets no better: Lightning's, in a run that may be interrupted at any moment."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch import callbacks as lightning
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from callbacks.selection import RolloutSelection

CRITERIA = ("patience", "min_delta", "check_finite", "stopping_threshold", "divergence_threshold")


class EarlyStopping(lightning.EarlyStopping):
    """Lightning's: it looks at `monitor` at the end of every epoch, or after every validation.

    A score of selection, `eval/<metric>` or `eval/<metric>/<variant>`, is looked at once, at the next end of an epoch.
    Checkpoints know the last value, when it was looked at, and whether training was ended by it; with other criteria a
    run that was ended goes on.
    """

    looked_at = -1  # the update
    stopped = False
    _value: float | None = None  # of the checkpoint
    _trainer: Trainer | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._trainer = trainer

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._value is not None:
            trainer.callback_metrics[self.monitor] = torch.tensor(self._value)
        trainer.should_stop = trainer.should_stop or self.stopped

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look where the run was interrupted between the last update of an epoch and the epoch's end."""
        if self.monitor not in trainer.callback_metrics:  # of a new run, or a checkpoint that does not know
            self.looked_at = trainer.global_step
        elif trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self.on_train_epoch_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        known = {} if self._trainer is None else self._trainer.callback_metrics
        value = float(known[self.monitor]) if self.monitor in known else None
        own = {"looked_at": self.looked_at, "stopped": self.stopped, "value": value, "criteria": self._criteria()}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        patience = self.patience
        super().load_state_dict(state_dict)
        self.patience = patience  # what was asked for now
        self.looked_at, self._value = state_dict.get("looked_at", -1), state_dict.get("value")
        was_ended = state_dict.get("stopped", self.stopping_reason is not EarlyStoppingReason.NOT_STOPPED)
        self.stopped = was_ended and state_dict.get("criteria", self._criteria()) == self._criteria()

    def _is_new(self, trainer: Trainer) -> bool:
        """Whether there is something that was not looked at: an update, or a score of selection."""
        choosing = [c for c in trainer.callbacks if isinstance(c, RolloutSelection)]  # type: ignore[attr-defined]
        if self.monitor.startswith("eval/") and choosing:
            return max(callback.evaluated_at for callback in choosing) > self.looked_at
        return trainer.global_step > self.looked_at

    def _run_early_stopping_check(self, trainer: Trainer) -> None:
        if not self._is_new(trainer):
            return
        by_others, trainer.should_stop = trainer.should_stop, False
        super()._run_early_stopping_check(trainer)
        self.looked_at, self.stopped = trainer.global_step, self.stopped or trainer.should_stop
        trainer.should_stop = by_others or self.stopped

    def _criteria(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in CRITERIA}
