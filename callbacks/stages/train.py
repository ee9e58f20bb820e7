"""stage=train: collect what is missing, train, act with the best checkpoint on seeds of its own, write the row."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from callbacks import signals
from callbacks.command.arguments import usual
from callbacks.command.checks import check_buildable
from callbacks.command.identity import (
    ROW,
    SETTINGS,
    VALIDATION,
    alone_in,
    check_same_run,
    computed,
    place_of_data,
    portable,
    read_settings,
    selects,
)
from callbacks.command.parts import datamodule, env_family, learner, loggers, trainer
from callbacks.command.processes import is_first_process
from callbacks.command.registry import PLATFORM
from callbacks.command.settings import Settings
from callbacks.errors import UsageError
from callbacks.stages.evaluate import film_judged, judge
from elmur.build import build
from elmur.code import code_hash
from elmur.files import write_json

if TYPE_CHECKING:
    from callbacks.report.validation import Validation
    from callbacks.stages.rounds import Part
    from elmur.module import SequenceModule

log = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Collect what is missing, train, act with the best checkpoint on seeds of its own, write row and figure."""
    from callbacks.loggers import Result, open_until_the_end, tell_result
    from callbacks.report.row import read_row
    from callbacks.report.show import show
    from callbacks.selection import chosen

    folder, family = Path(settings.run_dir), env_family(settings)
    with alone_in(folder):
        changes = check_same_run(folder, settings, usual, code_hash())
        row = read_row(folder / ROW)
        if family.make is None:
            validated(settings, folder, again=bool(changes))
            return
        if row is not None and not changes:
            log.info("finished before (%s); delete %s to run again", row.finished, folder)
            tell_of_other_shards(settings, folder)
            film_judged(settings, folder, chosen(folder / "checkpoints"))
            if is_first_process():
                show(row, folder, family.chance)
            return
        check_buildable(settings)
        with open_until_the_end(sinks := loggers(settings.logger)):
            about = fit(settings, folder, sinks)
            about.pop("validation")
            row = judge(settings, folder, chosen(folder / "checkpoints"), about)
            if is_first_process():
                show(row, folder, family.chance)
                tell_result(sinks, Result.of(row, folder))


def validated(settings: Settings, folder: Path, again: bool) -> None:
    """Train on trajectories alone, and say how well the best weights foretell actions that were not trained on."""
    from callbacks.loggers import open_until_the_end
    from callbacks.report.validation import Validation

    found = Validation.read(folder)
    if found is not None and not again:
        log.info("finished before; delete %s to run again", folder)
        tell_of_other_shards(settings, folder)
    else:
        check_buildable(settings)
        with open_until_the_end(sinks := loggers(settings.logger)):
            found = fit(settings, folder, sinks)["validation"]
    if is_first_process():
        if found is None:
            log.warning("nothing was validated; data.validation_fraction=0.1 keeps episodes for it")
        else:
            found.write(folder)
            found.show(folder)


def tell_of_other_shards(settings: Settings, folder: Path) -> None:
    """Say where a finished run is shown although other data are asked for, or lie in the folder by now."""
    from callbacks.record import RECORD
    from callbacks.selection import chosen
    from elmur.checkpoint import CheckpointError, read_checkpoint

    there, here = place_of_data(read_settings(folder)), place_of_data(portable(settings))
    if there != here:
        log.warning(
            "what is shown was trained on the shards in %s; give hydra.run.dir=ANOTHER to train on those in %s",
            there, here,
        )  # fmt: skip
        return
    try:
        known = (read_checkpoint(chosen(folder / "checkpoints")).get(RECORD) or {}).get("data") or {}
    except CheckpointError:  # gone or damaged, which whoever needs it says
        return
    data = build(settings.data, "data", "data", PLATFORM)
    if "digest" in known and "rounds" not in known and not data.holds(known["digest"]):
        log.warning(
            "what is shown was trained on other episodes than are in %s now; give hydra.run.dir=ANOTHER to train on "
            "those, or delete %s", settings.data["root"], folder,
        )  # fmt: skip


def fit(settings: Settings, folder: Path, sinks: list[Any]) -> dict[str, Any]:
    """Train to the end, with the rounds that are asked for; what the row says of it."""
    from callbacks.stages.rounds import label, part, rounds_of, standing

    if (asked := rounds_of(settings)) is None:
        return fit_part(settings, folder, sinks)
    joined, updates = standing(folder)
    for number in range(joined, asked.number + 1):
        if number > joined:
            label(settings, folder, number)
        due = part(settings, folder, number)
        if due.is_last or updates < due.until:
            about = fit_part(settings, folder, sinks, due)
            if about["updates"] < due.until:  # a callback has ended it, or trainer.max_time
                log.warning("training ended after %d updates: %d rounds were held", about["updates"], number)
                break
    return about


