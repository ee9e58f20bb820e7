"""Compose a configuration, check it, run one stage: `python run.py [group=choice ...] [key=value ...]`; see --help."""

from __future__ import annotations

if __name__ == "__main__":  # before the imports that take seconds: a signal during them is not to lose the job
    from callbacks import signals

    signals.install()
import logging
import operator
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from callbacks import signals
from callbacks.command import sweeps
from callbacks.command.allocator import keep_freed_memory
from callbacks.command.choices import check_choices, in_force
from callbacks.command.identity import (
    SETTINGS,
    alone_in,
    check_no_run,
    check_same_run,
    comparable,
    run_label,
)
from callbacks.command.parts import build_env, build_trainer, check_buildable, learner, plan
from callbacks.command.processes import check_shared, is_first_process, settle
from callbacks.command.quiet import quieten
from callbacks.command.registry import PLATFORM
from callbacks.command.resume import expanded, resumed
from callbacks.command.settings import check_settings, check_variants
from callbacks.command.targets import allow_typed_plugins, guard_composition, refuse_pickles
from callbacks.errors import UsageError, refuse
from elmur.children import end_with_parent
from envs import suites

log = logging.getLogger("run")
FULL_ERROR = os.environ.get("HYDRA_FULL_ERROR") == "1"
OmegaConf.register_new_resolver("run_label", run_label)
OmegaConf.register_new_resolver("times", operator.mul)
OmegaConf.register_new_resolver("suite", suites.number)


@hydra.main(version_base="1.3", config_path="conf", config_name="run")
def command(config: DictConfig) -> None:
    """One command line, or one job of a multirun."""
    if sweeps.is_job():
        sweeps.job(partial(prepared, config), partial(run_stage, config))
        return
    if HydraConfig.get().mode is RunMode.MULTIRUN or FULL_ERROR:
        run_stage(config)  # Hydra says which of its jobs an error belongs to
        return
    try:
        run_stage(config)
    except Exception as error:
        refuse(error)


def run_stage(config: DictConfig) -> None:
    """Check the configuration and carry out its stage."""
    settings = prepared(config)
    STAGE_FUNCTIONS[settings["stage"]](settings)


def prepared(config: DictConfig) -> dict[str, Any]:
    """The settings of a configuration, checked."""
    signals.install()  # again, for a job that a launcher has started
    choices, overrides = HydraConfig.get().runtime.choices, HydraConfig.get().overrides.task
    check_choices(choices)
    processes = settle(OmegaConf.to_container(config.trainer, resolve=True))  # type: ignore[arg-type]
    if processes > 1 and not is_first_process():
        end_with_parent()
    quieten()
    keep_freed_memory()
    # Resolved once, here; nothing below sees a DictConfig.
    settings: dict[str, Any] = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    settings = in_force(settings, overrides)
    check_settings(settings)
    settings["model_name"] = choices["model"]
    settings["model_was_chosen"] = any(o.startswith("model=") for o in overrides)
    settings = resumed(settings, overrides)
    check_shared(settings, processes)
    return settings


def train(settings: dict[str, Any]) -> None:
    """Collect what is missing, train, act with the best checkpoint on seeds of its own, write row and figure."""
    import torch

    from callbacks.report.row import ROW, read_row
    from callbacks.report.show import show
    from callbacks.selection import chosen
    from data.provenance import code_version
    from elmur.files import write_json

    folder = Path(settings["run_dir"])
    compared = {**comparable(settings), "code": code_version()}
    with alone_in(folder):
        check_same_run(folder, compared, settings["allow_mismatch"])
        if (row := read_row(folder / ROW)) is not None:
            log.info("finished before (%s); delete %s to run again", row["finished"], folder)
        else:
            check_buildable(settings)
            if is_first_process():
                write_json(folder / SETTINGS, {**compared, "shards": settings["shards"]})
            updates, seconds = fit(settings, folder)
            about = {"updates": updates, "train_seconds": seconds, "threads": torch.get_num_threads()}
            row = judge(settings, folder, chosen(folder / "checkpoints"), about)
        if is_first_process():
            show(row, folder, settings["env"].get("chance"))


