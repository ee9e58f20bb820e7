"""Learning what an expert held of every action, not only which one it did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from elmur.batch import Reads, SegmentBatch
from elmur.heads import exact
from elmur.objectives.objective import Objective, WindowLoss, balance_of, check_choices, unroll
from elmur.sequence_model import SequenceModel


class Preferences(Objective):
    """Cross-entropy against the recorded preferences, each to the power 1 / temperature and made a distribution again.

    temperature: 1 leaves them as they were recorded, below 1 the best actions count for more, and at 0 nothing counts
    but the best, all those alike that are equal. action_share: of the distribution, what the expert's own action has
    beside; 1 is cloning. It says which of the best to choose, and so keeps a learner to the steps that it was shown.
    Log: `label_entropy`, the least that the loss can be.
    """

    reads = Reads(preferences=True)

    def __init__(self, temperature: float = 0.1, action_share: float = 0.0) -> None:
        super().__init__()
        for name, value in (("temperature", temperature), ("action_share", action_share)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be from 0 to 1; found {value}")
        self.temperature, self.action_share = temperature, action_share

    def prepare(self, model: SequenceModel) -> None:
        check_choices(model, "preferences are among choices")

    def window(
        self, model: SequenceModel, batch: SegmentBatch, segments: Sequence[SegmentBatch], memory: Any, keep: bool
    ) -> tuple[WindowLoss, Any]:
        outputs, memory = unroll(model, segments, memory, keep)
        losses, scores, entropies = [], [], []
        for segment, output in zip(segments, outputs, strict=True):
            if segment.preference is None:
                raise ValueError("Preferences learns from an expert's preferences, found a batch without them")
            held, mask = segment.preference, segment.loss_mask
            target = labels(held, segment.target, mask, self.temperature, self.action_share)
            losses.append(-(target * exact(output.prediction).log_softmax(dim=-1)).sum())
            entropies.append(-torch.xlogy(target, target).sum())
            chosen = output.prediction.detach().argmax(dim=-1, keepdim=True)
            scores.append(((held.gather(-1, chosen).squeeze(-1) == held.amax(dim=-1)) & mask).sum())
        loss, score, entropy = (sum(parts, start=parts[0].new_zeros(())) for parts in (losses, scores, entropies))
        terms = {"label_entropy": entropy}
        return WindowLoss(loss, score, balance_of(outputs), batch.loss_mask.sum(), terms), memory


def labels(
    held: Float[Tensor, "B T A"],
    action: Int[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    temperature: float,
    action_share: float,
) -> Float[Tensor, "B T A"]:
    """The distribution to learn at every step of `mask`, 0 at the others; float32 at least."""
    held = torch.where(mask.unsqueeze(-1), exact(held), 1.0)
    if temperature == 0:
        best = (held == held.amax(dim=-1, keepdim=True)).to(held.dtype)
        target = best / best.sum(dim=-1, keepdim=True)
    else:
        target = torch.softmax(held.log() / temperature, dim=-1)
    own = F.one_hot(action, held.shape[-1]).to(held.dtype)
    return torch.lerp(target, own, action_share) * mask.unsqueeze(-1)
