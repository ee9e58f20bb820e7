"""How far training is: a bar over updates in a terminal, a line now and then in a log."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from elmur.progress import Progress

# What is shown of the metrics that are known, and how.
FIGURES = {"train/loss": "loss {:.3g}", "train/learning_rate": "lr {:.2g}", "train/segments_per_second": "{:.0f} seg/s"}


class UpdateProgress(Callback):
    """Shows updates done, time left, loss, learning rate and segments per second."""

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self._progress = Progress("training", trainer.max_steps, "updates", trainer.global_step, patience=0.0)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self._progress is not None:  # figures are asked of the device, which a GPU would be waited for
            self._progress.update(trainer.global_step, lambda: self.figures(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._progress is not None:
            self._progress.close(leave=True)
            self._progress = None

    @staticmethod
    def figures(trainer: Trainer) -> str:
        """The metrics that tell how it goes, as far as they are known."""
        known = trainer.callback_metrics
        return "  ".join(form.format(float(known[name])) for name, form in FIGURES.items() if name in known)
