"""The contract of learning: a window of segments and the memory it begins with -> a loss and the memory after it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from elmur.batch import Reads, SegmentBatch
from elmur.build import build
from elmur.heads import CategoricalHead
from elmur.sequence_model import Output, SequenceModel
from elmur.spec import TaskSpec


class WindowLoss(NamedTuple):
    """What a window teaches: sums over its counted steps, whose number the module divides them by.

    loss: to be minimised. score: how well actions were met, no gradient. balance: mean balance loss of its segments,
    None where there is none. counted: how many steps. terms: what the loss is made of, for the log, no gradient.
    """

    loss: Tensor
    score: Tensor
    balance: Tensor | None
    counted: Tensor
    terms: Mapping[str, Tensor]


class Objective(nn.Module, ABC):
    """How a model learns from a window.

    reads: what it needs of the data. head: the configuration of the head that it gives to the model, a call with
    `spec` and `d_model`; None keeps the model's own. label_smoothing: of cross-entropy, where it has one.
    """

    reads = Reads()
    head: dict[str, Any] | None = None
    label_smoothing = 0.0

    def prepare(self, model: SequenceModel) -> None:
        """Called once when the model is made, before any weights are loaded."""

    def initial_memory(self, model: SequenceModel, lanes: int, noise: torch.Generator) -> Any:
        """What is carried from window to window, at the beginning of an episode: a state (`elmur.state`)."""
        return model.initial_memory(lanes, noise)

    @abstractmethod
    def window(
        self, model: SequenceModel, batch: SegmentBatch, segments: Sequence[SegmentBatch], memory: Any, keep: bool
    ) -> tuple[WindowLoss, Any]:
        """The loss of a window and the memory after it. keep: whether that memory is needed."""

    def after_update(self, model: SequenceModel) -> None:
        """Called after every update of the weights."""


def unroll(model: SequenceModel, segments: Sequence[SegmentBatch], memory: Any, keep: bool) -> tuple[list[Output], Any]:
    """The outputs of consecutive segments and the memory after the last, which is made only where it is to be kept."""
    outputs = []
    for number, segment in enumerate(segments, start=1):
        last = number == len(segments)
        output, memory = model(segment, memory, write=keep or not last, write_grad=not last or model.write_has_loss)
        outputs.append(output)
    return outputs, memory


def balance_of(outputs: Sequence[Output]) -> Tensor | None:
    """The mean balance loss of the segments that have one."""
    known = [output.balance_loss for output in outputs if output.balance_loss is not None]
    return torch.stack(known).mean() if known else None


def check_choices(model: SequenceModel, what: str) -> None:
    """Raises ValueError for a model whose actions are no choices. what: why the objective needs them."""
    if not isinstance(model.head, CategoricalHead):
        raise ValueError(
            f"{what}, and {type(model).__name__} ends in a {type(model.head).__name__} for the actions of "
            f"{model.spec.name}; use module=imitation"
        )


def with_head(
    model: Callable[..., SequenceModel], head: Mapping[str, Any] | None, path: str = "head"
) -> Callable[[TaskSpec], SequenceModel]:
    """What builds the model for a task with the head of an objective; `head` as a checkpoint keeps it, None: its own.

    path: how the configuration of the head is called in errors.
    """

    def built(spec: TaskSpec) -> SequenceModel:
        made = model(spec=spec)
        if head is None:
            return made
        if made.head.generative:
            raise ValueError(
                f"{type(made).__name__} generates actions from noise, which cloning alone trains, found "
                f"{head.get('_target_')}; use module=imitation or module=filtered, or another model"
            )
        made.head = build({**head}, path, "head", spec=spec, d_model=made.head.d_model)
        return made

    return built


class Cloning(Objective):
    """Imitation: the model's own head's loss on the recorded actions (cross-entropy or squared error)."""

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be 0 or more and below 1; found {label_smoothing}")
        self.label_smoothing = label_smoothing

    def window(
        self, model: SequenceModel, batch: SegmentBatch, segments: Sequence[SegmentBatch], memory: Any, keep: bool
    ) -> tuple[WindowLoss, Any]:
        outputs, memory = unroll(model, segments, memory, keep)
        losses, scores = [], []
        for segment, output in zip(segments, outputs, strict=True):
            target, mask = segment.target, segment.loss_mask
            losses.append(model.head.loss(output.prediction, target, mask, self.label_smoothing))
            scores.append(model.head.score(output.prediction.detach(), target, mask))
        loss, score = (sum(parts, start=parts[0].new_zeros(())) for parts in (losses, scores))
        return WindowLoss(loss, score, balance_of(outputs), batch.loss_mask.sum(), {}), memory


class Filtered(Cloning):
    """Cloning of the best episodes alone: the share `fraction` of all with the highest returns (10 % BC).

    Chen et al. 2021, Decision Transformer, section 5. Of equal returns the earlier episode is taken.
    """

    def __init__(self, fraction: float = 0.1, label_smoothing: float = 0.0) -> None:
        super().__init__(label_smoothing)
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction must be above 0 and at most 1; found {fraction}")
        self.reads = Reads(best_fraction=fraction)
