"""What a memory does, and how long it lasts: slots knocked out, taken from another episode, compared with a twin's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from callbacks.inspect.recording import Player, Recording
from callbacks.report.statistics import Share
from elmur.banks import Bank, banks, map_banks
from elmur.memory import LRU
from elmur.model import ELMUR
from elmur.sequence_model import SequenceModel
from elmur.spec import Vector
from elmur.state import take_lanes
from envs.hidden import twins_of
from envs.rollout import Wave


@dataclass(frozen=True)
class Effect:
    """What became of the episodes that reach a segment when memory was changed at its beginning (1 is the second).

    Where memory came from a donor, of those whose donor reaches it too. undisturbed: of each its success as it was.
    success, episode_return: theirs with the change. own, others: the share of later steps at which the action is the
    one of the same episode undisturbed, and the one of the episode that the memory came from, where those two differ.
    """

    kind: str
    where: str
    segment: int
    undisturbed: tuple[bool, ...]
    success: Share
    episode_return: float
    own: Share
    others: Share | None = None

    @property
    def episodes(self) -> int:
        """How many these are."""
        return len(self.undisturbed)

    @property
    def usual(self) -> Share:
        """Their success undisturbed."""
        return Share.of(sum(self.undisturbed), len(self.undisturbed))


def at_segments(count: int, most: int) -> list[int]:
    """The segments at which memory is changed: all but the first, or `most` of them, evenly."""
    if count < 2 or most < 1:
        return []
    return sorted({round(at) for at in np.linspace(count - 1, 1, min(most, count - 1))})


def knocked_out(play: Player, undisturbed: Recording, segments: Sequence[int]) -> Iterator[Effect]:
    """All of memory set to new, held as it is from there on, or replaced by noise of its own size."""
    for segment in segments:
        for kind, change in changes(play.model, segment).items():
            yield effect(kind, "all", segment, play(change=change), undisturbed)


def changes(model: SequenceModel, segment: int) -> dict[str, Callable[[int, Any], Any]]:
    """The ways in which memory is changed at a segment: functions of (number of the segment, memory)."""
    generator, held = torch.Generator().manual_seed(0), {}

    def reset(number: int, memory: Any) -> Any:
        lanes = next(iter(banks(memory).values())).slots.shape[0]
        return model.initial_memory(lanes, generator) if number == segment else memory

    def freeze(number: int, memory: Any) -> Any:
        if number == segment:
            held["memory"] = memory
        return held["memory"] if number >= segment else memory

    def noise(number: int, memory: Any) -> Any:
        return map_banks(noisy, memory) if number == segment else memory

    def noisy(name: str, bank: Bank) -> Tensor:
        size = bank.slots.square().mean(dim=-1, keepdim=True).sqrt()
        return size * torch.randn(bank.slots.shape, generator=generator).to(bank.slots)

    return {"reset": reset, "freeze": freeze, "noise": noise}


def patched(
    play: Player, undisturbed: Recording, donors: Recording, segments: Sequence[int], most_slots: int
) -> Iterator[Effect]:
    """Memory taken from a donor at the same segment: all of it, each bank, and each slot of banks of `most_slots`."""
    for segment in segments:
        if not (undisturbed.reaching(segment) & donors.reaching(segment)).any():
            continue
        given = banks(donors.memories[segment])
        places: list[tuple[str, set[tuple[str, int | None]]]] = [("all", {(name, None) for name in given})]
        if len(given) > 1:
            places += [(name, {(name, None)}) for name in given]
        for n, bank in given.items():
            if 1 < (size := bank.slots.shape[1]) <= most_slots:
                places += [(f"{n}, slot {m}", {(n, m)}) for m in range(size)]
        for where, chosen in places:
            change = taken(donors.memories[segment], segment, chosen)
            yield effect("patch", where, segment, play(change=change), undisturbed, donors)


def taken(donor: Any, segment: int, chosen: set[tuple[str, int | None]]) -> Callable[[int, Any], Any]:
    """A change that takes banks, or slots of them, from a donor's state."""
    given = banks(donor)

    def mixed(name: str, bank: Bank) -> Tensor:
        slots = bank.slots.clone()
        for bank_name, slot in chosen:
            if bank_name == name:
                rows = slice(None) if slot is None else slice(slot, slot + 1)
                slots[:, rows] = given[name].slots[:, rows].to(slots)
        return slots

    return lambda number, memory: map_banks(mixed, memory) if number == segment else memory


def effect(
    kind: str, where: str, segment: int, found: Recording, undisturbed: Recording, donors: Recording | None = None
) -> Effect:
    """What came of a change."""
    chosen = undisturbed.reaching(segment) & (donors.reaching(segment) if donors else True)
    lanes = np.flatnonzero(chosen).tolist()
    before = tuple(undisturbed.episodes[n].success for n in lanes)
    success = Share.of(sum(found.episodes[n].success for n in lanes), len(lanes))
    total = float(np.mean([found.episodes[n].episode_return for n in lanes]))
    steps = min(len(of.actions()) for of in (found, undisturbed, *([donors] if donors else [])))
    acted, usual = found.actions()[:steps], undisturbed.actions()[:steps]
    counted = found.played()[:steps] & undisturbed.played()[:steps] & chosen
    counted[: segment * found.context_length] = False
    others = None
    if donors is not None:
        given = donors.actions()[:steps]
        counted &= donors.played()[:steps] & ~same_actions(usual, given)
        others = share(same_actions(acted, given), counted)
    own = share(same_actions(acted, usual), counted)
    return Effect(kind, where, segment, before, success, total, own, others)


