"""Training watched: what the doctor says of it at the start, and a warning where a part of memory does not learn."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.inspect.doctor import design_of, regime_of
from callbacks.inspect.gradients import is_dead, write_path
from callbacks.inspect.regime import examine
from envs.vector import VectorEnv

log = logging.getLogger(__name__)


class MemoryWatch(Callback):
    """Says at the start how episodes are cut and what memory can do with them, and warns of a writer without gradient.

    make_env, variants: what is acted in, if anything. It reads and never draws, so that losses are the same without it.
    """

    def __init__(
        self, make_env: Callable[..., VectorEnv] | None = None, variants: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        self.make_env, self.variants = make_env, variants or {}
        self._looked = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step or not trainer.is_global_zero:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        length: Any = pl_module.context_length
        cut = {"context_length": length, "backprop_segments": data.window_length // length}
        regime = regime_of(self.make_env, self.variants, data.spec.horizon, **cut)
        for finding in examine(regime, design_of(pl_module)):  # type: ignore[arg-type]
            log.log(logging.WARNING if finding.warns else logging.INFO, "%s: %s", finding.about, finding)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Look at the first gradient, once it has come from a window that goes on."""
        if self._looked or not trainer.is_global_zero:
            return
        self._looked = True
        paths = write_path(pl_module.model)  # type: ignore[arg-type]
        if paths and all(is_dead(parameter.grad) for parameter in paths.values()):
            log.warning(
                "the writer gets no gradient: its %d parameters stay as they were drawn; data.backprop_segments=2 or "
                "more trains them (stage=doctor says more)", sum(parameter.numel() for parameter in paths.values()),
            )  # fmt: skip
