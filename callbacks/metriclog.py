"""The run's own table of metrics: one CSV file that a resumed run goes on with as if nothing had happened."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from elmur.files import append_bytes, write_text

FILE = "metrics.csv"
FIRST = ("epoch", "update")


def log_everywhere(trainer: Trainer, metrics: Mapping[str, float]) -> None:
    """To the sinks of a run and to its own table."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(metrics), trainer.global_step)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, MetricLog):
            callback.write(trainer, metrics)


class MetricLog(Callback):
    """Writes `metrics.csv`: a row every `trainer.log_every_n_steps` updates, and one for whatever calls `write`.

    Rows are appended, each at once and whole; a metric that was not seen before makes the file be written anew, with a
    column more. A checkpoint knows how many rows there were, and a run that goes on from it takes the later ones back.
    So this comes before the callback that writes checkpoints, and after those that log.
    """

    def __init__(self, folder: Path | str) -> None:
        self.path = Path(folder) / FILE
        self.columns: list[str] = list(FIRST)
        self.rows = 0
        self._kept, self._begun = 0, False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin a training anew; a checkpoint, loaded after this, says how many rows to keep."""
        if stage == "fit":  # not where its last weights are validated
            self._kept, self._begun = 0, False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.begin()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.write(trainer, trainer.callback_metrics, "train/")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.write(trainer, trainer.callback_metrics, "validation/")

    def write(self, trainer: Trainer, metrics: Mapping[str, Any], prefix: str = "") -> None:
        """Append a row of the metrics whose names begin so."""
        chosen = {name: float(value) for name, value in metrics.items() if name.startswith(prefix)}
        if not chosen or not trainer.is_global_zero:
            return
        self.begin()
        new = [name for name in chosen if name not in self.columns]
        if new or not self.path.exists():
            kept = self.read()
            self.columns += new
            write_text(self.path, lines(self.columns, [self.columns, *kept]))
        # Not trainer.current_epoch: a run resumed from the end of an epoch counts one without batches.
        epoch = max(trainer.global_step - 1, 0) // int(trainer.num_training_batches)
        row = {"epoch": epoch, "update": trainer.global_step, **chosen}
        append_bytes(self.path, lines(self.columns, [[row.get(name) for name in self.columns]]).encode())
        self.rows += 1

    def begin(self) -> None:
        """Once: keep the rows that the checkpoint knows of. A training that was over before starts by writing."""
        if not self._begun:
            self._begun = True
            self.cut(self._kept)

    def cut(self, rows: int) -> None:
        """Keep the first rows, and the columns that they fill."""
        kept = self.read()[:rows]
        filled = [i for i, name in enumerate(self.columns) if name in FIRST or any(row[i] for row in kept)]
        self.columns, self.rows = [self.columns[i] for i in filled], len(kept)
        if self.path.exists():
            write_text(self.path, lines(self.columns, [self.columns, *([row[i] for i in filled] for row in kept)]))

    def read(self) -> list[list[str]]:
        """The rows of the file, which may end in a torn one; sets the columns."""
        if not self.path.exists():
            self.columns = list(FIRST)
            return []
        whole, _, _ = self.path.read_text().rpartition("\n")
        self.columns, *rows = list(csv.reader(whole.splitlines())) or [list(FIRST)]
        width = len(self.columns)
        return [(row + [""] * width)[:width] for row in rows]

    def state_dict(self) -> dict[str, Any]:
        if self.path.exists():  # the checkpoint is to know of no row that a power cut may take
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._kept = int(state_dict["rows"])


def lines(columns: list[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV, filled up to the number of columns; nothing for None."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([*row, *[""] * (len(columns) - len(row))] for row in rows)
    return out.getvalue()
