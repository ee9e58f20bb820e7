"""Action heads: a head owns everything that depends on the kind of action: predicting, acting, loss."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from elmur.draws import Draws
from elmur.spec import Discrete, TaskSpec, Vector


class Head(nn.Module, ABC):
    """What turns features `[B, T, d_model]` into a prediction for every step, and a prediction into actions and a loss.

    generative: actions are generated from noise, so that acting draws even where the likeliest action is asked for.
    """

    generative = False

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.d_model = d_model

    @abstractmethod
    def act(self, prediction: Tensor, draws: Draws | None) -> Tensor:
        """Actions of one step, `[B]` or `[B, A]`: the likeliest; drawn where random numbers are given."""

    @abstractmethod
    def loss(self, prediction: Tensor, action: Tensor, mask: Tensor, label_smoothing: float) -> Tensor:
        """The loss of imitating `action`, summed over the steps where `mask` is true."""

    @abstractmethod
    def score(self, prediction: Tensor, action: Tensor, mask: Tensor) -> Tensor:
        """How well the prediction meets `action`, more being better, summed over the steps where `mask` is true."""


class CategoricalHead(Head):
    """One logit per action (no bias, as published); cross-entropy with label smoothing."""

    def __init__(self, d_model: int, action: Discrete) -> None:
        super().__init__(d_model)
        self.linear = nn.Linear(d_model, action.sizes[0], bias=False)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T A"]:
        return self.linear(x)

    def act(self, logits: Float[Tensor, "B A"], draws: Draws | None) -> Int[Tensor, " B"]:
        """The likeliest action; one drawn from the softmax where random numbers are given."""
        return logits.argmax(dim=-1) if draws is None else draws.choice(logits)

    def loss(
        self, logits: Tensor, action: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"], label_smoothing: float
    ) -> Float[Tensor, ""]:
        """Cross-entropy summed over the steps where `mask` is true; the caller divides by their number."""
        target = action.masked_fill(~mask, -100)
        return F.cross_entropy(
            logits.flatten(0, 1), target.flatten(), ignore_index=-100, label_smoothing=label_smoothing, reduction="sum"
        )

    def score(self, logits: Tensor, action: Tensor, mask: Tensor) -> Int[Tensor, ""]:
        """How many of the masked steps' actions are the likeliest ones."""
        return ((logits.argmax(dim=-1) == action) & mask).sum()


class ContinuousHead(Head):
    """One number per action dimension; where the action is bounded, tanh scaled to the bounds. Masked squared error."""

    def __init__(self, d_model: int, action: Vector) -> None:
        super().__init__(d_model)
        self.linear = nn.Linear(d_model, action.size)
        self.bounded = action.low is not None and action.high is not None
        self.middle, self.reach = middle_and_reach(action)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T A"]:
        out: Tensor = self.linear(x)
        return self.middle + self.reach * torch.tanh(out) if self.bounded else out

    def act(self, prediction: Float[Tensor, "B A"], draws: Draws | None) -> Float[Tensor, "B A"]:
        """The prediction itself: nothing is drawn."""
        return prediction.float()

    def loss(
        self, prediction: Tensor, action: Float[Tensor, "B T A"], mask: Bool[Tensor, "B T"], label_smoothing: float
    ) -> Float[Tensor, ""]:
        """Squared error, mean over the action's dimensions, summed over the steps where `mask` is true."""
        error = (prediction.float() - action).square().mean(dim=-1)
        return (error * mask).sum()

    def score(self, prediction: Tensor, action: Tensor, mask: Tensor) -> Float[Tensor, ""]:
        """Minus the absolute error, mean over dimensions, summed over the masked steps."""
        return -((prediction - action).abs().mean(dim=-1) * mask).sum()


def middle_and_reach(action: Vector) -> tuple[nn.Buffer, nn.Buffer]:
    """Half the sum and half the difference of an action's bounds, `[A]`; 0 and 1 where it has none."""
    low = torch.tensor(action.low or [-1.0] * action.size)
    high = torch.tensor(action.high or [1.0] * action.size)
    return nn.Buffer((high + low) / 2, persistent=False), nn.Buffer((high - low) / 2, persistent=False)


def head_for(spec: TaskSpec, d_model: int) -> CategoricalHead | ContinuousHead:
    """The head that fits the task's action."""
    if isinstance(spec.action, Discrete):
        return CategoricalHead(d_model, spec.action)
    return ContinuousHead(d_model, spec.action)


def exact(values: Tensor) -> Tensor:
    """In float32 at least: what losses are computed in, also under autocast."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
