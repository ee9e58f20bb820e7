"""Choosing the checkpoint where nobody acts: the one that best foretells actions that were not trained on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.selection import BEST

log = logging.getLogger(__name__)
SIGN = {"score": 1.0, "loss": -1.0}  # of what is to be high, and of what is to be low


class ValidationSelection(Callback):
    """Keeps the best checkpoint as `best.ckpt`, by `validation/<metric>`; of equal ones the later.

    metric: "score", the share of actions that are the likeliest ones, or less the absolute error of numbers; or "loss".
    It looks whenever the trainer validates: `trainer.val_check_interval` says how often.
    """

    def __init__(self, folder: Path | str, metric: Literal["score", "loss"] = "score") -> None:
        if metric not in SIGN:
            raise ValueError(f"metric: expected one of {', '.join(SIGN)}; found {metric!r}")
        self.best_path, self.metric = Path(folder) / BEST, metric
        self.best: dict[str, float] | None = None  # loss, score and update of the best one
        self.validated_at = -1

    @property
    def value(self) -> float | None:
        """By what the best one was chosen, the higher the better; None before the first validation."""
        return None if self.best is None else SIGN[self.metric] * self.best[self.metric]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate where the run was stopped, or the checkpoint written that it goes on from, before this was done."""
        loop, by_epoch = trainer.fit_loop.epoch_loop, trainer.check_val_every_n_epoch is not None
        batches = loop.batch_progress.current.ready if by_epoch else trainer.global_step
        interval = trainer.val_check_batch or float("inf")  # None: by the clock
        is_due = batches > 0 and trainer.enable_validation and batches % interval == 0
        if is_due and self.validated_at != trainer.global_step:
            trainer.validating, loop.val_loop.restarting = True, False  # all of it, not the rest of the one before
            loop.val_loop.run()
            trainer.training = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or self.validated_at == trainer.global_step:
            return
        self.validated_at = trainer.global_step
        found = {name: float(trainer.callback_metrics[f"validation/{name}"]) for name in SIGN}
        before = self.value
        better = before is None or SIGN[self.metric] * found[self.metric] >= before
        if trainer.is_global_zero:
            kept = "the best so far, kept" if better else f"the best so far is {abs(before or 0.0):.4f}"
            log.info("validation at update %d: %s %.4f; %s", trainer.global_step, self.metric, found[self.metric], kept)
        if better:
            self.best = {**found, "update": trainer.global_step}
            trainer.save_checkpoint(self.best_path)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "validated_at": self.validated_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.validated_at = state_dict["best"], state_dict["validated_at"]
