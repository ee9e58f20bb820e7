"""What a training run leaves of itself beside its metrics: its settings, in checkpoints too, and what it took."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer

from callbacks.command.identity import read_settings
from callbacks.command.registry import PLATFORM
from callbacks.errors import UsageError
from callbacks.processor import cpu_seconds
from callbacks.selection import BEST, RolloutSelection
from elmur.aliases import renamed

RECORD = "run"  # the key of a checkpoint
KEPT = ("cpu_seconds", "selection_seconds", "selection_cpu_seconds")  # of the clock: of all, and of choosing alone


class RunRecord(Callback):
    """Calls `accepted` once, when nothing can refuse the run any more, and keeps what it gives in every checkpoint.

    A new run is accepted when training starts; one that goes on when its first update shows that its checkpoint fits.
    To be the first of the callbacks. accepted: gives plain values, the settings of the run among them.
    """

    def __init__(self, accepted: Callable[[], dict[str, Any]]) -> None:
        self._accepted = accepted
        self._record: dict[str, Any] | None = None
        self._loaded: dict[str, Any] = {}  # of the checkpoint that a run goes on from

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.ckpt_path is None:
            self.accept()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.accept()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.accept()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._loaded = checkpoint.get(RECORD, {})

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[RECORD] = self._record or self._loaded

    def accept(self) -> None:
        """Accept, once; Lightning calls no hook of a training that was over, whose settings may differ all the same."""
        if self._record is None:
            self._record = self._accepted()


def origin_of(path: Path, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the run that made a checkpoint, from itself or from the run's folder; none if neither knows."""
    found = (checkpoint.get(RECORD) or {}).get("settings")
    if isinstance(found, dict):
        return dict(renamed(found))
    try:
        return read_settings(path.parent.parent)
    except (OSError, UsageError):
        return {}


def selection_score(path: Path, checkpoint: Mapping[str, Any]) -> float | None:
    """By what the best checkpoint was chosen; None of any other."""
    states = checkpoint.get("callbacks", {}).items() if path.name == BEST else ()
    return next((state.get("best") for key, state in states if key.startswith("RolloutSelection")), None)


def selection_seeds(origin: Mapping[str, Any]) -> list[range]:
    """The seeds by which a run chose its best checkpoint; origin: its settings, as `origin_of` has them."""
    named = "selection", PLATFORM.roles["callback"].names["selection"]
    asked = [one for one in (origin.get("callbacks") or {}).values() if isinstance(one, Mapping)]
    found = [(one.get("first_seed", 0), one.get("num_episodes", 0)) for one in asked if one.get("_target_") in named]
    return [range(first, first + n) for first, n in found if isinstance(first, int) and isinstance(n, int)]


class Clock(Timer):
    """Wall and processor seconds of training and of choosing checkpoints, with what was done before an interruption.

    selections: the callbacks that choose, whose seconds are not those of training.
    """

    def __init__(self, selections: Sequence[RolloutSelection]) -> None:
        super().__init__()
        self._selections = tuple(selections)
        self._before, self._since = dict.fromkeys(KEPT, 0.0), cpu_seconds()

    @property
    def state_key(self) -> str:
        return "Timer"  # under which checkpoints have it

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._since = cpu_seconds()

    def spent(self) -> dict[str, float]:
        """The seconds, named as `callbacks.report.row.Cost` names them."""
        found = self._seconds()
        cpu = found.pop("cpu_seconds") - found["selection_cpu_seconds"]
        return {"train_seconds": self.time_elapsed() - found["selection_seconds"], "train_cpu_seconds": cpu, **found}

    def _seconds(self) -> dict[str, float]:
        here = (
            cpu_seconds() - self._since,
            sum(one.seconds for one in self._selections),
            sum(one.cpu_seconds for one in self._selections),
        )
        return {name: self._before[name] + seconds for name, seconds in zip(KEPT, here, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), **self._seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._before = {name: float(state_dict.get(name, 0.0)) for name in KEPT}
