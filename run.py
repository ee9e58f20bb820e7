"""Compose a configuration, check it, run one stage: `python run.py [group=choice ...] [key=value ...]`; see --help."""

from __future__ import annotations

if __name__ == "__main__":  # before the imports that take seconds: a signal during them is not to lose the job
    from callbacks import signals

    signals.install()
import logging
import operator
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf

from callbacks import signals
from callbacks.command import sweeps
from callbacks.command.allocator import keep_freed_memory
from callbacks.command.arguments import expanded, explained, folders, usual
from callbacks.command.choices import check_choices, in_force
from callbacks.command.identity import (
    ROW,
    SETTINGS,
    alone_in,
    check_no_run,
    check_same_run,
    computed,
    evaluation_identity,
    portable,
    remove_traces,
)
from callbacks.command.label import DEFAULT, READ, run_label
from callbacks.command.packages import offer_settings
from callbacks.command.parts import (
    check_buildable,
    check_return,
    check_seeds,
    check_variants,
    env_family,
    evaluation_plan,
    learner,
    loggers,
    trainer,
)
from callbacks.command.processes import check_shared, is_first_process, settle
from callbacks.command.quiet import quieten, sturdy_output
from callbacks.command.registry import PLATFORM
from callbacks.command.resume import check_folder, check_folders, resumed
from callbacks.command.settings import Settings, check_spelling
from callbacks.command.targets import allow_typed_plugins, guard_composition, refuse_pickles
from callbacks.errors import UsageError, refuse
from elmur.children import end_with_parent
from envs import suites

if TYPE_CHECKING:
    from callbacks.report.row import Row
    from callbacks.report.validation import Validation
    from data.datamodule import TrajectoryDataModule
    from elmur.module import SequenceModule
    from elmur.sequence_model import SequenceModel
    from elmur.spec import TaskSpec
    from envs.family import EnvFamily

log = logging.getLogger("run")
LARGEST_SPEC = 1 << 20  # bytes of a TaskSpec in JSON
NO_SOURCE = (
    "stage=convert needs source=FOLDER and its format, reader=minari, lerobot, robomimic or npz; or source=FOLDER of a "
    "published archive and an env that has one, task=popgym_... or task=mikasa_... observation=rgb"
)
FULL_ERROR = os.environ.get("HYDRA_FULL_ERROR") == "1"


def label_of(overrides: ListConfig, *, _root_: DictConfig) -> str:
    """What the overrides of a command set, for `${run_label:...}` in the name of a folder."""
    return run_label(list(overrides), OmegaConf.to_container(_root_, resolve=False))  # type: ignore[arg-type]