def datamodule(settings: dict[str, Any]) -> Any:
    """The data of the env, collected by its expert where they are missing."""
    from elmur.build import build

    data = build(settings["data"], "data", "data", PLATFORM, collect=collector(settings))
    data.allow_other_data = "data" in settings["allow_mismatch"]
    return data


def collector(settings: dict[str, Any]) -> Callable[[], Any]:
    """Collects what is missing of the env's data."""
    from data.collect import collect
    from elmur.build import build, call

    how = build(settings["collect"], "collect", "env", PLATFORM)
    expert = build(settings["env"]["expert"], "env.expert", "expert", PLATFORM)
    return partial(call, collect, {"expert": expert, "root": settings["data"]["root"], "seed": 0, **how}, "collect")


def fit(settings: dict[str, Any], folder: Path) -> tuple[int, float]:
    """Train to the end, from the last checkpoint where there is one; updates and seconds in all."""
    import lightning
    from lightning.pytorch.callbacks import Timer

    from callbacks.checkpoint import LAST, resume_point
    from callbacks.selection import chosen

    lightning.seed_everything(settings["seed"], workers=True, verbose=False)
    module, data, trainer = learner(settings), datamodule(settings), build_trainer(settings)
    timer = Timer()  # of training alone, without collecting, and of what was done before an interruption too
    trainer.callbacks.append(timer)
    resume = resume_point(folder / "checkpoints")
    if resume is not None:
        log.info("going on from %s", resume)
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    signals.leave()
    # Where no callback that writes one was asked for. All processes save, or none.
    if not trainer.strategy.broadcast(chosen(folder / "checkpoints").exists()):
        trainer.save_checkpoint(folder / "checkpoints" / LAST)
    return int(trainer.global_step), timer.time_elapsed()


