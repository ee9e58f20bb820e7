"""Learning from transitions: which step follows which, and a target network that follows the model."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from elmur.batch import Reads, SegmentBatch
from elmur.heads import Head
from elmur.objectives.objective import Objective, WindowLoss, balance_of, unroll
from elmur.sequence_model import SequenceModel


class FeatureHead(Head):
    """A head whose prediction is the trunk's features themselves: critics and actor are functions of them."""

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return x

    def loss(self, prediction: Tensor, action: Tensor, mask: Tensor, label_smoothing: float) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} is trained by its objective, not by cloning")


@dataclass
class Transitions:
    """The steps of a window with what followed them; x: features `[B, T, D]`, `next_` of the step after each.

    x is the model's, with gradient; target_x, next_x and target_next_x are without. reward `[B, T]`. mask: real steps.
    goes_on: the step that follows is known. known: that, or nothing is earned after the step: the episode ended in a
    terminal state. An episode that was cut short has a last step whose successor was never recorded: it is in `mask`,
    and not in `known`.
    """

    x: Tensor
    target_x: Tensor
    next_x: Tensor
    target_next_x: Tensor
    action: Tensor
    reward: Float[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]
    goes_on: Bool[Tensor, "B T"]
    known: Bool[Tensor, "B T"]

    def backup(self, next_value: Float[Tensor, "B T"], discount: float) -> Float[Tensor, "B T"]:
        """r + discount * V(s'), and r alone at a terminal state; no gradient, and of meaning where `known`."""
        return (self.reward + discount * next_value * self.goes_on).detach()

    def total(self, per_step: Float[Tensor, "B T"], where: Bool[Tensor, "B T"]) -> Tensor:
        """The sum over some steps."""
        return per_step.masked_fill(~where, 0.0).sum()


class TransitionObjective(Objective):
    """A loss on transitions, with critics as heads on the model's features and an averaged copy of both as target.

    The copy, trunk and heads, goes through the windows beside the model and carries its own memory; it is in eval mode
    and follows every update by `target_rate` (Polyak averaging). A step's successor is the next step, across the
    borders of segments and, by the one step that is read beyond a window, across the borders of windows.

    discount: gamma. hidden_layers: widths of the critics' layers.
    """

    reads = Reads(transitions=True)

    def __init__(self, discount: float, target_rate: float, hidden_layers: Sequence[int], head: str) -> None:
        super().__init__()
        if not 0 <= discount <= 1:
            raise ValueError(f"discount must be from 0 to 1; found {discount}")
        if not 0 < target_rate <= 1:
            raise ValueError(f"target_rate must be above 0 and at most 1; found {target_rate}")
        if any(width < 1 for width in hidden_layers):
            raise ValueError(f"hidden_layers must be widths of 1 or more; found {list(hidden_layers)}")
        self.discount, self.target_rate = discount, target_rate
        self.head = {"_target_": head, "hidden_layers": list(hidden_layers)}
        self.target: SequenceModel

    def prepare(self, model: SequenceModel) -> None:
        self.target = copy.deepcopy(model).requires_grad_(False)

    def initial_memory(self, model: SequenceModel, lanes: int, noise: torch.Generator) -> Any:
        """The memory of the model and of its target, which begin with the same noise."""
        state = noise.get_state()
        target = self.target.initial_memory(lanes, noise)
        noise.set_state(state)
        return {"model": model.initial_memory(lanes, noise), "target": target}

    @abstractmethod
    def losses(self, model: SequenceModel, steps: Transitions) -> dict[str, Tensor]:
        """Sums over the window's steps by name; their sum is minimised."""

    def window(
        self, model: SequenceModel, batch: SegmentBatch, segments: Sequence[SegmentBatch], memory: Any, keep: bool
    ) -> tuple[WindowLoss, Any]:
        if (came := batch.outcome) is None:
            raise ValueError(
                f"{type(self).__name__} learns from transitions, found a batch without rewards; set reads of "
                "the datamodule to Reads(transitions=True)"
            )
        outputs, after = unroll(model, segments, memory["model"], keep)
        x = torch.cat([output.prediction for output in outputs], dim=1)
        self.target.eval()  # whatever mode the module as a whole was put in
        with torch.no_grad():
            target_outputs, target_after = unroll(self.target, segments, memory["target"], keep)
            target_x = torch.cat([output.prediction for output in target_outputs], dim=1)
            last = [net(came.after, state, write=False)[0].prediction for net, state in (
                (model, after), (self.target, target_after))]  # fmt: skip
        goes_on = torch.cat([batch.mask[:, 1:], came.after.mask], dim=1) & batch.mask
        ends = batch.mask & ~goes_on & came.terminated.unsqueeze(1)
        steps = Transitions(
            x=x,
            target_x=target_x,
            next_x=torch.cat([x.detach()[:, 1:], last[0]], dim=1),
            target_next_x=torch.cat([target_x[:, 1:], last[1]], dim=1),
            action=batch.action,
            reward=came.reward,
            mask=batch.mask,
            goes_on=goes_on,
            known=goes_on | ends,
        )
        losses = self.losses(model, steps)
        score = model.head.score(x.detach(), batch.action, batch.mask)
        loss = torch.stack(list(losses.values())).sum()
        terms = {name: value.detach() for name, value in losses.items()}
        carried = {"model": after, "target": target_after}
        return WindowLoss(loss, score, balance_of(outputs), batch.mask.sum(), terms), carried

    @torch.no_grad()
    def after_update(self, model: SequenceModel) -> None:
        """Let the target follow: target += target_rate * (model - target)."""
        for mine, new in zip(self.target.parameters(), model.parameters(), strict=True):
            mine.lerp_(new, self.target_rate)
