"""How a run cuts its episodes and what its memory does with the pieces: findings in words, without any weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from callbacks.evaluation.plan import MakeEnv, Variants
from elmur.memory import LRU, NEVER, Memory, WriteRule
from elmur.model import MemoryDesign
from envs.hidden import Demand, demand_of
from envs.vector import spec_of

FORGOTTEN = 0.01  # a share that counts as nothing, in the published formula's horizon
ROUNDS = 3  # of writing to every slot, after which nothing new happens


@dataclass(frozen=True)
class Finding:
    """A sentence about a run; `warns` where it will probably spoil the result, `key` of what changes it."""

    about: str
    sentence: str
    key: str = ""
    warns: bool = False

    def __str__(self) -> str:
        return f"{self.sentence} [{self.key}]" if self.key else self.sentence


@dataclass(frozen=True)
class Regime:
    """How episodes are cut: `horizon` steps in the longest that is trained on, None where that is not known.

    longest: steps of the longest variant that is acted in. demand: what the task asks to be held, where it is known.
    """

    context_length: int
    backprop_segments: int
    horizon: int | None
    longest: int | None = None
    demand: Demand | None = None

    @classmethod
    def of(
        cls,
        make_env: MakeEnv | None,
        variants: Variants,
        horizon: int | None,
        context_length: int,
        backprop_segments: int,
    ) -> Regime:
        """How episodes of up to `horizon` steps are cut, and what is acted in, if anything."""
        if make_env is None:
            return cls(context_length, backprop_segments, horizon)
        lengths = [spec_of(make_env, **variant).horizon for variant in variants.values()]
        longest = max((length for length in lengths if length is not None), default=None)
        return cls(context_length, backprop_segments, horizon, longest, demand_of(make_env))

    @property
    def segments(self) -> int:
        """Segments of the longest training episode; those of one window where its length is not known."""
        return self.backprop_segments if self.horizon is None else -(-self.horizon // self.context_length)

    @property
    def segments_acted(self) -> int:
        """Segments of the longest episode that is acted in."""
        return self.segments if self.longest is None else -(-self.longest // self.context_length)


@dataclass(frozen=True)
class Slots:
    """What a write rule does with a bank over an episode, found by running it on a bank of width 1.

    first_rewrite: the first segment whose write meets a slot that was written before, None where none does.
    blends: whether the blend factor changes anything that is read. per_write: slots that one segment writes.
    written: slots that hold something when the last segment is read.
    """

    first_rewrite: int | None
    blends: bool
    per_write: int
    written: int

    @classmethod
    def of(cls, design: MemoryDesign, regime: Regime, segments: int) -> Slots:
        """Of an episode of so many segments, of which the last is read and its write is read no more."""
        assert design.write is not None
        enough = ROUNDS * -(-design.memory_size // design.write.slots_per_write) + 1
        lives = [list(life(design, rule, regime, min(segments, enough))) for rule in alternatives(design.write)]
        steps = [torch.stack(life) for life in lives]
        changed = (steps[0][1:] != steps[0][:-1]).squeeze(-1)
        before = torch.cumsum(changed.long(), 0) - changed.long()
        again = (changed & (before > 0)).any(1).nonzero()
        return cls(
            first_rewrite=int(again[0]) if len(again) else None,
            blends=not torch.equal(steps[0], steps[-1]),
            per_write=int(changed[0].sum()) if len(changed) else design.write.slots_per_write,
            written=int(changed.any(0).sum()),
        )


def alternatives(rule: WriteRule) -> list[WriteRule]:
    """The rule with two other blend factors, or the rule alone where it has none."""
    found = [copy.copy(rule) for _ in range(2 if isinstance(rule, LRU) else 1)]
    for one, blend in zip(found, (0.5, 1.0), strict=False):
        if isinstance(one, LRU):
            one.lru_blend_alpha = blend
    return found


def life(design: MemoryDesign, rule: WriteRule, regime: Regime, segments: int) -> Iterator[torch.Tensor]:
    """The slots `[M, 1]` as each segment reads them; segment s writes the number s + 1."""
    length, size = regime.context_length, design.memory_size
    memory = Memory(torch.full((1, size, 1), -1.0), torch.full((1, size), NEVER))
    for number in range(segments):
        yield memory.slots[0].clone()
        start = torch.tensor([number * length])
        plan = rule.plan(memory, design.steps.token_steps(start, length, 1), design.steps.write_step(start, length, 1))
        written = size if plan.index is None else plan.index.shape[1]
        memory = rule.commit(memory, torch.full((1, written, 1), number + 1.0), plan)


def cutting(regime: Regime) -> Iterator[Finding]:
    """How an episode becomes segments and windows."""
    length, window = regime.context_length, regime.backprop_segments
    if regime.horizon is None:
        said = f"A window is {window} segments of {length} steps; how long episodes are is not known."
        yield Finding("segments", said, "module.context_length, data.backprop_segments")
        return
    said = f"An episode of {regime.horizon:,} steps is {plural(regime.segments, 'segment')} of {length} steps"
    if regime.segments == 1:
        said += ": attention sees all of it at once, and nothing is ever read from memory; a context below "
        yield Finding("segments", f"{said}{regime.horizon} steps needs the memory.", "module.context_length")
        return
    windows = -(-regime.segments // window)
    back = "all of them" if windows == 1 else f"{window} at a time, in {windows} windows"
    yield Finding("segments", f"{said}; the gradient goes through {back}.", "data.backprop_segments")
    if regime.longest is not None and regime.longest > regime.horizon:
        said = f"The longest episode that is acted in has {regime.longest:,} steps, {regime.segments_acted:,} segments"
        times = f"{regime.segments_acted / regime.segments:,.0f} times those of training"
        yield Finding("segments", f"{said}: {times}.", "env.variants")


def slots(design: MemoryDesign | None, regime: Regime) -> Iterator[Finding]:
    """What the slots of ELMUR's memory go through, in training and in the longest episode that is acted in."""
    if design is None or regime.segments < 2:
        return
    if design.write is None:
        held = "the slots are noise to the end" if design.read_unwritten else "and what is not written is not read"
        yield Finding("writes", f"Memory is never written: {held}.", "model/write=lru", True)
        return
    size, trained = design.memory_size, Slots.of(design, regime, regime.segments)
    acted = Slots.of(design, regime, regime.segments_acted)
    yield from written(design, trained, regime)
    if not design.read:
        yield Finding("reads", "Memory is never read.", "model.memory.read", True)
    yield from rewriting(acted, regime)
    if isinstance(design.write, LRU):
        yield from blending(design.write.blend, size, trained, acted, regime)


