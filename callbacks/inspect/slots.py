"""What a run's slots go through: findings in words, by running the write rule without any weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from callbacks.inspect.regime import Carried, Finding, Regime, plural
from elmur.memory import LRU, NEVER, Memory, WriteRule
from elmur.model import MemoryDesign

FORGOTTEN = 0.01  # a share that counts as nothing, in the published formula's horizon
ROUNDS = 3  # of writing to every slot, after which nothing new happens


@dataclass(frozen=True)
class Slots:
    """What a write rule does with a bank over an episode, found by running it on a bank of width 1.

    first_rewrite: the first segment whose write meets a slot that an earlier one wrote, None where none does.
    blends_from: the first segment that reads what the blend factor changes, None where none does. per_write: slots that
    one segment writes. written: slots that hold something when the last segment is read.
    """

    first_rewrite: int | None
    blends_from: int | None
    per_write: int
    written: int

    @property
    def blends(self) -> bool:
        """Whether the blend factor changes anything that is read."""
        return self.blends_from is not None

    @classmethod
    def of(cls, carried: Carried, regime: Regime, segments: int | None = None) -> Slots:
        """Of an episode of so many segments, of which the last is read and its write is read no more; None: of any."""
        design = carried.design
        assert design is not None and design.write is not None
        at_once = min(design.memory_size, carried.writers * design.write.slots_per_write)
        enough = ROUNDS * -(-design.memory_size // at_once) + 1
        number = enough if segments is None else min(segments, enough)
        lives = [list(life(carried, rule, regime, number)) for rule in alternatives(design.write)]
        steps = [torch.stack(life) for life in lives]
        changed = (steps[0][1:] != steps[0][:-1]).squeeze(-1)
        before = torch.cumsum(changed.long(), 0) - changed.long()
        again = (changed & (before > 0)).any(1).nonzero()
        differs = (steps[0] != steps[-1]).flatten(1).any(1).nonzero()
        return cls(
            first_rewrite=int(again[0]) if len(again) else None,
            blends_from=int(differs[0]) if len(differs) else None,
            per_write=int(changed[0].sum()) if len(changed) else at_once,
            written=int(changed.any(0).sum()),
        )


def alternatives(rule: WriteRule) -> list[WriteRule]:
    """The rule with two other blend factors, or the rule alone where it has none."""
    found = [copy.copy(rule) for _ in range(2 if isinstance(rule, LRU) else 1)]
    for one, blend in zip(found, (0.5, 1.0), strict=False):
        if isinstance(one, LRU):
            one.lru_blend_alpha = blend
    return found


def life(carried: Carried, rule: WriteRule, regime: Regime, segments: int) -> Iterator[torch.Tensor]:
    """The slots `[M, 1]` as each segment reads them; every writer of every segment writes a number of its own."""
    design, length = carried.design, regime.context_length
    assert design is not None
    size = design.memory_size
    memory = Memory(torch.full((1, size, 1), -1.0), torch.full((1, size), NEVER))
    for number in range(segments):
        yield memory.slots[0].clone()
        start = torch.tensor([number * length])
        steps, date = design.steps.token_steps(start, length, 1), design.steps.write_step(start, length, 1)
        for writer in range(carried.writers):
            plan = rule.plan(memory, steps, date)
            written = size if plan.index is None else plan.index.shape[1]
            said = number * carried.writers + writer + 1.0
            memory = rule.commit(memory, torch.full((1, written, 1), said), plan)


def slots(regime: Regime, carried: Carried) -> Iterator[Finding]:
    """What the slots of ELMUR's memory go through, in training and in the longest episode that is acted in."""
    design = carried.design
    if design is None or max(regime.segments, regime.segments_acted) < 2:
        return
    if design.write is None:
        held = "the slots are noise to the end" if reads_noise(design) else "and what is not written is not read"
        yield Finding("writes", f"Memory is never written: {held}.", "model/write=lru", True)
        return
    trained = Slots.of(carried, regime, regime.segments)
    acted = Slots.of(carried, regime, regime.segments_acted)
    yield from written(design, carried, trained, regime)
    if not design.read:
        yield Finding("reads", "Memory is never read.", "model.memory.read", True)
    yield from rewriting(design, acted, regime)
    if isinstance(design.write, LRU):
        needed = Slots.of(carried, regime).blends_from
        yield from blending(design.write.blend, needed, design.memory_size, trained, acted, regime)


def reads_noise(design: MemoryDesign) -> bool:
    """Whether tokens see slots that were never written."""
    return design.read and design.read_unwritten and not design.joint


