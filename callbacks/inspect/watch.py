"""Training watched: what the doctor says of it at the start, memory in short as it learns, and warnings in words."""

from __future__ import annotations

import logging
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.evaluation.plan import MakeEnv, Variants
from callbacks.inspect.examine import examine
from callbacks.inspect.glance import Glance, glance
from callbacks.inspect.gradients import is_dead, write_path
from callbacks.inspect.regime import Carried, Regime
from callbacks.metriclog import log_everywhere
from envs.hidden import Demand

log = logging.getLogger(__name__)
COLLAPSED = 0.99  # mean cosine between slots
IGNORED = 0.5  # share of the written slots that are hardly read
NO_GRADIENT = (
    "the writer gets no gradient: its %d parameters stay as they were drawn; data.backprop_segments=2 or more trains "
    "them (see stage=doctor)"
)
ALIKE = (
    "memory has collapsed: the slots of an episode are alike (cosine %.3f), and the task holds %d %s; "
    "model.memory.write.divide_segment=true gives each slot tokens of its own, model.memory.memory_init_std tells "
    "empty ones apart"
)
UNREAD = (
    "%.0f %% of the slots that are written are hardly read (less than a tenth of an even share): fewer slots, or "
    "another model.memory.bias; stage=inspect shows which"
)


class MemoryWatch(Callback):
    """Logs `memory/...` every so many updates; warns where slots are alike or not read, or the writer has no gradient.

    make_env, variants: what is acted in, if anything; at the start it is said how episodes are cut and what memory can
    do with them. It looks on: losses are the same with it and without.
    """

    def __init__(
        self, make_env: MakeEnv | None = None, variants: Variants | None = None, every_n_updates: int = 50
    ) -> None:
        if every_n_updates < 1:
            raise ValueError(f"every_n_updates must be 1 or more; found {every_n_updates}")
        self.make_env, self.variants, self.every = make_env, variants or {}, every_n_updates
        self._demand: Demand | None = None
        self._said: set[str] = set()
        self._gradient: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        length: Any = pl_module.context_length
        segments = data.window_length // length
        regime = Regime.of(self.make_env, self.variants, data.spec.horizon, length, segments)
        self._demand = regime.demand
        if trainer.global_step == 0:
            for finding in examine(regime, Carried.of(pl_module.model)):  # type: ignore[arg-type]
                log.log(logging.WARNING if finding.warns else logging.INFO, "%s: %s", finding.about, finding)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        due = (trainer.global_step + 1) % self.every == 0
        if not trainer.is_global_zero or not (due or trainer.global_step == 0):
            return
        path = write_path(pl_module.model)  # type: ignore[arg-type]
        if not path:
            return
        found = [parameter.grad for parameter in path.values() if parameter.grad is not None]
        self._gradient = float(torch.stack([gradient.norm() for gradient in found]).norm()) if found else 0.0
        if all(is_dead(parameter.grad) for parameter in path.values()):
            self.warn("writer", NO_GRADIENT, sum(parameter.numel() for parameter in path.values()))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self.every or not trainer.is_global_zero:
            return
        found = glance(pl_module, batch)  # type: ignore[arg-type]
        gradient = {} if self._gradient is None else {"memory/write_grad_norm": self._gradient}
        if not (logged := found.numbers | gradient):
            return
        log_everywhere(trainer, logged)
        self.judge(found)

    def judge(self, found: Glance) -> None:
        """Warn, once each, where slots are alike although more than one thing is to be held, or are not read."""
        needed = self._demand
        if needed and needed.items > 1 and found.alike is not None and found.alike > COLLAPSED:
            self.warn("collapse", ALIKE, found.alike, needed.items, needed.what)
        if found.unread is not None and found.unread > IGNORED:
            self.warn("unread", UNREAD, 100 * found.unread)

    def warn(self, about: str, text: str, *values: object) -> None:
        """Say it once in a run."""
        if about not in self._said:
            self._said.add(about)
            log.warning(text, *values)