OmegaConf.register_new_resolver("run_label", label_of)
OmegaConf.register_new_resolver("times", operator.mul)
OmegaConf.register_new_resolver("rounded_up", lambda number, parts: -(-number // parts))  # of the division
OmegaConf.register_new_resolver("suite", suites.number)


@hydra.main(version_base="1.3", config_path="conf", config_name="run")
def command(config: DictConfig) -> float | None:
    """One command line, or one job of a multirun; gives by what the best checkpoint was chosen, where one was."""
    if sweeps.is_job():
        return sweeps.job(partial(prepared, config), partial(run_stage, config))
    if HydraConfig.get().mode is RunMode.MULTIRUN or FULL_ERROR:
        run_stage(config)  # Hydra says which of its jobs an error belongs to
        return sweeps.score_in(Path(HydraConfig.get().runtime.output_dir))
    try:
        run_stage(config)
    except Exception as error:
        remove_traces(Path(HydraConfig.get().runtime.output_dir))
        refuse(error)
    return None  # of one command nobody asks


def run_stage(config: DictConfig) -> None:
    """Check the configuration and carry out its stage."""
    settings = prepared(config)
    STAGE_FUNCTIONS[settings.stage](settings)


def prepared(config: DictConfig) -> Settings:
    """The settings of a configuration, checked."""
    signals.install()  # again, for a job that a launcher has started
    choices, overrides = HydraConfig.get().runtime.choices, list(HydraConfig.get().overrides.task)
    check_spelling(overrides)
    check_choices(choices)
    processes = settle(OmegaConf.to_container(config.trainer, resolve=True))  # type: ignore[arg-type]
    if processes > 1 and not is_first_process():
        end_with_parent()
    quieten()
    keep_freed_memory()
    unresolved: Any = OmegaConf.to_container(config, resolve=False)
    label = run_label(overrides, unresolved, without=READ)
    if HydraConfig.get().job.chdir:  # what is relative was typed where the command was
        for key in ("shards", "checkpoint", "source", "spec"):
            if config.get(key):
                config[key] = str(Path(HydraConfig.get().runtime.cwd, config[key]))
    # Resolved once, here; nothing below sees a DictConfig.
    tree: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    tree = in_force(tree, overrides)
    about = {
        "model_name": choices["model"],
        "model_was_chosen": any(o.startswith("model=") for o in overrides),
        "label": label,
        "command": shlex.join(["run.py", *overrides]),
    }
    settings = Settings.of(tree, **about)
    if settings.resume is not None:
        found = resumed(tree, overrides)
        about |= {"model_name": found.pop("model_name"), "label": found.pop("label", None)}
        settings = Settings.of({key: value for key, value in found.items() if key != "code"}, **about)
    check_shared(vars(settings), processes)
    check_folder(Path(settings.run_dir))
    return settings


def train(settings: Settings) -> None:
    """Collect what is missing, train, act with the best checkpoint on seeds of its own, write row and figure."""
    from callbacks.report.row import read_row
    from callbacks.report.show import show
    from callbacks.results import Result, open_until_the_end, tell_result
    from callbacks.selection import chosen
    from elmur.code import code_hash

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
            if is_first_process():
                show(row, folder, family.chance)
            return
        check_buildable(settings, partial(recorded_task, settings))
        with open_until_the_end(sinks := loggers(settings)):
            about = fit(settings, folder, sinks)
            about.pop("validation")
            row = judge(settings, folder, chosen(folder / "checkpoints"), about)
            if is_first_process():
                show(row, folder, family.chance)
                tell_result(sinks, Result.of(row, folder))


def validated(settings: Settings, folder: Path, again: bool) -> None:
    """Train on trajectories alone, and say how well the last weights foretell actions that were not trained on."""
    from callbacks.report.validation import Validation
    from callbacks.results import open_until_the_end

    found = Validation.read(folder)
    if found is not None and not again:
        log.info("finished before; delete %s to run again", folder)
        tell_of_other_shards(settings, folder)
    else:
        check_buildable(settings, partial(recorded_task, settings))
        with open_until_the_end(sinks := loggers(settings)):
            found = fit(settings, folder, sinks)["validation"]
    if is_first_process():
        if found is None:
            log.warning("nothing was validated; data.validation_fraction=0.1 keeps episodes for it")
        else:
            found.write(folder)
            found.show(folder)


def watchable(settings: Settings) -> EnvFamily:
    """The world of the settings; of trajectories alone one that shows them again, in which a policy can be watched."""
    from data.replay import Replay

    family = env_family(settings)
    if family.make is not None:
        return family
    log.warning(
        "env=%s: recorded episodes are shown again, whatever is done: success and return say nothing", family.name
    )
    make: Any = partial(Replay, root=settings.data["root"])
    return replace(family, make=make, variants={"recorded": {}})


def recorded_task(settings: Settings) -> TaskSpec:
    """The task of the shards that are there."""
    from data.index import task_of

    return task_of(settings.data["root"])


def tell_of_other_shards(settings: Settings, folder: Path) -> None:
    """Say where a finished run is shown although other data are asked for."""
    from callbacks.command.identity import read_settings

    there = read_settings(folder).get("shards")
    if there is not None and Path(there).resolve() != Path(settings.shards).resolve():
        log.warning(
            "what is shown was trained on the shards in %s; give hydra.run.dir=ANOTHER to train on those in %s",
            there, settings.shards,
        )  # fmt: skip


def datamodule(settings: Settings, module: SequenceModule) -> TrajectoryDataModule:
    """The data of the env as the module reads them, collected by its expert where they are missing."""
    from elmur.build import build

    collect = None if env_family(settings).make is None else collector(settings)
    made: TrajectoryDataModule = build(settings.data, "data", "data", PLATFORM, collect=collect)
    made.allow_other_data = "data" in settings.allow_mismatch
    made.reads = module.objective.reads
    return made


def collector(settings: Settings) -> Callable[[], Any]:
    """Collects what is missing of the env's data."""
    from data.collect import collect
    from elmur.build import build, call

    env_family(settings).check_acts()
    how, expert = build(settings.collect, "collect", "env", PLATFORM), env_family(settings).expert
    return partial(call, collect, {"expert": expert, "root": settings.data["root"], "seed": 0, **how}, "collect")


def fit(settings: Settings, folder: Path, sinks: list[Any]) -> dict[str, Any]:
    """Train to the end, from the last checkpoint where there is one; what the row says of it."""
    import lightning
    from lightning.pytorch import Callback

    from callbacks.checkpoint import LAST, resume_point
    from callbacks.record import Clock, RunRecord
    from callbacks.selection import RolloutSelection, chosen

    lightning.seed_everything(settings.seed, workers=True, verbose=False)
    module, loop = learner(settings), trainer(settings, sinks)
    data = datamodule(settings, module)
    record = RunRecord(lambda: accept(settings, folder, data, loop.loggers))
    given: list[Callback] = loop.callbacks  # type: ignore[attr-defined]
    clock = Clock([callback for callback in given if isinstance(callback, RolloutSelection)])
    given[:] = [record, *given, clock]
    resume = resume_point(folder / "checkpoints")
    if resume is not None:
        log.info("going on from %s", resume)
    loop.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    signals.leave()
    if loop.global_step == 0:
        raise UsageError("no update was made, so there is nothing to judge; look at trainer.max_steps and the like")
    # Where no callback that writes one was asked for. All processes save, or none.
    if not loop.strategy.broadcast(chosen(folder / "checkpoints").exists()):
        loop.save_checkpoint(folder / "checkpoints" / LAST)
    validation = validation_of(settings, module, data) if env_family(settings).make is None else None
    return {"updates": int(loop.global_step), "validation": validation, **clock.spent()}


def validation_of(settings: Settings, module: SequenceModule, data: TrajectoryDataModule) -> Validation | None:
    """How the weights do on the validation episodes; None where there are none."""
    from callbacks.report.validation import Validation

    if not data.validation_episodes:
        return None
    (found,) = module.trainer.validate(module, datamodule=data, verbose=False)
    return Validation.of(
        data.spec,
        found["validation/loss"],
        found["validation/score"],
        task=data.spec.name,
        model=settings.model_name,
        seed=settings.seed,
        updates=int(module.trainer.global_step),
        episodes=data.validation_episodes,
    )


def accept(settings: Settings, folder: Path, data: TrajectoryDataModule, loggers: list[Any]) -> dict[str, Any]:
    """Write down what is trained, now that nothing refuses it; this is kept in its checkpoints too."""
    from callbacks.results import tell_settings
    from elmur.code import code_hash
    from elmur.files import write_json

    kept = portable(settings)
    if is_first_process():
        write_json(folder / SETTINGS, {**kept, "code": code_hash()})
        if (folder / ROW).exists():  # of fewer updates, or judged otherwise
            (folder / ROW).replace(folder / f"previous-{ROW}")
        tell_settings(loggers, kept)
    return {"settings": {**computed(kept), "label": settings.label}, "data": data.provenance()}


def judge(settings: Settings, folder: Path, checkpoint: Path, about: dict[str, Any]) -> Row:
    """Act with a checkpoint in every variant of the env, on report seeds, and write the row."""
    from callbacks.evaluation.device import placed
    from callbacks.evaluation.evaluate import evaluate
    from callbacks.evaluation.halfway import Halfway
    from callbacks.evaluation.video import check_filmable, film
    from callbacks.report.row import row_of
    from callbacks.selection import BEST
    from elmur.checkpoint import CheckpointError, load_model
    from elmur.code import code_hash
    from elmur.policy import StreamingPolicy

    family, plan = env_family(settings), evaluation_plan(settings)
    check_filmable(family, plan.video)
    try:
        model, length = load_model(checkpoint, check_variants(family))
    except CheckpointError as error:
        if settings.stage == "train" and checkpoint.name == BEST:
            raise CheckpointError(f"{error}; delete it, and the same command judges the last one") from error
        raise
    check_return(model, plan)
    side_by_side, on_gpu = min(plan.num_envs, plan.num_episodes), settings.trainer.get("accelerator") != "cpu"
    policy = StreamingPolicy(placed(model, length, side_by_side, plan.device, on_gpu), length, **plan.acting)
    identity = evaluation_identity(settings, checkpoint)
    halfway, begin = Halfway.of(folder, f"{identity} {code_hash()}"), time.process_time()
    outcomes = evaluate(policy, family.world, family.variants, plan, halfway=halfway)
    about |= {"identity": identity, "evaluation_cpu_seconds": time.process_time() - begin}
    sampled = plan.sample or policy.model.head.generative
    about |= {"parameters": policy.model.num_parameters(), "actions": "sampled" if sampled else "argmax"}
    if plan.cost_after:
        about |= cost_of_one(model, length, plan.cost_after)
    row = row_of(settings, family, checkpoint, outcomes, about)
    if is_first_process():
        row.write(folder / ROW)
        if plan.video:
            assert family.render is not None
            film(policy, family.render, next(iter(family.variants.values())), plan.video, plan.first_seed, folder)
    halfway.remove()
    return row


def cost_of_one(model: SequenceModel, context_length: int, history: int) -> dict[str, float | int]:
    """What a step of one episode takes and what is held for the next after so many, as a row has it."""
    from callbacks.benchmark.policy_cost import cost_of_acting

    (found,) = cost_of_acting(model, context_length, histories=(history,))
    return {"step_ms": found.ms, "state_bytes": found.state_bytes}


def collect_data(settings: Settings) -> None:
    """The shards that training would use, collected now."""
    served = collector(settings)()
    log.info("%d shards in %s", len(served.paths), settings.data["root"])


def convert_data(settings: Settings) -> None:
    """Episodes of another format as shards where training looks for them; with a writer, those in its format."""
    from data.convert import convert
    from data.readers.archive import Archive
    from elmur.build import build

    family, data = env_family(settings), settings.data
    if settings.writer is not None:
        made = build(settings.writer, "writer", "writer", PLATFORM)(root=data["root"])
        log.info("%s, made of the shards in %s", made, data["root"])
        return
    if settings.reader is not None and settings.reader.get("source", "") is not None:
        reader, spec = build(settings.reader, "reader", "reader", PLATFORM), task_to_convert_to(settings, family)
    elif family.archive is not None and settings.source is not None:
        decoder = family.archive()
        reader, spec = partial(Archive, decoder, settings.source), decoder.spec
    else:
        raise UsageError(NO_SOURCE)
    source, normalise = str(settings.source or settings.reader["_target_"]), bool(settings.collect.get("normalise"))  # type: ignore[index]
    shards = convert(reader, data["root"], source, spec, data["on_bad_shard"], normalise=normalise)
    log.info("%d shards in %s", len(shards), data["root"])


def task_to_convert_to(settings: Settings, family: EnvFamily) -> TaskSpec | str:
    """The task of a file, spec=FILE, or of the env; its name alone where there are neither."""
    from elmur.build import call
    from elmur.files import read_text
    from elmur.spec import SpecError, TaskSpec

    if settings.spec is not None:
        try:
            return TaskSpec.from_json(read_text(settings.spec, most=LARGEST_SPEC))
        except (SpecError, ValueError, OSError) as error:
            raise UsageError(f"spec={settings.spec}: expected a TaskSpec in JSON, found {error}") from error
    if family.make is None:
        return family.id
    env = call(family.make, {"num_envs": 1}, "env.make")
    try:
        spec: TaskSpec = env.spec
    finally:
        env.close()
    return spec


def evaluate_checkpoint(settings: Settings) -> None:
    """Act with a checkpoint; the row, of the checkpoint's own model, seed and settings, goes into the output folder."""
    from callbacks.checkpoint import LAST
    from callbacks.record import origin_of, selection_seeds
    from callbacks.report.row import read_row
    from callbacks.report.show import show
    from elmur.checkpoint import CheckpointError, checkpoint_in, read_checkpoint
    from elmur.files import exclusive
    from elmur.registry import MODELS

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
        else:
            raise UsageError(f"{folder} holds the row of another evaluation; give hydra.run.dir=ANOTHER")
        show(row, folder, env_family(settings).chance)


def export_policy(settings: Settings) -> None:
    """A checkpoint as a folder that acts without this repository."""
    from callbacks.export.export import ExportPlan, export
    from callbacks.report.row import read_row
    from elmur.build import call
    from elmur.checkpoint import checkpoint_in, load_policy, read_checkpoint

    if settings.checkpoint is None:
        raise UsageError("stage=export needs a checkpoint: checkpoint=outputs/runs/.../checkpoints/best.ckpt")
    plan: ExportPlan = call(ExportPlan, dict(settings.export), "export")
    path, family = checkpoint_in(Path(settings.checkpoint)), watchable(settings)
    check_no_run(folder := Path(settings.run_dir))
    policy = load_policy(path, check_variants(family), target_return=settings.evaluation["target_return"])
    row, run_folder = None, path.parent.parent
    if (run_folder / ROW).is_file():
        row = read_row(run_folder / ROW)
    seeds = evaluation_plan(settings).seeds
    with alone_in(folder):
        export(policy, read_checkpoint(path), family, plan, seeds, folder / "policy", row)


def import_published(settings: Settings) -> None:
    """A run of the published code as a checkpoint of ours."""
    from elmur.published.run import import_run

    if settings.source is None:
        raise UsageError("stage=import needs a source: source=FOLDER of a published run, or one of its .pth files")
    check_no_run(folder := Path(settings.run_dir))
    path = import_run(Path(settings.source), folder / "checkpoints" / "best.ckpt")
    log.info("checkpoint: %s", path)


def benchmark(settings: Settings) -> None:
    """Speed of training, acting and data on this machine, as ratios."""
    from callbacks.benchmark.run import run_benchmarks

    module = learner(settings)
    parts = module, datamodule(settings, module), env_family(settings)
    run_benchmarks(settings.seed, Path(settings.run_dir), *parts)


def doctor(settings: Settings) -> None:
    """What the run of these settings could learn, what it leaves without effect, and what it would cost."""
    from callbacks.inspect import doctor

    check_buildable(settings, partial(recorded_task, settings))
    family, plan = env_family(settings), evaluation_plan(settings)
    with TemporaryDirectory() as folder:
        windows, patient = examined(settings, Path(folder))
    said, sheet = doctor.findings(patient)
    said += doctor.schedule(patient.module, patient.size, windows[0].num_steps)
    said += doctor.costs(patient, family.make, family.variants, plan).findings()
    doctor.show(said, [sheet], Path(settings.run_dir), {"label": settings.label, "model": settings.model_name})


def examined(settings: Settings, folder: Path) -> tuple[list[Any], Any]:
    """Windows of one episode of a few lanes, and all that the doctor looks at; what is missing is collected here."""
    import lightning

    from callbacks.inspect import doctor
    from data.forecast import step_bytes
    from data.index import find_shards

    family, few = env_family(settings), {"num_workers": 0, "lanes": doctor.LANES, "validation_fraction": 0.0}
    if there := find_shards(Path(settings.data["root"])):
        asked = replace(settings, data={**settings.data, **few, "verify": False})
    else:
        left_out = ("check", "noise", "mixture")
        collect = {key: value for key, value in settings.collect.items() if key not in left_out}
        collect |= {"num_episodes": doctor.EPISODES, "num_envs": doctor.LANES, "shard_episodes": doctor.EPISODES}
        asked = replace(settings, data={**settings.data, **few, "root": str(folder)}, collect=collect)

    def learner_of(sections: Mapping[str, Any]) -> Any:
        lightning.seed_everything(settings.seed, workers=False, verbose=False)
        module = learner(replace(settings, **sections))
        module.build_model(spec)
        return module

    data = datamodule(asked, learner(settings))
    if there:  # what there is, be it fewer episodes than are asked for
        data.collect = None
    data.prepare_data()
    data.setup()
    spec, sections = data.spec, {"model": settings.model, "module": settings.module}
    cut = {"context_length": settings.module["context_length"], "backprop_segments": settings.data["backprop_segments"]}
    regime = doctor.regime_of(family.make, family.variants, spec.horizon, **cut)
    number = min(doctor.MOST_WINDOWS, -(-regime.segments // regime.backprop_segments))
    windows = list(islice(data.train_dataloader(), number))
    taken = sum(path.stat().st_size for path in there)
    if not there:
        taken = settings.collect.get("num_episodes", 0) * (spec.horizon or 0) * step_bytes(spec)
    run = doctor.Size(settings.data["lanes"], settings.trainer.get("max_steps") or 0, taken, bool(there))
    return windows, doctor.Patient(learner_of(sections), windows, learner_of, sections, regime, run)


def inspect_checkpoint(settings: Settings) -> None:
    """What the memory of a checkpoint holds and does: a page, arrays and tables."""
    from callbacks.inspect.microscope import InspectPlan, check_memory, look
    from elmur.build import call
    from elmur.checkpoint import checkpoint_in, load_model

    if settings.checkpoint is None:
        raise UsageError("stage=inspect needs a checkpoint: checkpoint=FOLDER of a run, or one of its checkpoints")
    check_no_run(folder := Path(settings.run_dir))
    family, plan = watchable(settings), call(InspectPlan, dict(settings.inspect or {}), "inspect")
    spec = check_variants(family)
    path = checkpoint_in(Path(settings.checkpoint))
    model, length = load_model(path, spec)
    check_memory(model, length, spec.horizon, str(path))
    acting = {key: settings.evaluation[key] for key in ("sample", "target_return")}
    look(model, length, family, plan, acting, folder)


def report_runs(settings: Settings) -> None:
    """What the runs below folders reached, as a page, tables, files and figures."""
    from callbacks.report.report import report

    asked = HydraConfig.get().runtime.choices.get("sweep")
    about: dict[str, Any] = {"is_asked": asked is not None, "command": settings.command}
    if asked:
        about["title"] = HydraConfig.get().callbacks["sweep"].get("title") or f"What sweep={asked} reached"
    report(folders(settings.source or "outputs/runs"), Path(settings.run_dir), defaults=usual, **about)


STAGE_FUNCTIONS = {
    "train": train,
    "collect": collect_data,
    "convert": convert_data,
    "evaluate": evaluate_checkpoint,
    "report": report_runs,
    "import": import_published,
    "benchmark": benchmark,
    "doctor": doctor,
    "inspect": inspect_checkpoint,
    "export": export_policy,
}


def guarded() -> None:
    """The command, once what it names was allowed and what it must not do was refused."""
    refuse_pickles(sys.argv[1:])
    allow_typed_plugins(sys.argv[1:])
    sys.argv[1:] = expanded(sys.argv[1:])
    check_folders(sys.argv[1:])
    command()


def main() -> None:
    """The command line: an error is one sentence and exit code 1; HYDRA_FULL_ERROR=1 shows the traceback."""
    sturdy_output()
    # The rooms are not installed: what is started from here, a launcher's jobs too, finds them beside this file.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    guard_composition()
    sweeps.offer_launchers()
    offer_settings()
    if FULL_ERROR:
        return guarded()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then lets errors through, to be said in our words
    try:
        guarded()
    except Exception as error:
        sweeps.summarise()
        refuse(explained(error, sys.argv[1:]))


if __name__ == "__main__":
    with signals.quick_end():
        main()
