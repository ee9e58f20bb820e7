"""`stage=doctor`: what a run will be able to learn, and what it will cost, in sentences that name the key to change."""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.filesize import decimal
from rich.text import Text

from callbacks.benchmark.training import training_step
from callbacks.evaluation.evaluate import one_thread
from callbacks.evaluation.plan import EvaluationPlan
from callbacks.inspect.gradients import Gradients, Knob, gradients, is_dead, knobs, learned, parts, write_path
from callbacks.inspect.regime import Finding, Regime, examine, plural
from callbacks.report.sheets import Sheet
from callbacks.text import plain
from elmur.batch import SegmentBatch
from elmur.files import write_json
from elmur.model import ELMUR, MemoryDesign
from elmur.module import SequenceModule
from elmur.policy import StreamingPolicy
from elmur.state import map_state, tensors_of
from envs.hidden import demand_of
from envs.rollout import rollout
from envs.vector import VectorEnv

log = logging.getLogger(__name__)
FILE = "doctor.json"
LANES, EPISODES = 4, 8  # that are looked at, and collected where there are none
MOST_WINDOWS = 12  # that are looked at: enough for an episode of the published recipes
PLAYED = 20  # steps by which the time of acting is told
SLOW = 10.0  # seconds of an update from which it is told from one of a few lanes
CHECKPOINTS = 2  # that a run keeps: the best and the last
Variants = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Size:
    """Of the run: lanes, updates, and bytes of its data, of those `collected` or else at most, before compression."""

    lanes: int
    updates: int
    data: int
    collected: bool


@dataclass(frozen=True)
class Patient:
    """What is looked at: a learner with its network, real windows of a few lanes, and what is asked of them.

    learner: makes the module of changed sections "model" and "module", with the same weights every time.
    """

    module: SequenceModule
    windows: Sequence[SegmentBatch]
    learner: Callable[[Mapping[str, Mapping[str, Any]]], SequenceModule]
    sections: Mapping[str, Mapping[str, Any]]
    regime: Regime
    size: Size


def regime_of(
    make_env: Callable[..., VectorEnv] | None,
    variants: Variants,
    horizon: int | None,
    context_length: int,
    backprop_segments: int,
) -> Regime:
    """How episodes of up to `horizon` steps are cut, and what is acted in, if anything."""
    if make_env is None:
        return Regime(context_length, backprop_segments, horizon)
    lengths = [horizon_of(make_env, variant) for variant in variants.values()]
    longest = max((length for length in lengths if length is not None), default=None)
    return Regime(context_length, backprop_segments, horizon, longest, demand_of(make_env))


def horizon_of(make_env: Callable[..., VectorEnv], variant: Mapping[str, Any]) -> int | None:
    """Steps of the longest episode of a variant, None where it does not say."""
    env = make_env(num_envs=1, **variant)
    try:
        return env.spec.horizon
    finally:
        env.close()


def design_of(module: SequenceModule) -> MemoryDesign | None:
    """The design of ELMUR's memory; None of another model, or without one."""
    return module.model.design if isinstance(module.model, ELMUR) else None


def summary(module: SequenceModule, regime: Regime) -> list[Finding]:
    """What is said at the start of training: what needs no gradient."""
    return examine(regime, design_of(module))


def findings(patient: Patient) -> tuple[list[Finding], Sheet]:
    """All that the doctor finds, but for costs; and the parameters by part."""
    found = gradients(patient.module, patient.windows)
    listed = parts(found, patient.module)
    said = [*summary(patient.module, patient.regime), *writer(patient.module, found, patient.regime)]
    said += dead(found, patient.module)
    said += idle(knobs(patient.sections, patient.learner, patient.windows))
    total = sum(part.size for part in listed)
    lines = [{"part": part.name, "parameters": f"{part.size:,}", "share": part.size / total,
              "without gradient": f"{part.dead:,}"} for part in listed]  # fmt: skip
    return said, Sheet("parameters", lines, notes=[f"{total:,} in all, {sum(part.dead for part in listed):,} of them "
                                                   "got no gradient from real windows"])  # fmt: skip


def writer(module: SequenceModule, found: Gradients, regime: Regime) -> list[Finding]:
    """Whether what makes a write learns."""
    names = [f"model.{name}" for name in write_path(module.model)]
    numbers = sum(p.numel() for name, p in learned(module) if name in names)
    if not names:
        return []
    if not all(is_dead(found[name]) for name in names):
        return [Finding("writer", f"The writer gets a gradient ({numbers:,} parameters).")]
    if regime.segments == 1:
        why, key = "an episode is one segment, so that no write is ever read", "module.context_length"
    elif regime.backprop_segments == 1:
        why, key = "memory is cut off from the graph after every segment", "data.backprop_segments=2"
    else:
        why, key = "nothing that is written is read under the loss", "model.memory.read"
    said = (
        f"The writer gets no gradient: {why}. Its {numbers:,} parameters stay as they were drawn, and tokens learn to "
    )
    return [Finding("writer", said + "read what a random map writes.", key, True)]


def dead(found: Gradients, module: SequenceModule) -> list[Finding]:
    """Parameters beside the writer's that nothing reaches."""
    writes = {f"model.{name}" for name in write_path(module.model)}
    sizes = {name: parameter.numel() for name, parameter in learned(module)}
    names = [name for name in sizes if is_dead(found[name]) and (name not in writes or "router" in name)]
    if not names:
        return []
    shown = ", ".join(sorted({part_name(name) for name in names}))
    return [Finding("dead parameters", f"{sum(sizes[name] for name in names):,} parameters get no gradient: {shown}.")]


def part_name(name: str) -> str:
    """A parameter without the number of its layer."""
    return ".".join(part if not part.isdigit() else "*" for part in name.removeprefix("model.").split("."))