def written(design: MemoryDesign, trained: Slots, regime: Regime) -> Iterator[Finding]:
    """How often each slot is written, and how many never are."""
    size, reads = design.memory_size, regime.segments - 1
    each = reads * trained.per_write / size
    yield Finding(
        "writes",
        f"{plural(size, 'slot')} a layer, of which a segment writes {trained.per_write}: {each:.3g} writes per slot in "
        f"a training episode that are read later, {(regime.segments_acted - 1) * trained.per_write / size:,.3g} in the "
        "longest that is acted in.",
        "model.memory.memory_size",
    )
    if trained.written < size:
        noise = "tokens read noise there" if design.read and design.read_unwritten else "they are not read"
        yield Finding(
            "writes",
            f"{size - trained.written} of {size} slots are never written in a training episode: {noise}; "
            f"{trained.written} slots are as many as are used.",
            f"model.memory.memory_size={max(1, trained.written)}",
            warns=trained.written < size / 2,
        )


def rewriting(acted: Slots, regime: Regime) -> Iterator[Finding]:
    """Whether a slot that was written before is written again under the loss, if acting does that."""
    if acted.first_rewrite is None or acted.first_rewrite > regime.segments_acted - 2:
        return
    window, first = regime.backprop_segments, acted.first_rewrite
    if any(segment % window != window - 1 for segment in range(first, regime.segments - 1)):
        return  # under the loss
    lacks = f"a window of more than {first + 1} segments" if regime.segments > first + 1 else (
        f"segments of {max(1, (regime.horizon or 1) // (first + 2))} steps or less"
    )  # fmt: skip
    yield Finding(
        "rewriting",
        f"Acting overwrites slots that hold something (from segment {first + 1} on), but no such write lies under the "
        f"loss: it is not learned, and what lasts is luck. It would take {lacks}.",
        "module.context_length, data.backprop_segments",
        warns=True,
    )


def blending(blend: float, size: int, trained: Slots, acted: Slots, regime: Regime) -> Iterator[Finding]:
    """Whether the blend factor does anything, and what the published formula says of it."""
    key = "model.memory.write.lru_blend_alpha"
    if not trained.blends:
        needed = -(-size // max(1, trained.per_write)) + 1
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


def context(regime: Regime, design: MemoryDesign | None) -> Iterator[Finding]:
    """How the context and the memory compare with what the task must hold, where the task tells."""
    demand = regime.demand
    if demand is None:
        return
    held, key = f"The task holds {demand.items} {demand.what} for up to {demand.steps:,} steps", "module.context_length"
    if demand.steps < regime.context_length:
        less = f"less than the context of {regime.context_length}, so it can be solved without memory"
        yield Finding("capacity", f"{held}: {less}.", key)
    elif design is None:
        yield Finding("capacity", f"{held}, a segment shows {regime.context_length}.", key)
    else:
        size, key, each = design.memory_size, "model.memory.memory_size", demand.items / design.memory_size
        held += f", a segment shows {regime.context_length} steps and a layer has {plural(size, 'slot')}"
        if size >= demand.items:
            yield Finding("capacity", f"{held}: one for each.", key)
        else:
            held += f": a slot has to hold {each:.3g} of them; one each would be M={demand.items}."
            yield Finding("capacity", held, f"{key}={demand.items}", warns=each > 4)


def examine(regime: Regime, design: MemoryDesign | None) -> list[Finding]:
    """All that can be said without weights."""
    return [*cutting(regime), *slots(design, regime), *context(regime, design)]


def plural(count: int, what: str) -> str:
    """A count with its noun."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
