"""stage=evaluate: act with a checkpoint; the row, of its own model, seed and settings, goes into the output folder."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from callbacks.command.checks import check_return, check_seeds, check_variants
from callbacks.command.identity import ROW, check_no_run, evaluation_identity
from callbacks.command.label import DEFAULT
from callbacks.command.parts import env_family, evaluation_plan, learner
from callbacks.command.processes import is_first_process
from callbacks.command.settings import Settings
from callbacks.errors import UsageError
from callbacks.processor import cpu_seconds
from elmur.code import code_hash
from elmur.files import exclusive
from elmur.registry import MODELS

if TYPE_CHECKING:
    from callbacks.report.row import Row
    from elmur.policy import StreamingPolicy
    from elmur.sequence_model import SequenceModel

log = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Act with a checkpoint; the row, of the checkpoint's own model, seed and settings, goes into the output folder."""
    from callbacks.checkpoint import LAST
    from callbacks.record import origin_of, selection_seeds
    from callbacks.report.row import read_row
    from callbacks.report.show import show
    from elmur.checkpoint import CheckpointError, checkpoint_in, read_checkpoint

    if settings.checkpoint is None:
        raise UsageError("stage=evaluate needs a checkpoint: checkpoint=outputs/runs/.../checkpoints/best.ckpt")
    env_family(settings).check_acts()
    learner(settings)  # refuses unknown keys, though the model comes from the checkpoint
    path, folder = checkpoint_in(Path(settings.checkpoint)), Path(settings.run_dir)
    found = read_checkpoint(path)
    model = found["elmur"]["model"]
    target = str(model.get("_target_"))
    if settings.model_was_chosen and target != settings.model["_target_"]:
        raise CheckpointError(f"{path}: expected model={settings.model_name}, found {target}; leave model= out")
    with exclusive(folder / ".running"):
        check_no_run(folder)
        row = read_row(folder / ROW)
        if row is None:
            made = origin_of(path, found)
            for seeds in selection_seeds(made) if path.name != LAST else []:  # the last one was not chosen
                check_seeds(evaluation_plan(settings), seeds)
            labels = made.get("label"), path.stem, settings.label
            own = {"model": model, "env": settings.env, "evaluation": settings.evaluation}
            about = {
                "model": made.get("model_name") or MODELS.short_name(target, "model"),
                "seed": made.get("seed"),
                "label": "+".join(of for of in labels if of not in (None, DEFAULT, "best")) or DEFAULT,
                "settings": {**made, **own},
            }
            row = judge(settings, folder, path, about)
        elif row.identity == evaluation_identity(settings, path):
            log.info("acted before (%s); delete %s to act again", row.finished, folder)
            film_judged(settings, folder, path)
        else:
            raise UsageError(f"{folder} holds the row of another evaluation; give hydra.run.dir=ANOTHER")
        show(row, folder, env_family(settings).chance)


def judge(settings: Settings, folder: Path, checkpoint: Path, about: dict[str, Any]) -> Row:
    """Act with a checkpoint in every variant of the env, on report seeds, and write the row."""
    from callbacks.benchmark.acting import cost_of_acting
    from callbacks.evaluation.evaluate import evaluate
    from callbacks.evaluation.halfway import Halfway
    from callbacks.evaluation.video import check_filmable
    from callbacks.report.row import row_of

    family, plan = env_family(settings), evaluation_plan(settings)
    check_filmable(family, plan.video)
    model, length = loaded(settings, checkpoint)
    policy = acting(settings, model, length)
    identity = evaluation_identity(settings, checkpoint)
    halfway, cpu = Halfway.of(folder, f"{identity} {code_hash()}"), cpu_seconds()
    begin = time.monotonic() - sum(halfway.spent.values())
    outcomes = evaluate(policy, family.world, family.variants, plan, halfway=halfway)
    about |= {"identity": identity, "evaluation_cpu_seconds": cpu_seconds() - cpu}
    about["evaluation_seconds"] = time.monotonic() - begin  # of the variants together more, where processes share them
    sampled = plan.sample or policy.model.head.generative
    about |= {"parameters": policy.model.num_parameters(), "actions": "sampled" if sampled else "argmax"}
    if plan.cost_after:
        (spent,) = cost_of_acting(model, length, histories=(plan.cost_after,))
        about |= {"step_ms": spent.ms, "state_bytes": spent.state_bytes}
    row = row_of(settings, family, checkpoint, outcomes, about)
    if is_first_process():
        row.write(folder / ROW)
        if plan.video:
            film_with(settings, policy, folder)
    halfway.remove()
    return row


def loaded(settings: Settings, checkpoint: Path) -> tuple[SequenceModel, int]:
    """The network of a checkpoint, which fits the env, and its context length."""
    from callbacks.selection import BEST
    from elmur.checkpoint import CheckpointError, load_model

    try:
        model, length = load_model(checkpoint, check_variants(env_family(settings)))
    except CheckpointError as error:
        if settings.stage == "train" and checkpoint.name == BEST:
            raise CheckpointError(f"{error}; delete it, and the same command judges the last one") from error
        raise
    check_return(model, evaluation_plan(settings))
    return model, length


def acting(settings: Settings, model: SequenceModel, length: int) -> StreamingPolicy:
    """The policy that is judged: the model where it acts best, acting as the settings say."""
    from callbacks.evaluation.device import placed
    from elmur.policy import StreamingPolicy

    plan, on_gpu = evaluation_plan(settings), settings.trainer.get("accelerator") != "cpu"
    side_by_side = min(plan.num_envs, plan.num_episodes)
    return StreamingPolicy(placed(model, length, side_by_side, plan.device, on_gpu), length, **plan.acting)


def film_with(settings: Settings, policy: StreamingPolicy, folder: Path) -> None:
    """A video of the first episodes of the first variant, in the folder."""
    from callbacks.evaluation.video import film

    family, plan = env_family(settings), evaluation_plan(settings)
    assert family.render is not None
    seeds = range(plan.first_seed, plan.first_seed + plan.video)
    film(policy, family.render, next(iter(family.variants.values())), seeds, folder)


def film_judged(settings: Settings, folder: Path, checkpoint: Path) -> None:
    """The video that is asked for of a checkpoint that was judged before, unless there is one."""
    from callbacks.evaluation.video import check_filmable
    from callbacks.loggers import VIDEOS

    if not (video := evaluation_plan(settings).video) or not is_first_process():
        return
    check_filmable(env_family(settings), video)
    if there := [folder / name for name in VIDEOS if (folder / name).exists()]:
        log.info("filmed before; delete %s to film again", there[0])
    else:
        film_with(settings, acting(settings, *loaded(settings, checkpoint)), folder)
