"""Which step every token of a segment has in the eyes of memory, and which step a write is stamped with.

`start [B]` is the index of the segment's first step within its episode, `num_steps` how many steps the segment has,
`tokens_per_step` how many tokens each step becomes. All results are int64.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor


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


class Mirrored:
    """The published code's dates: counted in tokens, and the *oldest* token of a segment has the largest.

    A write is dated by the largest. Kept to run published weights; it turns time round inside a segment.
    """

    def token_steps(self, start: Tensor, num_steps: int, tokens_per_step: int) -> Int[Tensor, "B T"]:
        tokens = torch.arange(num_steps * tokens_per_step, device=start.device)
        return (start * tokens_per_step).unsqueeze(1) + tokens.flip(0)

    def write_step(self, start: Tensor, num_steps: int, tokens_per_step: int) -> Int[Tensor, " B"]:
        return (start + num_steps) * tokens_per_step - 1


class DatedByStart:
    """The published code's dates with rotary positions: in tokens, ascending, a write dated by its first token."""

    def token_steps(self, start: Tensor, num_steps: int, tokens_per_step: int) -> Int[Tensor, "B T"]:
        tokens = torch.arange(num_steps * tokens_per_step, device=start.device)
        return (start * tokens_per_step).unsqueeze(1) + tokens

    def write_step(self, start: Tensor, num_steps: int, tokens_per_step: int) -> Int[Tensor, " B"]:
        return start * tokens_per_step
