"""The step within the episode as a vector: for tasks whose answer depends on when it is asked."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from elmur.positional import at_least_float32


class EpisodeClock(nn.Module):
    """A learned map of sinusoids of the step: `[B, T]` int64 -> `[B, T, D]`; waves of 2 pi to 2 pi * `longest` steps.

    Tokens, and the slots that are written from them, then know their time: a step can ask for what happened at another
    one that is fixed by the clock ("the card at step 104 - t" is a linear map of these sinusoids). A policy with a
    clock knows no time that it has not been trained on; tasks of unlimited length go without.
    """

    def __init__(self, d_model: int, longest: float = 1000.0) -> None:
        super().__init__()
        self.linear = nn.Linear(d_model, d_model)
        half = d_model // 2
        self.frequencies = nn.Buffer(longest ** -(torch.arange(half) / half), persistent=False)

    def forward(self, steps: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        weight = self.linear.weight
        dtype = at_least_float32(weight)
        angle = steps.unsqueeze(-1).to(dtype) * self.frequencies.to(dtype)
        return self.linear(torch.cat([angle.sin(), angle.cos()], dim=-1).to(weight.dtype))


@runtime_checkable
class StepRule(Protocol):
    """How tokens and writes are dated."""

    def token_steps(self, start: Tensor, num_steps: int, tokens_per_step: int) -> Int[Tensor, "B T"]:
        """The step of every token, `T = num_steps * tokens_per_step`."""

    def write_step(self, start: Tensor, num_steps: int, tokens_per_step: int) -> Int[Tensor, " B"]:
        """The step that a write at the end of this segment is stamped with."""


class Chronological:
    """True environment steps: the oldest token has the smallest, a write is dated by the segment's last step."""

    def token_steps(self, start: Tensor, num_steps: int, tokens_per_step: int) -> Int[Tensor, "B T"]:
        tokens = torch.arange(num_steps * tokens_per_step, device=start.device)
        return start.unsqueeze(1) + tokens // tokens_per_step

    def write_step(self, start: Tensor, num_steps: int, tokens_per_step: int) -> Int[Tensor, " B"]:
        return start + num_steps - 1