def idle(found: Sequence[Knob]) -> list[Finding]:
    """Settings that change nothing in what is learned."""
    return [
        Finding(
            "knob without effect",
            f"{knob.key}={knob.value}: with {' or '.join(f'{other:.4g}' for other in knob.tried)} the gradients of a "
            "whole episode are the same to the bit.",
            knob.key,
        )
        for knob in found
        if not knob.acts
    ]


def schedule(module: SequenceModule, size: Size, window: int) -> list[Finding]:
    """What the learning rate's factor does over the run; steps are counted as if none were padding."""
    updates, lanes = size.updates, size.lanes
    if updates < 1:
        return []
    at = [module.schedule(n, n * lanes * window) for n in range(0, updates, max(1, updates // 200))]
    peak = max(range(len(at)), key=at.__getitem__)
    text = f"The learning rate's factor begins at {at[0]:.2g}, is highest ({at[peak]:.2g}) after "
    text += f"{peak / len(at):.0%} of the updates and ends at {at[-1]:.2g}."
    return [Finding("learning rate", text, "module/schedule")]


@dataclass(frozen=True)
class Costs:
    """What a run takes, measured on this machine by a few updates and steps.

    updates, acting: seconds of all updates, and of the report. memory: bytes that this process has had at most after an
    update. disk: bytes of checkpoints. size: of the run. lanes: that updates were measured with.
    """

    seconds_an_update: float
    updates: float
    acting: float
    memory: int
    disk: int
    size: Size
    lanes: int

    def findings(self) -> Iterator[Finding]:
        """In words."""
        yield Finding(
            "time",
            f"{spelled(self.updates)} for the updates ({self.seconds_an_update * 1e3:.3g} ms each) and "
            f"{spelled(self.acting)} at most for the report, selection not counted, on "
            f"{plural(torch.get_num_threads(), 'thread')}.",
            "trainer.max_steps, evaluation.num_episodes",
        )
        after = f"{decimal(self.memory)} at most so far, after updates of {self.lanes} of {self.size.lanes} lanes."
        yield Finding("memory", after, "data.lanes")
        data = decimal(self.size.data)
        told = f"{data} of data are there" if self.size.collected else f"at most {data} of data, before compression"
        yield Finding("disk", f"{decimal(self.disk)} for {CHECKPOINTS} checkpoints; {told}.", "collect.num_episodes")


def spelled(seconds: float) -> str:
    """A time as people say it."""
    return "less than a minute" if seconds < 60 else f"about {timedelta(seconds=round(seconds))}"


def costs(
    patient: Patient, make_env: Callable[..., VectorEnv] | None, variants: Variants, plan: EvaluationPlan
) -> Costs:
    """Time, memory and disk of the run, from updates with all lanes and a few steps of acting."""
    window, lanes = patient.windows[0], patient.size.lanes
    update, measured = seconds_of(patient.module, window) * lanes / window.batch_size, window.batch_size
    if update < SLOW:
        times = -(-lanes // window.batch_size)
        whole = map_state(lambda part: part.repeat(times, *[1] * (part.ndim - 1))[:lanes], window)
        update, measured = seconds_of(patient.module, whole), lanes
    weights = sum(tensor.numel() * tensor.element_size() for tensor in patient.module.model.state_dict().values())
    memories = tensors_of(patient.module.model.initial_memory(patient.size.lanes, torch.Generator()))
    checkpoint = 3 * weights + sum(tensor.numel() * tensor.element_size() for tensor in memories)
    return Costs(
        seconds_an_update=update,
        updates=update * patient.size.updates,
        acting=0.0 if make_env is None else acting(patient.module, make_env, variants, plan),
        memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        disk=CHECKPOINTS * checkpoint,
        size=patient.size,
        lanes=measured,
    )


def seconds_of(module: SequenceModule, window: SegmentBatch) -> float:
    """The seconds of an update on a window, after one that does not count."""
    module.forget("train")  # of windows with other lanes
    step = training_step(module, window)
    step()
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin


def acting(
    module: SequenceModule, make_env: Callable[..., VectorEnv], variants: Variants, plan: EvaluationPlan
) -> float:
    """Seconds that the report takes at most, by the first steps of its last variant."""
    policy, (*_, last) = StreamingPolicy(module.model, module.context_length, **plan.acting), variants.values()
    side_by_side = min(plan.num_envs, plan.num_episodes)
    env = make_env(num_envs=side_by_side, **last)
    try:
        with one_thread():
            played = PLAYED if env.spec.horizon is None else min(PLAYED, env.spec.horizon)
            rollout(env, policy, range(side_by_side), max_steps=1)  # what is done once
            begin = time.perf_counter()
            rollout(env, policy, range(side_by_side), max_steps=played)
            seconds = (time.perf_counter() - begin) / played
    finally:
        env.close()
    steps = sum(horizon_of(make_env, variant) or 0 for variant in variants.values())
    return seconds * steps * len(plan.waves())


def show(said: Sequence[Finding], sheets: Sequence[Sheet], folder: Path, about: Mapping[str, Any]) -> None:
    """Print what was found, what spoils a run first, and write it into the folder."""
    console = Console()
    for warns in (True, False):
        for finding in said:
            if finding.warns is warns:
                mark = ("! ", "bold") if warns else ("  ", "")
                console.print(Text.assemble(mark, (f"{finding.about}: ", "bold"), plain(str(finding), most=None)))
    for sheet in sheets:
        console.print()
        sheet.show(console)
    tables = {sheet.title: sheet.lines for sheet in sheets}
    write_json(folder / FILE, {**about, "findings": [vars(finding) for finding in said], **tables})
    log.info("written to %s", folder / FILE)
