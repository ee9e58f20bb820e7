"""The parts of a run, built from its settings: env family, plan, learner, trainer, data.

Trajectories are reached by the names that the registry has for them: callbacks import nothing of `data`.

What takes seconds to import is imported where it is needed, so that an early error need not wait for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from callbacks.command.registry import PLATFORM
from callbacks.command.settings import Settings
from elmur.build import build, call, resolve

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from callbacks.evaluation.plan import EvaluationPlan
    from elmur.module import SequenceModule
    from envs.family import EnvFamily

log = logging.getLogger(__name__)


def named(role: str, name: str) -> Any:
    """The class or function that the registry has under a short name in a role."""
    return resolve(PLATFORM.roles[role].names[name], role, role, PLATFORM)


def env_family(settings: Settings) -> EnvFamily:
    """The world of the settings, its functions built."""
    from envs.family import EnvFamily

    return call(EnvFamily, build(settings.env, "env", "env", PLATFORM), "env")


def evaluation_plan(settings: Settings) -> EvaluationPlan:
    """How a policy is judged."""
    from callbacks.evaluation.plan import EvaluationPlan

    return call(EvaluationPlan, dict(settings.evaluation), "evaluation")


def learner(settings: Settings) -> SequenceModule:
    """The SequenceModule that the settings describe; its network is built later, for a task."""

    model = build({**settings.model, "_partial_": True}, "model", "model")
    return build(settings.module, "module", "module", model=model, model_config=settings.model)


def loggers(section: Mapping[str, Any] | None) -> list[Any]:
    """The sinks beside the local files that the section `logger` describes, made anew."""

    made = build(section, "logger", "logger", PLATFORM)
    return made if isinstance(made, list) else [made] if made else []


def trainer(settings: Settings, sinks: list[Any] | None = None) -> Trainer:
    """Lightning's Trainer with the callbacks of the settings, and with these sinks, else those of the settings."""
    from callbacks.checkpoint import AtomicCheckpointIO
    from elmur import ranks

    own: dict[str, Any] = {
        "callbacks": list(build(settings.callbacks, "callbacks", "callbacks", PLATFORM).values()),
        "logger": (loggers(settings.logger) if sinks is None else sinks) or False,
        "plugins": [AtomicCheckpointIO(), ranks.environment()],
        "enable_checkpointing": False,
    }
    asked = {key: value for key, value in settings.trainer.items() if key not in own}
    return build(asked, "trainer", "trainer", PLATFORM, **own)


def watchable(settings: Settings) -> EnvFamily:
    """The world of the settings; of trajectories alone one that shows them again, in which a policy can be watched."""
    family = env_family(settings)
    if family.make is not None:
        return family
    log.warning(
        "env=%s: recorded episodes are shown again, whatever is done: success and return say nothing", family.name
    )
    make = partial(named("env maker", "recorded"), root=settings.data["root"])
    return replace(family, make=make, variants={"recorded": {}})


def datamodule(settings: Settings, module: SequenceModule) -> Any:
    """The data of the env as the module reads them, collected by its expert where they are missing: a datamodule."""
    collect = None if env_family(settings).make is None else collector(settings)
    made = build(settings.data, "data", "data", PLATFORM, collect=collect)
    made.allow_other_data = "data" in settings.allow_mismatch
    made.reads = module.objective.reads
    return made


def collector(settings: Settings) -> Callable[[], Any]:
    """Collects what is missing of the env's data."""
    family = env_family(settings)
    family.check_acts()
    how = {"make_env": family.make, "expert": family.expert, "root": settings.data["root"], "seed": 0}
    how |= build(settings.collect, "collect", "env", PLATFORM)
    return partial(call, named("trajectories", "collect"), how, "collect")
