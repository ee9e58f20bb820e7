"""Cloning with class weights of inverse frequency: rare actions count as much as frequent ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from elmur import ranks
from elmur.batch import SegmentBatch
from elmur.heads import exact
from elmur.objectives.objective import Cloning, WindowLoss, balance_of, check_choices, unroll
from elmur.sequence_model import SequenceModel


class Balanced(Cloning):
    """Class-weighted cross-entropy: a step's weight is its action's frequency in the window, to the power -`power`.

    power: 0 is cloning; at 1 all actions that occur in a window have the same share of its loss, so that the one turn
    of a long corridor is not lost among its steps ahead. The weights' mean is 1. A window is the lanes of all ranks.
    """

    def __init__(self, power: float = 1.0, label_smoothing: float = 0.0) -> None:
        super().__init__(label_smoothing)
        if not 0 <= power <= 1:
            raise ValueError(f"power must be from 0 to 1; found {power}")
        self.power = power

    def prepare(self, model: SequenceModel) -> None:
        check_choices(model, "balanced cloning counts choices")

    def window(
        self, model: SequenceModel, batch: SegmentBatch, segments: Sequence[SegmentBatch], memory: Any, keep: bool
    ) -> tuple[WindowLoss, Any]:
        outputs, memory = unroll(model, segments, memory, keep)
        target, mask = batch.target, batch.loss_mask
        logits = torch.cat([output.prediction for output in outputs], dim=1)
        surprise = F.cross_entropy(
            exact(logits).flatten(0, 1), target.flatten(), label_smoothing=self.label_smoothing, reduction="none"
        ).view(mask.shape)
        loss = (surprise * step_weights(target, mask, logits.shape[-1], self.power)).sum()
        score = model.head.score(logits.detach(), target, mask)
        return WindowLoss(loss, score, balance_of(outputs), mask.sum(), {}), memory


def step_weights(
    action: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"], actions: int, power: float
) -> Float[Tensor, "B T"]:
    """The weight of every step of `mask`, of mean 1 over them and those of all ranks; 0 elsewhere."""
    counts = ranks.total((F.one_hot(action, actions) * mask.unsqueeze(-1)).sum(dim=(0, 1)))
    weight = counts.clamp(min=1).to(torch.float32).pow(-power)[action] * mask
    steps, summed = ranks.total(torch.stack([mask.sum().to(weight.dtype), weight.sum()]))
    return weight * (steps / summed.clamp(min=torch.finfo(weight.dtype).tiny))
