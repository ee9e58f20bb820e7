"""What a contender costs, measured on this machine before anything is collected or trained."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from callbacks.benchmark.acting import cost_of_acting
from callbacks.benchmark.timing import median_seconds
from callbacks.benchmark.training import training_step
from callbacks.command.checks import check_buildable, check_variants
from callbacks.command.parts import env_family, evaluation_plan, learner
from callbacks.command.settings import Settings
from callbacks.evaluation.device import threads
from callbacks.evaluation.plan import MakeEnv, Variants
from elmur.batch import SegmentBatch
from envs.vector import spec_of

ENVS = (1, 100)  # side by side, for the table
UPDATES = 3  # that are timed
START = 8.0  # seconds that a run takes beside its work


@dataclass(frozen=True)
class Cost:
    """Of one contender: learned numbers, seconds of an update, milliseconds of a step, bytes of an episode's state.

    Times are of one processor. step_ms: by the number of environments side by side. steps_per_update: of the
    environment, in all lanes.
    """

    parameters: int
    steps_per_update: int
    update_seconds: float
    step_ms: dict[int, float]
    state_bytes: int


def measured(settings: Settings) -> Cost:
    """The cost of a contender, of made-up data. Raises BuildError for a model that cannot be built for the task."""
    module, plan, family = learner(settings), evaluation_plan(settings), env_family(settings)
    check_buildable(settings)
    spec = check_variants(family)
    torch.manual_seed(0)
    module.build_model(spec)
    lanes, length = settings.data["lanes"], module.context_length
    steps = length * settings.data["backprop_segments"]
    step = training_step(module, SegmentBatch.zeros(spec, lanes, steps))  # which clones whatever else is learned
    with threads(1):
        seconds = median_seconds(step, UPDATES, clock=time.process_time)
    sizes = {*ENVS, min(plan.num_envs, plan.num_episodes)}
    acting = {size: next(cost_of_acting(module.model, length, size)) for size in sizes}
    return Cost(
        module.model.num_parameters(), lanes * steps, seconds,
        {size: cost.ms for size, cost in acting.items()}, acting[1].state_bytes,
    )  # fmt: skip


def seconds_of(settings: Settings, cost: Cost) -> float:
    """What a run takes at most, with the choice of its checkpoint and its evaluation; environments apart."""
    family, plan = env_family(settings), evaluation_plan(settings)
    updates, chosen = settings.trainer["max_steps"], settings.selection or {}
    looks = -(-updates // chosen.get("every_n_updates", updates)) if settings.callbacks.get("selection") else 0
    played, looked = (horizons(family.world, variants) for variants in (family.variants, family.selection))
    steps = played * len(plan.waves()) + looked * looks
    side_by_side = min(plan.num_envs, plan.num_episodes)
    return START + updates * cost.update_seconds + steps * cost.step_ms[side_by_side] / 1e3


def horizons(make: MakeEnv, variants: Variants) -> int:
    """The steps of one episode of each variant together, at the most; 0 for one of a world without a limit."""
    return sum(spec_of(make, **variant).horizon or 0 for variant in variants.values())
