"""The external memory of one layer: its bank of slots, and the rules by which a segment is written into it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

NEVER = -1  # `written_at` of a slot that was never written


@dataclass
class Memory:
    """One layer's bank: `slots [B, M, D]`, and `written_at [B, M]`, the step of each slot's last write (-1: never)."""

    slots: Float[Tensor, "B M D"]
    written_at: Int[Tensor, "B M"]

    @classmethod
    def initial(
        cls, batch_size: int, memory_size: int, d_model: int, init_std: float, generator: torch.Generator | None
    ) -> Memory:
        """Slots drawn from N(0, init_std^2), none of them written. `generator` is a CPU generator."""
        slots = torch.zeros(batch_size, memory_size, d_model)
        if init_std > 0:
            slots = init_std * torch.randn(batch_size, memory_size, d_model, generator=generator)
        return cls(slots, torch.full((batch_size, memory_size), NEVER))

    def to(self, like: Tensor) -> Memory:
        """The same bank on the device and in the number type of `like`."""
        return Memory(self.slots.to(like), self.written_at.to(like.device))


def least_recently_used(written_at: Int[Tensor, "B M"], count: int) -> Int[Tensor, "B count"]:
    """Indices of the `count` slots written longest ago; never-written slots come first, ties go to the lowest index."""
    return torch.argsort(written_at, dim=1, stable=True)[:, :count]


def lru_write(
    memory: Memory,
    candidate: Float[Tensor, "B W D"],
    index: Int[Tensor, "B W"],
    step: Int[Tensor, "B one_or_W"],
    blend: float,
    replace_empty: bool = True,
) -> Memory:
    """The bank after blending `candidate` into the slots at `index`, the others untouched (paper, equation of §3.3):

        m_j <- blend * candidate + (1 - blend) * m_j,    written_at_j <- step

    and, with `replace_empty`, m_j <- candidate where slot j was never written.
    """
    old = memory.slots.gather(1, index.unsqueeze(-1).expand_as(candidate))
    weight = torch.full_like(index, blend, dtype=candidate.dtype)
    if replace_empty:
        weight = torch.where(memory.written_at.gather(1, index) == NEVER, 1.0, weight)
    blended = torch.lerp(old.to(candidate.dtype), candidate, weight.unsqueeze(-1))
    slots = memory.slots.scatter(1, index.unsqueeze(-1).expand_as(candidate), blended.to(memory.slots.dtype))
    written_at = memory.written_at.scatter(1, index, step.expand_as(index))
    return Memory(slots, written_at)


@runtime_checkable
class WriteRule(Protocol):
    """Which slots a segment is written to (`select`), and how the candidates enter them (`commit`)."""

    def select(self, memory: Memory) -> Int[Tensor, "B W"] | None:
        """Slots for which a candidate must be computed; None for all of them."""

    def commit(self, memory: Memory, candidate: Tensor, index: Tensor | None, step: Tensor) -> Memory:
        """The bank after the write; `step [B, 1]`, or `[B, W]` where every written slot has a date of its own."""


class LRU:
    """Blend into the least recently used slot (paper, §3.3): `lru_blend_alpha` 1 replaces it, 0 keeps what it holds.

    slots_per_write: how many of the least recently used slots one segment is written to.
    divide_segment: each of them sees only its share of the segment's tokens, the first slot the first share, and is
        dated by its last step. Without it all of them see the same tokens at the same date, and nothing but noise
        tells them apart. As many slots as a segment has steps keep a whole segment, a step in each.
    replace_empty: a never-written slot takes the candidate whole; the published code blends there too (false).
    all_candidates: compute candidates for all slots although only some are written. The slots come out the same;
        only the balance loss of a mixture of experts then counts every slot, as the published code does.
    """

    def __init__(
        self,
        lru_blend_alpha: float = 1.0,
        slots_per_write: int = 1,
        replace_empty: bool = True,
        all_candidates: bool = False,
        divide_segment: bool = False,
    ) -> None:
        if not 0.0 <= lru_blend_alpha <= 1.0:
            raise ValueError(f"lru_blend_alpha must lie in 0..1; found {lru_blend_alpha}")
        if slots_per_write < 1:
            raise ValueError(f"slots_per_write must be 1 or more; found {slots_per_write}")
        if divide_segment and all_candidates:
            raise ValueError("divide_segment and all_candidates exclude each other: shares are those of written slots")
        self.blend = lru_blend_alpha
        self.divide_segment = divide_segment
        self.slots_per_write = slots_per_write
        self.replace_empty = replace_empty
        self.all_candidates = all_candidates

    def select(self, memory: Memory) -> Int[Tensor, "B W"] | None:
        if self.all_candidates:
            return None
        return least_recently_used(memory.written_at, self.slots_per_write)

    def commit(self, memory: Memory, candidate: Tensor, index: Tensor | None, step: Tensor) -> Memory:
        if index is None:
            index = least_recently_used(memory.written_at, self.slots_per_write)
            candidate = candidate.gather(1, index.unsqueeze(-1).expand(-1, -1, candidate.shape[-1]))
        return lru_write(memory, candidate, index, step, self.blend, self.replace_empty)


class ReplaceAll:
    """Ablation "no LRU": every slot is replaced by its candidate at every segment.

    stamp: set `written_at` to the step of the write; the published code leaves it at "never" (false).
    """

    def __init__(self, stamp: bool = True) -> None:
        self.stamp = stamp

    def select(self, memory: Memory) -> None:
        return None

    def commit(self, memory: Memory, candidate: Tensor, index: Tensor | None, step: Tensor) -> Memory:
        written_at = step.expand_as(memory.written_at) if self.stamp else memory.written_at
        return Memory(candidate.to(memory.slots.dtype), written_at)


def never() -> None:
    """No rule at all: the ablation in which memory is never written."""
