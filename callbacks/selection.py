"""Choosing the checkpoint: now and then the policy acts on seeds of its own, and the best one is kept."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks import signals
from callbacks.checkpoint import LAST, resume_of, save_resume_point
from callbacks.evaluation.device import placed
from callbacks.evaluation.evaluate import evaluate
from callbacks.evaluation.plan import EvaluationPlan, MakeEnv, Variants
from callbacks.metriclog import log_everywhere
from callbacks.processor import cpu_seconds
from elmur.policy import StreamingPolicy

log = logging.getLogger(__name__)
BEST = "best.ckpt"


class RolloutSelection(Callback):
    """Logs `eval/<metric>` every so many updates and at the end, and keeps the best checkpoint as `best.ckpt`.

    The score is the mean of the metric over the variants; of equal ones the later is kept. The policy acts as it will
    in the report (`sample`, `target_return`), on seeds `first_seed, first_seed + 1, ...`, used for nothing else.
    device: where it acts, with a copy of the model if that trains on another. What is logged is a metric that
    `early_stopping` can monitor.
    `is_due_at_the_end`, to be set: false where training goes on after its end, in another part of the run.
    """

    def __init__(
        self,
        folder: Path | str,
        make_env: MakeEnv,
        variants: Variants,
        metric: str = "success",
        every_n_updates: int = 100,
        num_episodes: int = 20,
        num_envs: int = 100,
        first_seed: int = 0,
        device: str = "auto",
        sample: bool = False,
        target_return: float = 1.0,
    ) -> None:
        if every_n_updates < 1:
            raise ValueError(f"every_n_updates must be 1 or more; found {every_n_updates}")
        self.plan = EvaluationPlan(num_episodes, num_envs, first_seed, sample, target_return, device=device)
        self.best_path, self.every = Path(folder) / BEST, every_n_updates
        self.make_env, self.variants, self.metric = make_env, variants, metric
        self.seconds = self.cpu_seconds = 0.0  # that choosing has taken in this process
        self.best: float | None = None
        self.evaluated_at = -1
        self.is_due_at_the_end = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step:  # resumed from where the run was stopped before this was done
            self.on_train_batch_end(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step % self.every == 0:
            self.select(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.is_due_at_the_end:
            self.select(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose where the run was stopped in its last choice: Lightning calls no hook of a training that is over."""
        if self.is_due_at_the_end and self.evaluated_at != trainer.global_step:
            self.select(trainer, pl_module)
            if (resume := resume_of(trainer)) is not None:
                resume.save(trainer)

    def select(self, trainer: Trainer, module: LightningModule) -> None:
        """Act, log, and keep the checkpoint if none was better; once per update at the most."""
        if self.evaluated_at == trainer.global_step:
            return
        was_training, begin = module.training, (time.monotonic(), cpu_seconds())
        length, plan = module.context_length, self.plan
        side_by_side, on_gpu = min(plan.num_envs, plan.num_episodes), module.device.type == "cuda"
        model = placed(module.model, length, side_by_side, plan.device, on_gpu)  # type: ignore[arg-type]
        policy = StreamingPolicy(model, length, **plan.acting)  # type: ignore[arg-type]
        alone = trainer.world_size == 1  # of several, none may leave the others waiting

        def pause() -> None:
            if alone:
                signals.leave(lambda: save_resume_point(trainer))

        outcomes = evaluate(policy, self.make_env, self.variants, plan, pause=pause)
        module.train(was_training)
        took, cpu = time.monotonic() - begin[0], cpu_seconds() - begin[1]
        self.seconds, self.cpu_seconds = self.seconds + took, self.cpu_seconds + cpu
        self.evaluated_at = trainer.global_step
        scores = {name: outcome.metric(self.metric) for name, outcome in outcomes.items()}
        score = sum(scores.values()) / len(scores)
        logged = {f"eval/{self.metric}": score, **{f"eval/{self.metric}/{name}": s for name, s in scores.items()}}
        log_everywhere(trainer, logged)
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in logged.items()})
        better = self.best is None or score >= self.best
        if trainer.is_global_zero:
            of = f"{plan.num_episodes} episodes of {', '.join(scores)}"
            kept = "the best so far, kept" if better else f"the best so far is {self.best:.2f}"
            log.info("selection at update %d: %s %.2f over %s in %.0f s; %s", trainer.global_step, self.metric, score,
                     of, took, kept)  # fmt: skip
        if better:
            self.best = score
            trainer.save_checkpoint(self.best_path)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "evaluated_at": self.evaluated_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.evaluated_at = state_dict["best"], state_dict["evaluated_at"]


def chosen(folder: Path) -> Path:
    """The checkpoint in `folder` to judge: the best one where one was selected, else the last."""
    return folder / BEST if (folder / BEST).exists() else folder / LAST
