"""Checkpoints written: whole or not at all, every so often and when a signal asks for the end."""

from __future__ import annotations

import logging
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import CheckpointIO

from callbacks import signals
from elmur import ranks
from elmur.checkpoint import CheckpointError, read_checkpoint, save_whole
from elmur.files import leftovers
from elmur.finite import NonFiniteError

log = logging.getLogger(__name__)
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
NEXT, DAMAGED = "next.ckpt", "damaged.ckpt"  # written, but not yet renamed; found damaged, and passed over


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's checkpoint files through a temporary name in the same folder, synced and renamed."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        save_whole(checkpoint, Path(path))

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        return read_checkpoint(path, map_location)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


class ResumePoint(Callback):
    """Writes `last.ckpt` every so many updates and at the end; the one before stays as `previous.ckpt`."""

    def __init__(self, folder: Path | str, every_n_updates: int = 100) -> None:
        if every_n_updates < 1:
            raise ValueError(f"every_n_updates must be 1 or more; found {every_n_updates}")
        self.folder, self.every = Path(folder), every_n_updates
        self.saved_at = -1

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step % self.every == 0:
            self.save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.should_stop:  # said after the last update was saved
            self.saved_at = -1
        self.save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Go back to the checkpoint before, where it is the last one's weights that made a loss which is not finite."""
        previous = self.folder / PREVIOUS
        mine = trainer.is_global_zero and previous.exists()
        if isinstance(exception, NonFiniteError) and self.saved_at == exception.update and mine:
            previous.replace(self.folder / LAST)

    def save(self, trainer: Trainer) -> None:
        """Write the whole state of the run, unless this update was saved already.

        At every moment one whole checkpoint is there: the new one takes its name when all of it is on disk.
        """
        if self.saved_at == trainer.global_step:
            return
        new, last = self.folder / NEXT, self.folder / LAST
        trainer.save_checkpoint(new)
        if trainer.is_global_zero:
            if last.exists():
                last.replace(self.folder / PREVIOUS)
            new.replace(last)
        self.saved_at = trainer.global_step


class StopOnSignal(Callback):
    """Ends training after the batch in which a signal came: with a checkpoint, and as its launcher expects.

    It comes before callbacks that take long; what they would have done is done when the run goes on.
    """

    def __init__(self) -> None:
        self._held = ExitStack()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        signals.install()  # Lightning's own handler for SIGTERM would act in the middle of a window
        if resume_of(trainer) is not None:  # else there is nothing to wait for
            self._held.enter_context(signals.held())

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.world_size > 1:
            if not ranks.total(torch.tensor(int(signals.received()), device=pl_module.device)):
                return  # what comes from here on waits for the next batch: none leaves, or saves, without the others
            if not signals.received():
                signals.ask()
        signals.leave(lambda: save_resume_point(trainer))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._held.close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._held.close()


def resume_of(trainer: Trainer) -> ResumePoint | None:
    """The callback that writes the run's resume point, where it has one."""
    return next((c for c in trainer.callbacks if isinstance(c, ResumePoint)), None)  # type: ignore[attr-defined]


def save_resume_point(trainer: Trainer) -> None:
    """Write the whole state of the run now."""
    if (resume := resume_of(trainer)) is not None:
        log.info("asked to stop: saving update %d in %s", trainer.global_step, resume.folder / LAST)
        resume.save(trainer)


def resume_point(folder: Path | str) -> Path | None:
    """The newest checkpoint in `folder` that can be read, None where there is none.

    A damaged one is passed over for the one before, and that is said; it is kept aside, so that it does not take the
    place of a good one. Raises CheckpointError where all are damaged.
    """
    for place in (Path(folder), Path(folder).parent, Path(folder).parent / "logs"):
        for path in leftovers(place):  # whoever wrote these was killed: this process has the folder to itself
            path.unlink(missing_ok=True)
    present = [Path(folder) / name for name in (NEXT, LAST, PREVIOUS) if (Path(folder) / name).exists()]
    damaged = []
    for path in present:
        try:
            read_checkpoint(path, "cpu")
        except CheckpointError as error:
            log.warning("%s", error)
            damaged.append(path)
            continue
        for other in damaged:
            with suppress(FileNotFoundError):  # another process of this run was faster
                other.replace(Path(folder) / DAMAGED)
        if damaged:
            log.warning("going back to the checkpoint before, %s; the damaged one is kept as %s", path, DAMAGED)
        return path
    if present:
        raise CheckpointError(f"{folder}: none of {[p.name for p in present]} can be read; delete them to start again")
    return None
