"""The parts of a run, built from its settings: policy's plan, learner, environment, trainer.

What takes seconds to import is imported where it is needed, so that an early error need not wait for it.
"""

from __future__ import annotations

from typing import Any

from callbacks.command.registry import PLATFORM
from callbacks.command.settings import check_variants


def check_buildable(settings: dict[str, Any]) -> None:
    """Build everything once, so that a bad value is found before anything is collected or trained."""
    from callbacks.evaluation.outcomes import check_metric
    from callbacks.evaluation.video import check_filmable
    from elmur.build import BuildError, build

    env = build_env(settings)
    check_filmable(env, plan(settings).video)
    check_metric(env["metric"])
    build_trainer(settings)
    module = learner(settings)
    build(settings["data"], "data", "data", PLATFORM)
    spec = check_variants(env)
    try:
        module.build_model(spec)
        module.configure_optimizers()
    except (ValueError, TypeError, RuntimeError) as error:
        raise error if isinstance(error, BuildError) else BuildError(f"model: {error}") from error


def plan(settings: dict[str, Any]) -> Any:
    """How a policy is judged."""
    from callbacks.evaluation.plan import Plan
    from elmur.build import call

    return call(Plan, dict(settings["evaluation"]), "evaluation")


def learner(settings: dict[str, Any]) -> Any:
    """The SequenceModule that the settings describe; its network is built later, for a task."""
    from elmur.build import build

    model = build({**settings["model"], "_partial_": True}, "model", "model")
    return build(settings["module"], "module", "module", model=model, model_config=settings["model"])


def build_env(settings: dict[str, Any]) -> dict[str, Any]:
    """The env section with its functions built."""
    from elmur.build import build

    env: dict[str, Any] = build(settings["env"], "env", "env", PLATFORM)
    return env


def build_trainer(settings: dict[str, Any]) -> Any:
    """Lightning's Trainer with the callbacks and the logger of the settings."""
    from callbacks.checkpoint import AtomicCheckpointIO
    from elmur import ranks
    from elmur.build import build

    return build(
        settings["trainer"],
        "trainer",
        "trainer",
        PLATFORM,
        callbacks=list(build(settings["callbacks"], "callbacks", "callbacks", PLATFORM).values()),
        logger=build(settings["logger"], "logger", "logger", PLATFORM) or False,
        plugins=[AtomicCheckpointIO(), ranks.environment()],
        enable_checkpointing=False,
    )
