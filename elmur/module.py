"""SequenceModule: learning over windows of segments, memory carried between windows and detached there."""

from __future__ import annotations

import logging
import platform
import random
from collections.abc import Callable, Mapping
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from elmur import ranks
from elmur.batch import SegmentBatch
from elmur.checkpoint import CHECKPOINT_VERSION
from elmur.finite import FiniteWatch, Place
from elmur.gpu import OnGpu, Window
from elmur.objectives.objective import Cloning, Objective, WindowLoss, with_head
from elmur.optim import Constant, Schedule, adamw, follow
from elmur.sequence_model import SequenceModel
from elmur.spec import TaskSpec
from elmur.state import detach, map_state, reset, tensors_of, with_tensors

log = logging.getLogger(__name__)
OTHER_COUNT = (
    "the checkpoint was written by %d process(es) and is taken up by %d: weights, optimizer, schedule, memory and the "
    "order of data go on exactly; dropout draws other numbers, and sums are rounded in another order"
)
OTHER_VERSIONS = (
    "the checkpoint was written with %s, this is %s: the run goes on, and its last bits may differ from those of a run "
    "that was not interrupted"
)


class SequenceModule(LightningModule):
    """Trains a SequenceModel on windows; one optimizer update per window.

    model: builds the network from `spec=`; called in `configure_model`, with the datamodule's TaskSpec.
    context_length: steps per segment. optimizer: builds it from the model. schedule: factor on its learning rate.
    label_smoothing: of cloning's cross-entropy. seed: of the noise in new memory banks. model_config: how `model` was
    described, kept in checkpoints. gpu: what is done differently on a GPU. objective: what a window teaches; None is
    cloning.
    """

    def __init__(
        self,
        model: Callable[..., SequenceModel],
        context_length: int,
        optimizer: Callable[..., torch.optim.Optimizer] = adamw,
        schedule: Schedule | None = None,
        label_smoothing: float = 0.0,
        seed: int = 0,
        model_config: Mapping[str, Any] | None = None,
        gpu: OnGpu | None = None,
        objective: Objective | None = None,
    ) -> None:
        super().__init__()
        if context_length < 1:
            raise ValueError(f"context_length must be 1 or more; found {context_length}")
        self.objective = objective or Cloning(label_smoothing)
        if label_smoothing != self.objective.label_smoothing:
            raise ValueError(
                f"label_smoothing={label_smoothing}: {type(self.objective).__name__} smooths labels by "
                f"{self.objective.label_smoothing}; give both the same"
            )
        self._build, self._optimizer = with_head(model, self.objective.head), optimizer
        self.schedule, self.context_length, self.seed = schedule or Constant(), context_length, seed
        self.model_config = dict(model_config or {})
        self.gpu, self.finite = gpu or OnGpu(), FiniteWatch()
        self.model: SequenceModel
        self._trained_steps = torch.zeros((), dtype=torch.int64)
        self._carry: dict[str, Any] = {}
        self._noise = torch.Generator().manual_seed(seed)
        self._restore: dict[str, Any] | None = None

    @property
    def trained_steps(self) -> int:
        """Environment steps whose loss was learned from. On a GPU the answer is waited for."""
        return int(self._trained_steps)

    def configure_model(self) -> None:
        if not hasattr(self, "model"):
            self.build_model(self.trainer.datamodule.spec)  # type: ignore[attr-defined]

    def build_model(self, spec: TaskSpec) -> None:
        """Make the network for a task."""
        self.model = self._build(spec)
        self.objective.prepare(self.model)

    def configure_optimizers(self) -> Any:
        optimizer = self._optimizer(self.model)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: self.schedule(n, self._trained_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def training_step(self, batch: SegmentBatch, batch_idx: int) -> Tensor:
        window = self.run_window(batch, "train", self._noise)
        summed, balance = window.loss, window.balance
        extra = summed.new_zeros(()) if balance is None else balance.detach()
        own = [window.counted, summed.detach(), window.score, extra, *window.terms.values()]
        # Over all ranks, so that the loss is normalised by all steps, and all of them see the same loss go wrong.
        exact = torch.promote_types(summed.dtype, torch.float32)  # counts are not whole numbers in less
        total = ranks.total(torch.stack([value.to(exact) for value in own]))
        count, all_loss, all_score, all_balance, *terms = total
        self._trained_steps = self._trained_steps + count.to(torch.int64)
        count = count.clamp(min=1)
        mean_balance = all_balance / self.trainer.world_size
        self.finite.check("the loss", all_loss / count + mean_balance, self.place(batch_idx))
        rate = self.optimizers().param_groups[0]["lr"]  # type: ignore[union-attr]
        self.log("train/loss", all_loss / count)
        self.log("train/score", all_score / count)
        self.log("train/learning_rate", torch.tensor(rate))  # on the CPU: Lightning would copy a float to the GPU
        for name, term in zip(window.terms, terms, strict=True):
            self.log(f"train/{name}", term / count)
        loss: Tensor = summed * self.trainer.world_size / count  # DDP averages the gradients of the ranks
        if balance is None:
            return loss
        self.log("train/balance_loss", mean_balance)
        return loss + balance

    def validation_step(self, batch: SegmentBatch, batch_idx: int) -> None:
        noise = torch.Generator().manual_seed(self.seed + batch_idx)
        here = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(here):  # a loss that draws draws the same every time, and training is not disturbed
            torch.manual_seed(self.seed + batch_idx)
            window = self.run_window(batch, "validation", noise)
        counted, count = int(window.counted), window.counted.clamp(min=1)
        self.log("validation/loss", window.loss / count, batch_size=counted, sync_dist=True)
        self.log("validation/score", window.score / count, batch_size=counted, sync_dist=True)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.objective.after_update(self.model)

    def run_window(self, batch: SegmentBatch, stage: str, noise: torch.Generator) -> WindowLoss:
        """What the window teaches, summed over its steps.

        Takes the stage's memory up where its last window left it, resets the lanes where an episode begins, and leaves
        it detached for the next: the truncation point.
        """
        fresh = self.fresh_memory(batch.batch_size, noise)
        carry = self._carry.get(stage, fresh)
        if stage == "train" and torch.is_grad_enabled():
            found, self._carry[stage] = self.gpu.run(self.model, self.window, batch, carry, fresh)
        else:
            found, self._carry[stage] = self.window(batch, carry, fresh)
        return found

    def window(self, batch: SegmentBatch, carry: Any, fresh: Any) -> Window:
        """What `run_window` gives and the memory after the window, given that before it and new memory."""
        memory = reset(carry, fresh, batch.is_first)
        segments = list(batch.split(self.context_length))
        carried_on = batch.continues
        window, memory = self.objective.window(self.model, batch, segments, memory, carried_on)
        return window, detach(memory)

    def fresh_memory(self, lanes: int, noise: torch.Generator) -> Any:
        """New memory for the lanes of this rank; its noise is drawn for the lanes of all, so it is each lane's own."""
        fresh = self.objective.initial_memory(self.model, lanes * ranks.place()[1], noise)
        return map_state(ranks.own_lanes, fresh)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by norm, or by value, and refuse a gradient that is not finite before it spoils a checkpoint."""
        limit = gradient_clip_val or float("inf")  # None and 0: not at all, as Lightning has it
        by_value = gradient_clip_algorithm == "value"
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), float("inf") if by_value else limit)
        if by_value:
            torch.nn.utils.clip_grad_value_(self.parameters(), limit)
        self.finite.settle(before=self.global_step)  # of the update before, which a GPU has done by now
        self.finite.check("the gradient's norm", norm, self.place(self.trainer.fit_loop.batch_idx))
        self.log("train/grad_norm", norm)

    def place(self, batch_idx: int) -> Place:
        """Where training is."""
        return Place(self.global_step, self.current_epoch, batch_idx)

    def on_train_end(self) -> None:
        self.finite.settle()

    def forget(self, stage: str) -> None:
        """Let the next window of a stage begin with new memory."""
        self._carry.pop(stage, None)

    def on_validation_epoch_start(self) -> None:
        self.forget("validation")

    def on_train_batch_start(self, batch: SegmentBatch, batch_idx: int) -> None:
        """After loading a checkpoint, put back what must stand as it stood before the first further batch."""
        if self._restore is None:
            return
        saved, self._restore = self._restore, None
        if saved["carry"] is not None:
            template = self.objective.initial_memory(self.model, batch.batch_size, torch.Generator())
            self._carry["train"] = with_tensors(template, [ranks.own_lanes(tensor) for tensor in saved["carry"]])
        self._noise.set_state(saved["noise"])
        states = [saved["rng"], *saved.get("rng_of_others", [])]
        rank, count = ranks.place()
        if len(states) == count or rank == 0:
            restore_rng(states[rank])
        if len(states) != count and rank == 0:
            log.warning(OTHER_COUNT, len(states), count)

    def on_train_start(self) -> None:
        """Let no two ranks drop the same numbers out; a checkpoint's random states come after this.

        A run that goes on has the optimizer's values of its settings, which may be others than those of its checkpoint.
        """
        self.gpu.prepare(self.device)
        if self._restore is not None:
            (optimizer,), (config,) = self.trainer.optimizers, self.trainer.lr_scheduler_configs
            follow(optimizer, self._optimizer(self.model), config.scheduler)  # type: ignore[arg-type]
        if rank := ranks.place()[0]:
            torch.manual_seed(int(np.random.SeedSequence([self.seed, rank]).generate_state(1)[0]))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Everything of the run that Lightning does not keep: memory, random states, task, model, versions.

        Raises NonFiniteError where the weights have come from numbers that are not finite.
        """
        self.finite.settle()
        if self._restore is not None:  # resumed, and no batch since
            checkpoint["elmur"] = self._restore
            return
        carry = self._carry.get("train")
        states = ranks.from_all(rng_state())
        checkpoint["elmur"] = {
            "version": CHECKPOINT_VERSION,
            "spec": self.model.spec.to_json(),
            "model": self.model_config,
            "head": self.objective.head,
            "context_length": self.context_length,
            "trained_steps": self.trained_steps,
            "carry": None if carry is None else ranks.lanes_of_all(tensors_of(carry)),
            "noise": self._noise.get_state(),
            "rng": states[0],
            "rng_of_others": states[1:],
            "versions": versions(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        found, own = (
            {name: list(of.shape) for name, of in s.items()} for s in (checkpoint["state_dict"], self.state_dict())
        )
        if unlike := [name for name in own | found if found.get(name) != own.get(name)]:
            raise ValueError(
                f"{self.trainer.ckpt_path}: the state of another model, whose {unlike[0]} is {found.get(unlike[0])} "
                f"where {type(self.model).__name__} has {own.get(unlike[0])}; delete the file to begin anew"
            )
        self._restore = checkpoint["elmur"]
        self._trained_steps = torch.tensor(int(checkpoint["elmur"]["trained_steps"]))
        there, here = checkpoint["elmur"].get("versions", {}), versions()
        if differ := [name for name in here if there.get(name, here[name]) != here[name]]:
            log.warning(OTHER_VERSIONS, *(", ".join(f"{name} {of[name]}" for name in differ) for of in (there, here)))


def versions() -> dict[str, str]:
    """What decides on the last bits of a result, beside the machine."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "lightning": lightning.__version__,
    }


def rng_state() -> dict[str, Any]:
    """The state of every global random generator, in types that load without pickled code."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002 - saved, not drawn from
    version, internal, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() else [],  # of the device that is used
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(internal), gauss_next],
    }


def restore_rng(state: Mapping[str, Any]) -> None:
    """Put the global random generators back to a saved state."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"][0].cpu())
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
