"""Checks of what was asked for, before anything is collected, trained or played: it can be built, and it fits."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from callbacks.command.parts import env_family, evaluation_plan, learner, trainer
from callbacks.command.registry import PLATFORM
from callbacks.command.settings import Settings
from callbacks.errors import UsageError
from elmur.build import BuildError, build, call

if TYPE_CHECKING:
    from callbacks.evaluation.plan import EvaluationPlan
    from elmur.objectives.objective import Objective
    from elmur.sequence_model import SequenceModel
    from elmur.spec import TaskSpec
    from envs.family import EnvFamily


def check_buildable(settings: Settings) -> None:
    """Build everything once, so that a bad value is found before anything is collected or trained."""
    import torch

    from callbacks.evaluation.video import check_filmable
    from callbacks.selection import RolloutSelection
    from callbacks.stages.rounds import check_rounds
    from elmur.batch import SegmentBatch
    from elmur.compiled import check_compiler

    env, plan = env_family(settings), evaluation_plan(settings)
    check_filmable(env, plan.video)
    if plan.compile:
        check_compiler()
    for callback in trainer(settings).callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, RolloutSelection):
            if env.make is None:
                raise UsageError(
                    f"callbacks: RolloutSelection acts, and env={env.name} has no environment; leave it out"
                )
            check_seeds(plan, callback.plan.seeds)
    module = learner(settings)
    if env.make is not None:
        check_recorded(settings, module.objective)
    data = build(settings.data, "data", "data", PLATFORM)
    spec = data.recorded() if env.make is None else check_variants(env)
    try:
        check_room(settings, spec, plan.num_envs)
        module.build_model(spec)
        module.configure_optimizers()
        with torch.no_grad():  # a segment may be longer than what the model can see: it looks at an empty one
            begun = module.model.initial_memory(1, torch.Generator())
            module.model.eval()(SegmentBatch.zeros(spec, 1, module.context_length), begun)
    except (ValueError, TypeError, RuntimeError, LookupError) as error:
        raise error if isinstance(error, BuildError) else BuildError(f"model: {error}") from error
    check_return(module.model, plan)
    check_rounds(settings)


def check_recorded(settings: Settings, objective: Objective) -> None:
    """Raises UsageError where an objective learns from preferences that are not collected."""
    if objective.reads.preferences and not settings.collect.get("preferences"):
        raise UsageError(
            f"module.objective: {type(objective).__name__} learns from what the expert held of actions, and "
            "collect.preferences=false; set collect.preferences=true, and collect again where there are shards already"
        )


def check_return(model: SequenceModel, plan: EvaluationPlan) -> None:
    """Raises UsageError where a return is asked of a model that does not know of returns."""
    if plan.target_return != type(plan).target_return and not model.asks_for_return:
        raise UsageError(
            f"evaluation.target_return={plan.target_return}: {type(model).__name__} sees no returns, so that none can "
            "be asked of it; leave it out, or choose model=decision_transformer or a model.token_format with r"
        )


def check_seeds(plan: EvaluationPlan, chosen_by: range) -> None:
    """Raises UsageError where a plan plays seeds of those by which the checkpoint is chosen."""
    report = plan.seeds
    if max(report.start, chosen_by.start) < min(report.stop, chosen_by.stop):
        raise UsageError(
            f"evaluation.first_seed={plan.first_seed}: the report would play episodes by which the checkpoint is "
            f"chosen, seeds {report[0]} to {report[-1]} of those of selection, {chosen_by[0]} to {chosen_by[-1]}; "
            f"leave it at 500000, and selection.num_episodes below that"
        )


def check_room(settings: Settings, spec: TaskSpec, side_by_side: int) -> None:
    """Raises BuildError for a model larger than this machine; nothing is allocated to find out.

    side_by_side: episodes of an evaluation that have a memory each, as have the lanes of training.
    """
    from elmur.state import bytes_of
    from elmur.untrusted import outline

    model, one = outline(lambda: build(settings.model, "model", "model", spec=spec))
    weights = bytes_of(model.state_dict().values())
    memories = one * max(settings.data.get("lanes") or 1, side_by_side)
    room = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if weights + memories > room:
        raise BuildError(
            f"model: {weights / 1e9:,.1f} GB of weights and {memories / 1e9:,.1f} GB of memory for all episodes, where "
            f"this machine has {room / 1e9:,.0f} GB; lower model.memory.memory_size, model.d_model or data.lanes"
        )


def check_variants(family: EnvFamily) -> TaskSpec:
    """The TaskSpec of an env, each variant of which is made once. Raises BuildError for one that cannot be."""
    first = call(family.world, {"num_envs": 1}, "env.make")
    try:
        spec: TaskSpec = first.spec
        family.check_metric(first)
    finally:
        first.close()
    for section, variants in {"variants": family.variants, "selection": family.selection}.items():
        for name, variant in variants.items():
            call(family.world, {"num_envs": 1, **variant}, f"env.{section} {name}").close()
    return spec
