"""Which parameters learn, measured: the gradient of real windows, and which settings change nothing in it."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from typing import Any

import torch
from torch import Tensor, nn

from elmur.batch import SegmentBatch
from elmur.build import BuildError
from elmur.layer import ELMURLayer
from elmur.module import SequenceModule

Gradients = dict[str, Tensor | None]
Sections = Mapping[str, Mapping[str, Any]]  # of a configuration, by name
Learner = Callable[[Sections], SequenceModule]
STAGE = "doctor"  # whose memory is carried apart from that of training
# What acts, but not on the gradient of given windows: on what is built, on which windows are read and how they are cut,
# on the update, or on acting alone.
NOT_IN_GRADIENTS = (
    "seed",
    "gpu",
    "fraction",
    "context_length",
    "optimizer",
    "schedule",
    "target_rate",
    "sampling_steps",
)


@dataclass(frozen=True)
class Part:
    """Parameters of one part of a model: how many numbers there are, and in how many of them nothing arrives."""

    name: str
    size: int
    dead: int


@dataclass(frozen=True)
class Knob:
    """A setting, the other values that were tried, and whether the last of them changed the gradient."""

    key: str
    value: Any
    tried: tuple[Any, ...]
    acts: bool


def gradients(module: SequenceModule, windows: Sequence[SegmentBatch]) -> Gradients:
    """The gradient of consecutive windows of one set of lanes, summed; None where nothing reached a parameter.

    The weights stay, and so do memory, random states and gradients of a training that goes on.
    """
    kept = {name: parameter.grad for name, parameter in module.named_parameters()}
    was_training, noise = module.training, torch.Generator().manual_seed(0)
    try:
        module.train()
        module.zero_grad(set_to_none=True)
        with torch.random.fork_rng(), torch.enable_grad():
            torch.manual_seed(0)
            for window in windows:
                found = module.run_window(window, STAGE, noise)
                loss = found.loss / found.counted.clamp(min=1)
                (loss if found.balance is None else loss + found.balance).backward()
        return {name: parameter.grad for name, parameter in learned(module)}
    finally:
        module.train(was_training)
        module.forget(STAGE)
        for name, parameter in module.named_parameters():
            parameter.grad = kept[name]


def learned(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that an optimizer is given, by name."""
    return ((name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad)


def is_dead(gradient: Tensor | None) -> bool:
    """Whether nothing arrived in any number of a parameter."""
    return gradient is None or not bool(gradient.any())


def parts(found: Gradients, module: SequenceModule) -> list[Part]:
    """The parts of a model, the same one of all its layers together, in the order of the model."""
    sizes = {name: parameter.numel() for name, parameter in learned(module)}
    grouped: dict[str, list[str]] = {}
    for name in sizes:
        grouped.setdefault(part_of(name), []).append(name)
    return [
        Part(part, sum(sizes[n] for n in names), sum(sizes[n] for n in names if is_dead(found[n])))
        for part, names in grouped.items()
    ]


def numbered(name: str) -> str:
    """A parameter without the numbers of its layer: `layers.*.writer.query.weight` of `model.layers.3.writer...`."""
    return re.sub(r"\.\d+(?=\.|$)", ".*", name.removeprefix("model."))


def part_of(name: str) -> str:
    """The part that a parameter belongs to: `layers.*.writer` of `model.layers.3.writer.query.weight`."""
    head, star, rest = numbered(name).partition(".*.")
    return f"{head}.*.{rest.partition('.')[0]}" if star else head.partition(".")[0]


def write_path(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that make a write and nothing else, by name; none in a model that has no ELMUR layers."""
    found = {}
    for prefix, layer in model.named_modules():
        if isinstance(layer, ELMURLayer) and layer.write_rule is not None and not layer.copies:
            for part in ("writer", "write_residual", "memory_feedforward", "memory_residual"):
                for name, parameter in layer.get_submodule(part).named_parameters():
                    found[f"{prefix}.{part}.{name}"] = parameter
    return found


def knobs(sections: Sections, learner: Learner, windows: Sequence[SegmentBatch]) -> list[Knob]:
    """Every number and switch of `sections` (by the name of the section) with whether another value changes anything.

    learner: the module of such sections, its network built, with the same random numbers every time. A setting whose
    other values are all refused is left out, and so is everything where two runs of one setting differ.
    """
    first = learner(sections)
    usual = gradients(first, windows)
    if not equal(usual, gradients(learner(sections), windows)):
        return []
    found = []
    for path, value in settings_of(sections):
        tried = []
        for other in others(value):
            try:
                module = learner(changed(sections, path, other))
                acts = shapes(module) != shapes(first) or not equal(usual, gradients(module, windows))
            except (BuildError, ValueError, RuntimeError):
                continue
            tried.append(other)
            if acts:
                break
        if tried:
            found.append(Knob(".".join(path), value, tuple(tried), acts))
    return found


def settings_of(sections: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The path and value of every number and switch that may act on a gradient."""
    for key, value in sections.items():
        if isinstance(value, Mapping):
            if key not in NOT_IN_GRADIENTS:
                yield from settings_of(value, (*path, key))
        elif isinstance(value, bool | int | float) and not key.startswith("_") and key not in NOT_IN_GRADIENTS:
            yield (*path, key), value


def others(value: Any) -> list[Any]:
    """Other values to try, near ones first; far ones tell a limit, or what is very small, from what is idle."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    return [value * 0.75, value * 1e4, value * 1e-4] if value else [0.1]


def changed(sections: Mapping[str, Any], path: tuple[str, ...], value: Any) -> Mapping[str, Any]:
    """The sections with another value in one place."""
    result = copy.deepcopy(dict(sections))
    reduce(getitem, path[:-1], result)[path[-1]] = value
    return result


def shapes(module: nn.Module) -> dict[str, torch.Size]:
    """The shape of every parameter that is learned."""
    return {name: parameter.shape for name, parameter in learned(module)}


def equal(one: Gradients, other: Gradients) -> bool:
    """Whether two gradients are the same to the bit; nothing and zero are the same."""

    def same(a: Tensor | None, b: Tensor | None) -> bool:
        return (is_dead(a) and is_dead(b)) or (a is not None and b is not None and torch.equal(a, b))

    return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