def fit_part(settings: Settings, folder: Path, sinks: list[Any], part: Part | None = None) -> dict[str, Any]:
    """Train a part of the run, None: all of it, from the last checkpoint where there is one."""
    import lightning
    from lightning.pytorch import Callback
    from lightning.pytorch.callbacks import ModelSummary

    from callbacks.checkpoint import LAST, resume_of, resume_point
    from callbacks.record import Clock, RunRecord
    from callbacks.selection import RolloutSelection, chosen

    lightning.seed_everything(settings.seed, workers=True, verbose=False)
    until = {} if part is None else {"max_steps": part.until}
    module, loop = learner(settings), trainer(replace(settings, trainer={**settings.trainer, **until}), sinks)
    data = datamodule(settings, module)
    data.rounds = () if part is None else part.rounds
    record = RunRecord(lambda: accept(settings, folder, data, loop.loggers))
    given: list[Callback] = loop.callbacks  # type: ignore[attr-defined]
    if data.rounds:  # the part before has shown it
        given = [callback for callback in given if not isinstance(callback, ModelSummary)]
    choosing = [callback for callback in given if isinstance(callback, RolloutSelection)]
    for callback in choosing:
        callback.is_due_at_the_end = part is None or part.is_last
    loop.callbacks = [record, *given, clock := Clock(choosing)]  # type: ignore[attr-defined]
    resume = resume_point(folder / "checkpoints")
    if resume is not None:
        log.info("going on from %s", resume)
    loop.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    signals.leave()
    if loop.global_step == 0:
        raise UsageError("no update was made, so there is nothing to judge; look at trainer.max_steps and the like")
    record.accept()
    # Where no callback writes it. All processes save, or none.
    if resume_of(loop) is None or not loop.strategy.broadcast(chosen(folder / "checkpoints").exists()):
        loop.save_checkpoint(folder / "checkpoints" / LAST)
    validation = validation_of(settings, module, data) if env_family(settings).make is None else None
    # Of all rounds, whenever the best checkpoint was made.
    labelled = {"data": data.provenance()} if data.rounds else {}
    return {"updates": int(loop.global_step), "validation": validation, **labelled, **clock.spent()}


def validation_of(settings: Settings, module: SequenceModule, data: Any) -> Validation | None:
    """How the best weights do on the validation episodes, or the last ones; None where there are none."""
    from callbacks.report.validation import Validation
    from callbacks.validation import ValidationSelection

    if not data.validation_episodes:
        return None
    loop = module.trainer
    about: dict[str, Any] = {"task": data.spec.name, "model": settings.model_name, "seed": settings.seed}
    about |= {"updates": int(loop.global_step), "episodes": data.validation_episodes}
    given: list[Any] = loop.callbacks  # type: ignore[attr-defined]
    chooses = next((one for one in given if isinstance(one, ValidationSelection)), None)
    if chooses is None or chooses.validated_at != loop.global_step:
        (found,) = loop.validate(module, datamodule=data, verbose=False)  # which it looks at too
    if chooses is not None and chooses.best is not None:
        best, score = chooses.best, chooses.value
        about |= {"chosen_at": int(best["update"]), "selection_score": score}
        return Validation.of(data.spec, best["loss"], best["score"], **about)
    return Validation.of(data.spec, found["validation/loss"], found["validation/score"], **about)


def accept(settings: Settings, folder: Path, data: Any, loggers: list[Any]) -> dict[str, Any]:
    """Write down what is trained, now that nothing refuses it; this is kept in its checkpoints too."""
    from callbacks.loggers import tell_settings
    from callbacks.selection import BEST

    kept = portable(settings)
    if is_first_process():
        past = [folder / ROW, folder / VALIDATION]  # of fewer updates, or judged otherwise
        if (folder / SETTINGS).exists() and selects(read_settings(folder)) and not selects(kept):
            past.append(folder / "checkpoints" / BEST)  # which would be judged in place of what is trained now
        for path in past:
            if path.exists():
                path.replace(path.with_name(f"previous-{path.name}"))
        write_json(folder / SETTINGS, {**kept, "code": code_hash()})
        tell_settings(loggers, kept)
    return {"settings": {**computed(kept), "label": settings.label}, "data": data.provenance()}
