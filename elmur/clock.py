"""The step within the episode as a vector: for tasks whose answer depends on when it is asked."""

from __future__ import annotations

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
        self.register_buffer("frequencies", longest ** -(torch.arange(half) / half), persistent=False)
        self.frequencies: Tensor

    def forward(self, steps: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        weight = self.linear.weight
        dtype = at_least_float32(weight)
        angle = steps.unsqueeze(-1).to(dtype) * self.frequencies.to(dtype)
        out: Tensor = self.linear(torch.cat([angle.sin(), angle.cos()], dim=-1).to(weight.dtype))
        return out