def share(same: np.ndarray, counted: np.ndarray) -> Share:
    """The share of counted steps `[T, N]` that are the same, in the mean of the episodes that have any."""
    steps = counted.sum(0)
    return Share.mean((same & counted).sum(0)[steps > 0] / steps[steps > 0])


def same_actions(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether two actions are alike: bool [T, N]."""
    return one == other if one.ndim == 2 else np.isclose(one, other, atol=1e-2).all(-1)


def twins(play: Player) -> Recording | None:
    """The twins of the episodes, which differ in what has to be remembered alone; None where a world has none."""
    play.env.reset([*play.seeds, *[None] * (play.env.num_envs - len(play.seeds))])
    if twins_of(play.env) is None:
        return None

    def begin(wave: Wave) -> None:
        wave.observation = twins_of(wave.env) or wave.observation

    return play(begin=begin)


def shifted(own: Recording) -> Recording:
    """The same episodes, each in the place of the one before it: donors where a world has no twins."""
    order = torch.tensor([*range(1, len(own.episodes)), 0])
    episodes = [own.episodes[i] for i in order.tolist()]
    lanes = len(next(iter(banks(own.memories[0]).values())).slots)
    rows = torch.cat([order, torch.arange(len(order), lanes)])
    memories = [take_lanes(memory, rows) for memory in own.memories]
    return Recording(episodes, own.context_length, memories)


@dataclass(frozen=True)
class Lasting:
    """How memory and predictions of twins differ at the beginning of a segment, in the mean of the pairs that reach it.

    episodes: how many pairs these are. memory: distance of each bank's slots over their size. prediction: see
    `predicted_apart`. seen: share of the steps of the segment before at which the twins saw something else. formula:
    (1 - lambda)^k with k the writes to a slot since the first, None without a blend.
    """

    segment: int
    steps: int
    episodes: int
    memory: dict[str, float]
    prediction: float
    seen: float
    formula: float | None


def lasting(model: SequenceModel, own: Recording, twin: Recording) -> list[Lasting]:
    """Twins compared segment by segment, while both play."""
    design = model.design if isinstance(model, ELMUR) else None
    rule = design and design.write
    blend = rule.blend if isinstance(rule, LRU) and 0 < rule.blend < 1 else None
    writers = len(model.layers) if isinstance(model, ELMUR) and design and design.shared else 1
    # segments between writes to a slot
    apart = design.memory_size / (writers * rule.slots_per_write) if design and rule else 1.0
    mine, others, length = own.slots(), twin.slots(), own.context_length
    rows = []
    for segment in range(1, min(own.segments, twin.segments)):
        step = segment * length
        both = np.flatnonzero(own.reaching(segment) & twin.reaching(segment))
        if not len(both):
            break
        distances = {name: relative(mine[name][segment][both], others[name][segment][both]) for name in mine}
        kept = None if blend is None else (1 - blend) ** (math.ceil(segment / apart) - 1)
        prediction = predicted_apart(model, own.predictions[step][both], twin.predictions[step][both])
        seen = seen_apart(own, twin, step - length, step)
        rows.append(Lasting(segment, step, len(both), distances, prediction, seen, kept))
    return rows


def predicted_apart(model: SequenceModel, one: np.ndarray, other: np.ndarray) -> float:
    """How far predictions `[N, A]` differ, in the mean of N.

    Of logits the total variation of their softmax, half the sum of differences; of actions that are numbers their
    distance over their size.
    """
    if isinstance(model.spec.action, Vector):
        return relative(one[:, None], other[:, None])
    first, second = (torch.from_numpy(of).softmax(-1) for of in (one, other))
    return float((first - second).abs().sum(-1).mean() / 2)


def seen_apart(own: Recording, twin: Recording, begin: int, end: int) -> float:
    """The share of these steps, of those that both play, at which the observations of twins differ."""
    apart: list[bool] = []
    for one, other in zip(own.episodes, twin.episodes, strict=True):
        assert one.steps is not None and other.steps is not None
        mine, its = one.steps.observation, other.steps.observation
        for step in range(begin, min(end, one.length, other.length)):
            apart.append(any((mine[name][step] != its[name][step]).any() for name in mine))
    return float(np.mean(apart)) if apart else 0.0


def relative(one: np.ndarray, other: np.ndarray) -> float:
    """The distance of two banks `[N, M, D]` over their size, in the mean of N."""
    size = np.sqrt((np.square(one).sum((1, 2)) + np.square(other).sum((1, 2))) / 2)
    return float((np.sqrt(np.square(one - other).sum((1, 2))) / np.maximum(size, 1e-12)).mean())