def written(design: MemoryDesign, carried: Carried, trained: Slots, regime: Regime) -> Iterator[Finding]:
    """How often each slot is written, and how many never are."""
    size, reads = design.memory_size, regime.segments - 1
    each = reads * trained.per_write / size
    yield Finding(
        "writes",
        f"{plural(size, 'slot')} {carried.whose}, of which a segment writes {trained.per_write}: {each:.3g} writes per "
        f"slot in a training episode that are read later, "
        f"{(regime.segments_acted - 1) * trained.per_write / size:,.3g} in the longest that is acted in.",
        "model.memory.memory_size",
    )
    if trained.written < size and reads:
        noise = "tokens read noise there" if reads_noise(design) else "they are not read"
        yield Finding(
            "writes",
            f"{size - trained.written} of {size} slots are never written in a training episode: {noise}; "
            f"{trained.written} slots are as many as are used.",
            f"model.memory.memory_size={trained.written}",
            warns=trained.written < size / 2,
        )


def rewriting(design: MemoryDesign, acted: Slots, regime: Regime) -> Iterator[Finding]:
    """Whether a slot that was written before is written again under the loss, if acting does that."""
    first, rule = acted.first_rewrite, design.write
    if first is None or first > regime.segments_acted - 2 or (isinstance(rule, LRU) and rule.blend == 0):
        return
    unknown = regime.horizon is None and regime.backprop_segments > 1
    if unknown or under_loss(first, regime.segments, regime.backprop_segments):
        return
    yield Finding(
        "rewriting",
        f"Acting overwrites slots that hold something (from segment {first + 1} on), but no such write lies under the "
        f"loss: it is not learned, and what lasts is luck. It would take {lacking(rule, first, regime)}.",
        "module.context_length, data.backprop_segments",
        warns=True,
    )


def under_loss(first: int, segments: int, window: int) -> bool:
    """Whether a write of segment `first` or later is read in the window that it lies in."""
    return any(segment % window != window - 1 for segment in range(first, segments - 1))


def lacking(rule: WriteRule | None, first: int, regime: Regime) -> str:
    """The least change of windows, or else of segments too, by which a write of segment `first` or later is learned."""
    if regime.horizon is None:
        return "windows of 2 segments"
    if regime.segments > first + 1:
        return f"windows of {least_window(first, regime.segments, 2)} segments"
    length, window = (regime.horizon - 1) // (first + 1), regime.backprop_segments
    if length < (rule.slots_per_write if isinstance(rule, LRU) and rule.divide_segment else 1):
        return "longer episodes in training, or fewer slots"
    least = least_window(first, -(-regime.horizon // length), window)
    more = "" if least == window else f" and windows of {least} segments"
    return f"segments of {plural(length, 'step')} or less{more}"


def least_window(first: int, segments: int, window: int) -> int:
    """The segments of the shortest window, no shorter than `window`, in which such a write is read."""
    return next(found for found in range(window, max(window, segments) + 1) if under_loss(first, segments, found))


def blending(
    blend: float, needed: int | None, size: int, trained: Slots, acted: Slots, regime: Regime
) -> Iterator[Finding]:
    """Whether the blend factor does anything, and what the published formula says of it.

    needed: the segment that would read the first slot that is blended, in an episode of any length.
    """
    key = "model.memory.write.lru_blend_alpha"
    if not trained.blends and needed is not None:
        where = "in training or acting" if not acted.blends else "in training, only in longer episodes"
        yield Finding(
            "blending",
            f"lru_blend_alpha={blend:g} has no effect {where}: blending begins with the second write to a slot, whose "
            f"result is read from segment {needed + 1} on, and a training episode has {regime.segments}.",
            key,
        )
    if not acted.blends or not 0 < blend < 1:
        return
    if acted.first_rewrite is None:
        text = f"lru_blend_alpha={blend:g} mixes what is written with the noise of empty slots alone"
        yield Finding("blending", f"{text}: none is written twice in an episode.", key)
        return
    keep = math.log(1 - blend)
    rounds = size / max(1, acted.per_write) * regime.context_length
    yield Finding(
        "blending",
        f"lru_blend_alpha={blend:g}: the formula (1 - lambda)^k gives what a write leaves of a slot a half-life of "
        f"{rounds * math.log(0.5) / keep:.3g} steps and a horizon of {rounds * math.log(FORGOTTEN) / keep:.3g} steps "
        f"(1 %). It leaves out that a slot writes itself anew: stage=inspect measures what lasts.",
        key,
    )
