"""The external memory of one layer: its bank of slots, and the rules by which a segment is written into it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NEVER = -1  # `written_at` of a slot that was never written


@dataclass
class Memory:
    """One layer's bank: `slots [B, M, D]`, and `written_at [B, M]`, the step of each slot's last write (-1: never)."""

    slots: Float[Tensor, "B M D"]
    written_at: Int[Tensor, "B M"]

    @classmethod
    def initial(
        cls,
        batch_size: int,
        memory_size: int,
        d_model: int,
        init_std: float,
        generator: torch.Generator | None,
        device: torch.device | None = None,
    ) -> Memory:
        """Slots drawn from N(0, init_std^2), none of them written. `generator` is a CPU generator, on any device."""
        shape, device = (batch_size, memory_size, d_model), device or torch.device("cpu")
        slots = torch.zeros(shape, device=device) if init_std <= 0 else init_std * normal(shape, generator, device)
        return cls(slots, torch.full(shape[:2], NEVER, device=device))

    def to(self, like: Tensor) -> Memory:
        """The same bank on the device and in the number type of `like`."""
        return Memory(self.slots.to(like), self.written_at.to(like.device))


def normal(shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Numbers from N(0, 1) on the device, a function of the CPU generator's state alone: it is all that is saved.

    On the CPU they are the generator's own. Elsewhere it gives one number, the seed of the device's: nothing is copied
    or waited for, and a run that goes on on another device draws others, as reproducibly.
    """
    if device.type == "meta":  # only its size is asked
        return torch.empty(shape, device=device)
    if device.type == "cpu":
        return torch.randn(shape, generator=generator)
    return torch.randn(shape, generator=seeded_by(generator, device), device=device)


def seeded_by(generator: torch.Generator | None, device: torch.device) -> torch.Generator:
    """A generator of the device whose seed is the next number of a CPU generator."""
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    return torch.Generator(device).manual_seed(seed)


def least_recently_used(written_at: Int[Tensor, "B M"], count: int) -> Int[Tensor, "B count"]:
    """Indices of the `count` slots written longest ago; never-written slots come first, ties go to the lowest index."""
    return torch.argsort(written_at, dim=1, stable=True)[:, :count]


def rows(slots: Float[Tensor, "B M D"], index: Int[Tensor, "B W"]) -> Float[Tensor, "B W D"]:
    """The slots at `index`, in that order."""
    return slots.gather(1, index.unsqueeze(-1).expand(-1, -1, slots.shape[-1]))


def blend_into(
    memory: Memory,
    candidate: Float[Tensor, "B W D"],
    index: Int[Tensor, "B W"],
    step: Int[Tensor, "B one_or_W"],
    blend: Float[Tensor, "B W"],
) -> Memory:
    """The bank after blending `candidate` into the slots at `index`, the others untouched (paper, equation of §3.3):

    m_j <- blend * candidate + (1 - blend) * m_j,    written_at_j <- step
    """
    blended = torch.lerp(rows(memory.slots, index).to(candidate.dtype), candidate, blend.unsqueeze(-1))
    slots = memory.slots.scatter(1, index.unsqueeze(-1).expand_as(candidate), blended.to(memory.slots.dtype))
    return Memory(slots, memory.written_at.scatter(1, index, step.expand_as(index)))


@dataclass
class WritePlan:
    """What a rule decides of a write before there are candidates.

    index `[B, W]`: the slots for which candidates are computed, None for all of them. sees `[W, T]`: which of the
    segment's tokens each of these slots attends to, None for all. step: the date that they get, `[B, 1]`, or `[B, W]`
    where each has one of its own.
    """

    index: Int[Tensor, "B W"] | None
    sees: Bool[Tensor, "W T"] | None
    step: Int[Tensor, "B one_or_W"]


@runtime_checkable
class WriteRule(Protocol):
    """Which slots a segment is written to, from which of its tokens and dated how (`plan`), and how candidates enter.

    slots_per_write: how many slots a bank must have for it. copies: a candidate is the mean of the tokens that its slot
    sees, as the layer was given them; else a writer makes it of those that the layer gives.
    """

    slots_per_write: int
    copies: bool

    def plan(self, memory: Memory, steps: Int[Tensor, "B T"], write_step: Int[Tensor, " B"]) -> WritePlan:
        """For a segment whose tokens are of `steps`; a write at its end is dated `write_step`."""

    def commit(self, memory: Memory, candidate: Float[Tensor, "B W D"], plan: WritePlan) -> Memory:
        """The bank after the write; `candidate` in the order of `plan.index`."""


