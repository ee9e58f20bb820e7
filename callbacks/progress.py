"""How far training is: a bar over updates in a terminal, a line now and then in a log."""

from __future__ import annotations

import logging
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger(__name__)
REFRESH = 0.25  # seconds: figures are asked of the device, which a GPU would be waited for at every update
SHOWN = ("train/loss", "train/learning_rate", "train/segments_per_second")


class UpdateProgress(Callback):
    """Shows updates done, time left, loss, learning rate and segments per second.

    log_every: seconds between two lines where there is no terminal (the log of a cluster job).
    """

    def __init__(self, log_every: float = 30.0) -> None:
        self.log_every = log_every
        self._bar: Progress | None = None
        self._logged = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._logged = time.monotonic()
        if not trainer.is_global_zero or not Console().is_terminal:
            return
        columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("updates"))
        self._bar = Progress(*columns, TimeRemainingColumn(), TextColumn("{task.description}"))
        self._bar.add_task("", total=trainer.max_steps, completed=trainer.global_step)
        self._bar.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self._bar is not None:
            if time.monotonic() - self._logged >= REFRESH:
                self._logged = time.monotonic()
                self._bar.update(self._bar.task_ids[0], description=self.figures(trainer))
            self._bar.update(self._bar.task_ids[0], completed=trainer.global_step)
        elif trainer.is_global_zero and time.monotonic() - self._logged >= self.log_every:
            self._logged = time.monotonic()
            log.info("update %d of %d %s", trainer.global_step, trainer.max_steps, self.figures(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    @staticmethod
    def figures(trainer: Trainer) -> str:
        """The metrics that tell how it goes, as far as they are known."""
        known = [
            (name.partition("/")[2], trainer.callback_metrics[name])
            for name in SHOWN
            if name in trainer.callback_metrics
        ]
        return "  ".join(f"{name} {float(value):.3g}" for name, value in known)
