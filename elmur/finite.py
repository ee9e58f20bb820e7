"""Loss and gradient watched for what is not finite: at once on a CPU, one update late on a GPU, so that none waits."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor


class NonFiniteError(RuntimeError):
    """The loss or its gradient is not a number any more; the message says at which update (`update`) and batch."""

    def __init__(self, message: str, update: int) -> None:
        super().__init__(message)
        self.update = update


@dataclass(frozen=True)
class Place:
    """Where in training something was computed: updates made before it, epoch and batch."""

    update: int
    epoch: int
    batch: int

    def error(self, what: str, value: float) -> NonFiniteError:
        """One sentence on what went wrong at this point of training, and what may help."""
        return NonFiniteError(
            f"{what} is {value} at update {self.update}, epoch {self.epoch}, batch {self.batch}; checkpoints "
            "written before are good: lower module.optimizer.lr or trainer.gradient_clip_val, or look at the data",
            self.update,
        )


@dataclass(frozen=True)
class _Noted:
    """A number on its way to the host."""

    what: str
    place: Place
    value: Tensor
    arrived: torch.cuda.Event | None

    def check(self) -> None:
        if self.arrived is not None:
            self.arrived.synchronize()
        if not torch.isfinite(self.value):
            raise self.place.error(self.what, float(self.value))


class FiniteWatch:
    """Raises NonFiniteError for a number that is not finite.

    A number on a GPU is copied while the host goes on, and looked at when the next update is under way, or before a
    checkpoint is written: `settle`. late: treat a number on the CPU likewise.
    """

    def __init__(self, late: bool = False) -> None:
        self._late = late
        self._noted: deque[_Noted] = deque()

    def check(self, what: str, value: Tensor, place: Place) -> None:
        """Look at a number now or later; `what` it is: "the loss"."""
        on_gpu = value.device.type == "cuda"
        if not on_gpu and not self._late:
            return _Noted(what, place, value.detach(), None).check()
        host = torch.empty((), dtype=value.dtype, pin_memory=on_gpu)
        host.copy_(value.detach(), non_blocking=True)
        self._noted.append(_Noted(what, place, host, torch.cuda.current_stream().record_event() if on_gpu else None))

    def settle(self, before: int | None = None) -> None:
        """Look at what was noted, of updates below `before` alone where it is given."""
        while self._noted and (before is None or self._noted[0].place.update < before):
            self._noted.popleft().check()