@dataclass(eq=False)
class LRU:
    """Blend into the least recently used slot (paper, §3.3): `lru_blend_alpha` 1 replaces it, 0 keeps what it holds.

    A never-written slot takes the candidate whole. slots_per_write: how many of the least recently used slots one
    segment is written to. divide_segment: each of them sees only its share of the segment's tokens, the first slot the
    first share, and is dated by its last step. Without it all of them see the same tokens at the same date, and nothing
    but noise tells them apart. As many slots as a segment has steps keep a whole segment, a step in each. copies: what
    is blended in are the tokens themselves, as the layer was given them, instead of what a writer makes of those that
    it gives; a bank that keeps whole segments is then the cache of Transformer-XL (Dai et al., 2019), with dates and a
    gradient through it.
    """

    lru_blend_alpha: float = 1.0
    slots_per_write: int = 1
    divide_segment: bool = False
    copies: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.lru_blend_alpha <= 1.0:
            raise ValueError(f"lru_blend_alpha must lie in 0..1; found {self.lru_blend_alpha}")
        if self.slots_per_write < 1:
            raise ValueError(f"slots_per_write must be 1 or more; found {self.slots_per_write}")
        if self.copies and self.slots_per_write > 1 and not self.divide_segment:
            raise ValueError(
                f"copies=true with slots_per_write={self.slots_per_write} would copy the same tokens into each slot: "
                "set divide_segment=true, or slots_per_write=1"
            )

    @property
    def blend(self) -> float:
        """The lambda of the equation in §3.3."""
        return self.lru_blend_alpha

    def plan(self, memory: Memory, steps: Int[Tensor, "B T"], write_step: Int[Tensor, " B"]) -> WritePlan:
        index = least_recently_used(memory.written_at, self.slots_per_write)
        if self.divide_segment:
            return WritePlan(index, *shares(steps, self.slots_per_write))
        return WritePlan(index, None, write_step.unsqueeze(1))

    def commit(self, memory: Memory, candidate: Float[Tensor, "B W D"], plan: WritePlan) -> Memory:
        assert plan.index is not None
        is_empty = memory.written_at.gather(1, plan.index) == NEVER
        blend = torch.full_like(plan.index, self.blend, dtype=candidate.dtype).masked_fill(is_empty, 1.0)
        return blend_into(memory, candidate, plan.index, plan.step, blend)


def shares(steps: Int[Tensor, "B T"], num_slots: int) -> tuple[Bool[Tensor, "W T"], Int[Tensor, "B W"]]:
    """A segment's tokens divided among the slots that are written, in order: what each sees, and its date.

    Token t lies in the share of slot floor(t W / T); the date is the last step of the share. Raises ValueError where
    there are fewer tokens than slots.
    """
    num_tokens = steps.shape[1]
    if num_slots > num_tokens:
        raise ValueError(
            f"slots_per_write={num_slots} with divide_segment needs as many tokens in a segment; found {num_tokens}: "
            "raise context_length or lower slots_per_write"
        )
    slot = torch.arange(num_slots, device=steps.device)
    owner = torch.arange(num_tokens, device=steps.device) * num_slots // num_tokens
    ends = -(-(slot + 1) * num_tokens // num_slots) - 1  # rounded up: the last token that slot w owns
    return owner == slot.unsqueeze(1), steps[:, ends]


class ReplaceAll:
    """Ablation "no LRU": every slot is replaced by its candidate at every segment."""

    slots_per_write, copies = 1, False

    def plan(self, memory: Memory, steps: Int[Tensor, "B T"], write_step: Int[Tensor, " B"]) -> WritePlan:
        return WritePlan(None, None, write_step.unsqueeze(1))

    def commit(self, memory: Memory, candidate: Float[Tensor, "B M D"], plan: WritePlan) -> Memory:
        return Memory(candidate.to(memory.slots.dtype), plan.step.expand_as(memory.written_at))


def never() -> None:
    """No rule at all: the ablation in which memory is never written."""


def every_slot(memory: Memory) -> None:
    """Rule of reading: tokens see all slots, the noise of those that were never written too."""
    return None


def written_slots(memory: Memory) -> Bool[Tensor, "B M"]:
    """Rule of reading: which slots hold something; tokens see no others."""
    return memory.written_at != NEVER
