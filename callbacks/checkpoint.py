"""Checkpoints on disk: written whole or not at all, read without executing anything, checked before use."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import CheckpointIO

from callbacks import signals
from callbacks.untrusted import UntrustedError, check_content, check_fit, check_zip
from data.atomic import atomic_open, leftovers
from elmur import ranks
from elmur.build import build
from elmur.module import CHECKPOINT_VERSION, NonFiniteError
from elmur.policy import StreamingPolicy
from elmur.sequence_model import SequenceModel
from elmur.spec import SpecError, TaskSpec

log = logging.getLogger(__name__)
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
NEXT, DAMAGED = "next.ckpt", "damaged.ckpt"  # written, but not yet renamed; found damaged, and passed over


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file, what was found and what was expected."""


class _Noted(io.RawIOBase):
    """A file that keeps the first error of writing it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        try:
            return self._file.write(content)
        except OSError as error:
            self.error = self.error or error
            raise


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's checkpoint files through a temporary name in the same folder, synced and renamed."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        with atomic_open(Path(path)) as file:
            noted = _Noted(file)
            try:
                torch.save(checkpoint, noted)  # type: ignore[arg-type]
            except RuntimeError as error:  # torch says nothing of a full disk, only that less was written
                raise noted.error or error from error

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
        self.save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Go back to the checkpoint before, where it is the last one's weights that made a loss which is not finite."""
        previous = self.folder / PREVIOUS
        mine = trainer.is_global_zero and previous.exists()
        if isinstance(exception, NonFiniteError) and self.saved_at == trainer.global_step and mine:
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


def read_checkpoint(path: Path | str, map_location: Any | None = "cpu") -> dict[str, Any]:
    """A checkpoint of ours as plain data. Raises CheckpointError for anything else, and never unpickles code."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such checkpoint")
    checkpoint = load_plain(path, "a checkpoint of this project", map_location)
    ours = checkpoint.get("elmur") if isinstance(checkpoint, dict) else None
    if not isinstance(ours, dict) or "state_dict" not in checkpoint:
        raise CheckpointError(
            f"{path}: expected a checkpoint of this project (key 'elmur'), found another file; weights of the "
            "published code are read by stage=import"
        )
    if ours.get("version") != CHECKPOINT_VERSION:
        raise CheckpointError(
            f"{path}: expected checkpoint version {CHECKPOINT_VERSION}, found {ours.get('version')}; "
            "use the code that wrote it"
        )
    try:
        check_content(checkpoint)
    except UntrustedError as error:
        raise CheckpointError(f"{path}: expected a checkpoint of this project, found {error}") from error
    return checkpoint


def load_plain(path: Path, expected: str, map_location: Any | None = "cpu") -> Any:
    """What torch.save wrote, if it is tensors and plain values. Raises CheckpointError for code, which is not run."""
    try:
        check_zip(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the error below says it all
            return torch.load(path, map_location=map_location, weights_only=True)
    except PermissionError:
        raise
    except UntrustedError as error:
        raise CheckpointError(f"{path}: expected {expected}, found {error}") from error
    except Exception as error:  # whatever a damaged or malicious file provokes in the reader
        raise CheckpointError(
            f"{path}: expected {expected}, found a file that is damaged or holds code; nothing in it was executed"
        ) from error


def load_model(path: Path | str, task: TaskSpec | None = None) -> tuple[SequenceModel, int]:
    """The network in a checkpoint and its context length, on the CPU, ready to act.

    task: what it is to act in; CheckpointError says where the checkpoint's task differs from it.
    """
    ours = (checkpoint := read_checkpoint(path))["elmur"]
    try:
        spec = TaskSpec.from_json(ours["spec"])
    except SpecError as error:
        raise CheckpointError(f"{path}: expected a checkpoint of this project, found elmur.spec: {error}") from error
    if task is not None and (spec.name != task.name or spec.differences(task)):
        differences = "".join(f"; {difference}" for difference in spec.differences(task))
        raise CheckpointError(f"{path}: trained on task {spec.name!r}, not on {task.name!r}{differences}")
    # The configuration in a file is data: it may name members of elmur and nothing else.
    builder: Callable[..., SequenceModel] = build({**ours["model"], "_partial_": True}, f"{path}: model", ("elmur",))
    weights = {
        name.removeprefix("model."): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith("model.")
    }
    try:
        check_fit(lambda: builder(spec=spec), ours["model"].get("n_layer"), weights)
    except UntrustedError as error:
        raise CheckpointError(f"{path}: its weights do not fit the model it describes: found {error}") from error
    model = builder(spec=spec)
    model.load_state_dict(weights)
    return model.eval(), int(ours["context_length"])


def load_policy(path: Path | str, task: TaskSpec | None = None, **how: Any) -> StreamingPolicy:
    """The policy in a checkpoint, to act one observation at a time; `how` as `StreamingPolicy` takes it."""
    return StreamingPolicy(*load_model(path, task), **how)
