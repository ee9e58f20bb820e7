"""What a run will take on this machine: time, memory and disk, measured by a few updates and a few steps of acting."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from rich.filesize import decimal

from callbacks.benchmark.timing import median_seconds
from callbacks.benchmark.training import training_step
from callbacks.evaluation.device import threads
from callbacks.evaluation.plan import EvaluationPlan, MakeEnv, Variants
from callbacks.inspect.regime import Finding, plural
from elmur.batch import SegmentBatch
from elmur.module import SequenceModule
from elmur.policy import StreamingPolicy
from elmur.progress import spelled
from elmur.state import bytes_of, map_state, tensors_of
from envs.family import EnvFamily
from envs.rollout import rollout
from envs.vector import spec_of

PLAYED = 20  # steps by which the time of acting is told
SLOW = 10.0  # seconds of an update from which it is told from one of a few lanes
CHECKPOINTS = 2  # that a run keeps: the best and the last


@dataclass(frozen=True)
class Size:
    """Of the run: lanes, updates, and bytes of its data, of those `collected` or else at most, before compression.

    labelled: bytes at most of the episodes that rounds add (`rounds=aggregate`).
    """

    lanes: int
    updates: int
    data: int
    collected: bool
    labelled: int = 0


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
        if self.size.labelled:
            told += f"; at most {decimal(self.size.labelled)} more of rounds, whose acting and labelling is not timed"
        yield Finding("disk", f"{decimal(self.disk)} for {CHECKPOINTS} checkpoints; {told}.", "collect.num_episodes")


def costs(module: SequenceModule, window: SegmentBatch, size: Size, family: EnvFamily, plan: EvaluationPlan) -> Costs:
    """Time, memory and disk of the run, from updates with all lanes and a few steps of acting.

    window: of a few lanes, which are repeated.
    """
    lanes = size.lanes
    update, measured = seconds_of(module, window) * lanes / window.batch_size, window.batch_size
    if update < SLOW:
        times = -(-lanes // window.batch_size)
        whole = map_state(lambda part: part.repeat(times, *[1] * (part.ndim - 1))[:lanes], window)
        update, measured = seconds_of(module, whole), lanes
    memories = tensors_of(module.model.initial_memory(lanes, torch.Generator()))
    checkpoint = 3 * bytes_of(module.model.state_dict().values()) + bytes_of(memories)
    return Costs(
        seconds_an_update=update,
        updates=update * size.updates,
        acting=0.0 if family.make is None else acting(module, family.make, family.variants, plan),
        memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        disk=CHECKPOINTS * checkpoint,
        size=size,
        lanes=measured,
    )


def seconds_of(module: SequenceModule, window: SegmentBatch) -> float:
    """The seconds of an update on a window, after one that does not count."""
    module.forget("train")  # of windows with other lanes
    return median_seconds(training_step(module, window), 1)


def acting(module: SequenceModule, make_env: MakeEnv, variants: Variants, plan: EvaluationPlan) -> float:
    """Seconds that the report takes at most, by the first steps of its last variant."""
    policy, (*_, last) = StreamingPolicy(module.model, module.context_length, **plan.acting), variants.values()
    side_by_side = min(plan.num_envs, plan.num_episodes)
    env = make_env(num_envs=side_by_side, **last)
    try:
        with threads(1):
            played = PLAYED if env.spec.horizon is None else min(PLAYED, env.spec.horizon)
            rollout(env, policy, range(side_by_side), max_steps=1)  # what is done once
            begin = time.perf_counter()
            rollout(env, policy, range(side_by_side), max_steps=played)
            seconds = (time.perf_counter() - begin) / played
    finally:
        env.close()
    steps = sum(spec_of(make_env, **variant).horizon or 0 for variant in variants.values())
    return seconds * steps * len(plan.waves())