def judge(settings: dict[str, Any], folder: Path, checkpoint: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Act with a checkpoint in every variant of the env, on report seeds, and write the row."""
    from callbacks.evaluation.device import placed
    from callbacks.evaluation.evaluate import Halfway, evaluate
    from callbacks.evaluation.video import check_filmable, film
    from callbacks.report.row import ROW, write_row
    from elmur.checkpoint import load_model
    from elmur.policy import StreamingPolicy

    env, how = build_env(settings), plan(settings)
    check_filmable(env, how.video)
    model, length = load_model(checkpoint, check_variants(env))
    side_by_side, on_gpu = min(how.num_envs, how.num_episodes), settings["trainer"].get("accelerator") != "cpu"
    policy = StreamingPolicy(placed(model, length, side_by_side, how.device, on_gpu), length, **how.acting)
    halfway = Halfway.of(folder, checkpoint, settings)
    outcomes = evaluate(policy, env["make"], env["variants"], *how.asked, isolation=how.isolation, halfway=halfway)  # type: ignore[misc]
    about = {
        "stage": settings["stage"],
        "task": env["id"],
        "model": settings["model_name"],
        "seed": settings["seed"],
        "metric": env["metric"],
        "suite": env.get("suite"),
        "checkpoint": str(checkpoint),
        "parameters": policy.model.num_parameters(),
        "evaluation_seconds": sum(outcome.wall_seconds for outcome in outcomes.values()),
        "actions": "sampled" if how.sample else "argmax",
        **about,
        "settings": settings,
    }
    row = write_row(folder / ROW, outcomes, about, env.get("reference")) if is_first_process() else {}
    if how.video and is_first_process():
        film(policy, env["render"], next(iter(env["variants"].values())), how.video, how.first_seed, folder)
    halfway.remove()
    return row


def collect_data(settings: dict[str, Any]) -> None:
    """The shards that training would use, collected now."""
    shards = collector(settings)()
    log.info("%d shards in %s", len(shards), settings["data"]["root"])


def convert_archive(settings: dict[str, Any]) -> None:
    """A published archive as shards where training looks for them."""
    from data.convert import convert

    env, data = build_env(settings), settings["data"]
    if settings["source"] is None or env.get("archive") is None:
        known = "an env whose archive was published, task=popgym_... or task=mikasa_... observation=rgb"
        raise UsageError(f"stage=convert needs source=FOLDER of npz files, and {known}")
    normalise = bool(settings["collect"].get("normalise"))
    shards = convert(env["archive"](), settings["source"], data["root"], data["on_bad_shard"], normalise=normalise)
    log.info("%d shards in %s", len(shards), data["root"])


def evaluate_checkpoint(settings: dict[str, Any]) -> None:
    """Act with a checkpoint; the row goes into the output folder."""
    from callbacks.report.show import show
    from elmur.checkpoint import CheckpointError, read_checkpoint
    from elmur.files import exclusive
    from elmur.registry import MODELS

    if settings["checkpoint"] is None:
        raise UsageError("stage=evaluate needs a checkpoint: checkpoint=outputs/runs/.../checkpoints/best.ckpt")
    learner(settings)  # refuses unknown keys, though the model comes from the checkpoint
    path = Path(settings["checkpoint"])
    found = read_checkpoint(path)["elmur"]["model"]
    target = str(found.get("_target_"))
    if settings["model_was_chosen"] and target != settings["model"]["_target_"]:
        raise CheckpointError(f"{path}: expected model={settings['model_name']}, found {target}; leave model= out")
    settings = {**settings, "model": found, "model_name": MODELS.short_name(target, "model")}
    folder = Path(settings["run_dir"])
    with exclusive(folder / ".running"):
        check_no_run(folder)
        row = judge(settings, folder, path, {})
        show(row, folder, settings["env"].get("chance"))


def import_published(settings: dict[str, Any]) -> None:
    """A run of the published code as a checkpoint of ours."""
    from elmur.published.run import import_run

    if settings["source"] is None:
        raise UsageError("stage=import needs a source: source=FOLDER of a published run, or one of its .pth files")
    check_no_run(folder := Path(settings["run_dir"]))
    path = import_run(Path(settings["source"]), folder / "checkpoints" / "best.ckpt")
    log.info("checkpoint: %s", path)


def benchmark(settings: dict[str, Any]) -> None:
    """Speed of training, acting and data on this machine, as ratios."""
    from callbacks.benchmark.gpu import tables
    from callbacks.benchmark.run import run_benchmarks
    from data.imagespeed import measure_images

    parts = learner(settings), datamodule(settings), build_env(settings)
    others = {"pictures": measure_images, **tables(*parts[:2])}
    run_benchmarks(settings["seed"], Path(settings["run_dir"]), *parts, others)


def report_runs(settings: dict[str, Any]) -> None:
    """What the runs below a folder reached, as tables, files and figures."""
    from callbacks.report.suite import report

    report(Path(settings["source"] or "outputs/runs"), Path(settings["run_dir"]))


STAGE_FUNCTIONS = {
    "train": train,
    "collect": collect_data,
    "convert": convert_archive,
    "evaluate": evaluate_checkpoint,
    "report": report_runs,
    "import": import_published,
    "benchmark": benchmark,
}


def guarded() -> None:
    """The command, once what it names was allowed and what it must not do was refused."""
    refuse_pickles(sys.argv[1:])
    allow_typed_plugins(sys.argv[1:])
    sys.argv[1:] = expanded(sys.argv[1:])
    command()


def main() -> None:
    """The command line: an error is one sentence and exit code 1; HYDRA_FULL_ERROR=1 shows the traceback."""
    guard_composition()
    if FULL_ERROR:
        return guarded()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then lets errors through, to be said in our words
    try:
        guarded()
    except Exception as error:
        sweeps.summarise()
        refuse(error)


if __name__ == "__main__":
    with signals.quick_end():
        main()
