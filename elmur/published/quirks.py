"""What the published code does otherwise than its paper or the field: needed for its weights and for its numbers alone.

Each is a class or function beside ours of the same role, chosen in the configuration (`experiment=published_numerics`).
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from elmur.memory import LRU, Memory, ReplaceAll, WritePlan, blend_into, least_recently_used, rows
from elmur.positional import Relative


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


class PublishedRelative(Relative):
    """The published code's form: distances offset by the segment's place in the episode, scores rounded to float32."""

    def codes(self, num_tokens: int, start_token: Int[Tensor, " B"], like: Tensor) -> Float[Tensor, "b T D"]:
        """One row, or one per lane where lanes are at different places; on a GPU and in an export one per lane always.

        To ask a GPU would be to wait for it, and an exported program cannot ask. The rows are the same; dropout then
        draws for every lane by itself.
        """
        may_ask = start_token.device.type == "cpu" and not torch.compiler.is_exporting()
        same = may_ask and bool((start_token == start_token[0]).all())
        start = start_token[:1] if same else start_token
        return self.sinusoids(torch.arange(num_tokens - 1, -1, -1, device=like.device) + start.unsqueeze(1), like)

    def rotate(self, q: Tensor, k: Tensor, first: int) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(q), k  # the content scores stand in score_bias, to be rounded with the rest

    def score_bias(self, q: Tensor, k: Tensor, projected: Tensor | None, first: int) -> Tensor:
        content: Tensor = (q + self.content_bias.unsqueeze(1)) @ k.transpose(2, 3) * q.shape[-1] ** -0.5
        return (content + super().score_bias(q, k, projected, first)).float().to(q.dtype)


class PublishedLRU(LRU):
    """The published code's write: it blends into never-written slots too, and computes candidates for all slots.

    The slots come out as they would without the latter; a balance loss of a mixture of experts counts every slot.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.divide_segment or self.copies:
            name = "divide_segment" if self.divide_segment else "copies"
            raise ValueError(f"{name}: shares are those of written slots, the published code has candidates for all")

    def plan(self, memory: Memory, steps: Int[Tensor, "B T"], write_step: Int[Tensor, " B"]) -> WritePlan:
        return WritePlan(None, None, write_step.unsqueeze(1))

    def commit(self, memory: Memory, candidate: Float[Tensor, "B M D"], plan: WritePlan) -> Memory:
        index = least_recently_used(memory.written_at, self.slots_per_write)
        blend = torch.full_like(index, self.blend, dtype=candidate.dtype)
        return blend_into(memory, rows(candidate, index), index, plan.step, blend)


class PublishedReplaceAll(ReplaceAll):
    """The published code without LRU: every slot is replaced and none is dated."""

    def commit(self, memory: Memory, candidate: Float[Tensor, "B M D"], plan: WritePlan) -> Memory:
        return replace(super().commit(memory, candidate, plan), written_at=memory.written_at)


def adamw_on_all(
    model: nn.Module,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 1e-4,
    fused: bool = True,
) -> torch.optim.AdamW:
    """AdamW that decays norms, biases and embeddings too."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(parameters, lr=lr, betas=(betas[0], betas[1]), weight_decay=weight_decay, fused=fused)


class PublishedTokenCosine:
    """The published code's rule, driven by the number of steps trained on rather than by updates.

    Linear to `warmup_steps`, then a cosine that reaches `lr_end_factor` towards `final_tokens` and, not being clamped
    there, rises again. The very first update takes the full rate, since the rule is applied after an update.
    """

    def __init__(self, warmup_steps: int, final_tokens: int, lr_end_factor: float) -> None:
        self.warmup, self.final, self.floor = warmup_steps, final_tokens, lr_end_factor

    def __call__(self, updates: int, steps: int | Tensor) -> float:
        if updates == 0:
            return 1.0
        steps = int(steps)
        if steps < self.warmup:
            return steps / max(1, self.warmup)
        progress = (steps - self.warmup) / max(1, self.final - self.warmup)
        return max(self.floor, 0.5 * (1 + math.cos(math.pi * progress)))
