"""Compose a configuration, check it, run one stage: `python run.py [group=choice ...] [key=value ...]`; `--help` lists both."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

log = logging.getLogger("run")
STAGES = ("train", "collect", "evaluate", "import", "benchmark")
SETTINGS = "settings.json"
MAX_LABEL = 60
# What does not make a run another one.
NOT_SETTINGS = ("run_dir", "logger", "stage", "shards")


class UsageError(ValueError):
    """A command that cannot be carried out; the message says what to change."""


def run_label(overrides: str) -> str:
    """A folder name for the overrides of a command: themselves where they make one, shortened with a hash otherwise."""
    safe = re.sub(r"[^\w.=,+-]", "_", overrides)
    if safe == overrides and len(safe) <= MAX_LABEL:
        return safe or "default"
    return f"{safe[: MAX_LABEL - 9]}-{hashlib.sha256(overrides.encode()).hexdigest()[:8]}"


OmegaConf.register_new_resolver("run_label", run_label)


@hydra.main(version_base="1.3", config_path="conf", config_name="run")
def command(config: DictConfig) -> None:
    """One command line, or one job of a multirun."""
    choices = HydraConfig.get().runtime.choices
    check_choices(choices)
    quieten()
    # Resolved once, here; nothing below sees a DictConfig.
    settings: dict[str, Any] = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    stage = settings["stage"]
    if stage not in STAGES:
        raise UsageError(f"stage: expected one of {', '.join(STAGES)}; found {stage!r}")
    settings["model_name"] = choices["model"]
    settings["model_was_chosen"] = any(o.startswith("model=") for o in HydraConfig.get().overrides.task)
    STAGE_FUNCTIONS[stage](settings)


def quieten() -> None:
    """Leave out what Lightning says of itself at every start; its warnings stay."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.trainer.connectors.checkpoint_connector"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning on torch 2.13, nothing of ours


def check_choices(choices: dict[str, Any]) -> None:
    """Raises UsageError for a task of another env than the one that was chosen."""
    env, task = choices["env"], choices.get("task")
    if task and not task.startswith(f"{env}_"):
        raise UsageError(f"task={task} does not belong to env={env}; leave env out, the task brings its own")


def train(settings: dict[str, Any]) -> None:
    """Collect what is missing, train, act with the best checkpoint on seeds of its own, write the row and the figure."""
    from callbacks.results import ROW, read_row
    from data.atomic import exclusive, write_json

    folder = Path(settings["run_dir"])
    compared = {key: value for key, value in settings.items() if key not in NOT_SETTINGS}
    with exclusive(folder / ".running"):
        check_same_run(folder, compared)
        if (row := read_row(folder / ROW)) is not None:
            log.info("finished before (%s); delete %s to run again", row["finished"], folder)
        else:
            check_buildable(settings)
            write_json(folder / SETTINGS, compared)
            begin = time.perf_counter()
            updates = fit(settings, folder)
            row = judge(settings, folder, folder / "checkpoints" / "best.ckpt", {"updates": updates}, begin)
        show(settings, folder, row)


def check_same_run(folder: Path, compared: dict[str, Any]) -> None:
    """Raises UsageError where the folder holds a run with other settings."""
    try:
        there = json.loads((folder / SETTINGS).read_text())
    except FileNotFoundError:
        return
    differ = sorted(changed(there, json.loads(json.dumps(compared))))
    if differ:
        raise UsageError(
            f"{folder} holds a run with other settings: {'; '.join(differ[:5])}; delete the folder, or give "
            "hydra.run.dir=ANOTHER"
        )


def changed(old: Any, new: Any, path: str = "") -> list[str]:
    """Sentences on what differs between two configurations."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        return [line for key in keys for line in changed(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))]
    return [] if old == new else [f"{path} is {old} there, {new} here"]


def check_buildable(settings: dict[str, Any]) -> None:
    """Build the model once for the env's task, so that a bad value is found before anything is collected."""
    from elmur.build import BuildError, build

    env = build(settings["env"], "env")["make"](num_envs=1)
    try:
        learner(settings).build_model(env.spec)
    except ValueError as error:
        raise error if isinstance(error, BuildError) else BuildError(f"model: {error}") from error
    finally:
        env.close()


def learner(settings: dict[str, Any]) -> Any:
    """The SequenceModule that the settings describe; its network is built later, for a task."""
    from elmur.build import build

    model = build({**settings["model"], "_partial_": True}, "model")
    return build(settings["module"], "module", model=model, model_config=settings["model"])


def datamodule(settings: dict[str, Any]) -> Any:
    """The data of the env, collected by its expert where they are missing."""
    from elmur.build import build

    return build(settings["data"], "data", collect=collector(settings))


def collector(settings: dict[str, Any]) -> Callable[[], Any]:
    """Collects what is missing of the env's data."""
    from functools import partial

    from data.collect import collect
    from elmur.build import call

    env = build_env(settings)
    arguments = {"expert": env["expert"], "root": settings["data"]["root"], "seed": 0, **env["collect"]}
    return partial(call, collect, arguments, "env.collect")


def build_env(settings: dict[str, Any]) -> dict[str, Any]:
    """The env section with its functions built."""
    from elmur.build import build

    env: dict[str, Any] = build(settings["env"], "env")
    return env


def fit(settings: dict[str, Any], folder: Path) -> int:
    """Train to the end, from the last checkpoint where there is one; the number of updates made in all."""
    import lightning

    from callbacks.checkpoint import AtomicCheckpointIO, resume_point
    from elmur.build import build

    lightning.seed_everything(settings["seed"], workers=True, verbose=False)
    module, data = learner(settings), datamodule(settings)
    trainer = build(
        settings["trainer"],
        "trainer",
        callbacks=list(build(settings["callbacks"], "callbacks").values()),
        logger=build(settings["logger"], "logger"),
        plugins=[AtomicCheckpointIO()],
        enable_checkpointing=False,
    )
    resume = resume_point(folder / "checkpoints")
    if resume is not None:
        log.info("going on from %s", resume)
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
    return int(trainer.global_step)


def judge(
    settings: dict[str, Any], folder: Path, checkpoint: Path, about: dict[str, Any], begin: float
) -> dict[str, Any]:
    """Act with a checkpoint in every variant of the env, on report seeds, and write the row."""
    from callbacks.checkpoint import load_policy
    from callbacks.evaluation import evaluate
    from callbacks.results import ROW, write_row

    env, how = build_env(settings), settings["evaluation"]
    probe = env["make"](num_envs=1)
    probe.close()
    policy = load_policy(checkpoint, probe.spec, sample=how["sample"], target_return=how["target_return"])
    trained = time.perf_counter() - begin
    outcomes = evaluate(policy, env["make"], env["variants"], how["num_episodes"], how["first_seed"], how["num_envs"])
    about = {
        "stage": settings["stage"],
        "task": env["id"],
        "model": settings["model_name"],
        "seed": settings["seed"],
        "metric": env["metric"],
        "checkpoint": str(checkpoint),
        "parameters": policy.model.num_parameters(),
        "train_seconds": trained,
        "actions": "sampled" if how["sample"] else "argmax",
        **about,
        "settings": settings,
    }
    return write_row(folder / ROW, outcomes, about)


def show(settings: dict[str, Any], folder: Path, row: dict[str, Any]) -> None:
    """The row as a table and, where its variants are numbered, as a figure."""
    from callbacks.report import draw_success, show_table
    from callbacks.results import ROW

    show_table(row)
    drawn = draw_success({row["model"]: row}, folder / "success.png", settings["env"].get("chance"))
    log.info("result row: %s", folder / ROW)
    if drawn:
        log.info("figure: %s", folder / "success.png")


def collect_data(settings: dict[str, Any]) -> None:
    """The shards that training would use, collected now."""
    shards = collector(settings)()
    log.info("%d shards in %s", len(shards), settings["data"]["root"])


def evaluate_checkpoint(settings: dict[str, Any]) -> None:
    """Act with a checkpoint; the row goes into the output folder."""
    from callbacks.checkpoint import CheckpointError, read_checkpoint

    if settings["checkpoint"] is None:
        raise UsageError("stage=evaluate needs a checkpoint: checkpoint=outputs/runs/.../checkpoints/best.ckpt")
    path = Path(settings["checkpoint"])
    found = read_checkpoint(path)["elmur"]["model"].get("_target_")
    if settings["model_was_chosen"] and found != settings["model"]["_target_"]:
        raise CheckpointError(f"{path}: expected model={settings['model_name']}, found {found}; leave model= out")
    folder = Path(settings["run_dir"])
    row = judge(settings, folder, path, {}, time.perf_counter())
    show(settings, folder, row)


def import_published(settings: dict[str, Any]) -> None:
    """A run of the published code as a checkpoint of ours."""
    from callbacks.published import import_run

    if settings["source"] is None:
        raise UsageError("stage=import needs a source: source=FOLDER of a published run, or one of its .pth files")
    path = import_run(Path(settings["source"]), Path(settings["run_dir"]) / "checkpoints" / "best.ckpt")
    log.info("checkpoint: %s", path)


def benchmark(settings: dict[str, Any]) -> None:
    """Speed of training, acting and data on this machine, as ratios."""
    from callbacks.benchmark import run_benchmarks

    run_benchmarks(settings["seed"], Path(settings["run_dir"]))


STAGE_FUNCTIONS = {
    "train": train,
    "collect": collect_data,
    "evaluate": evaluate_checkpoint,
    "import": import_published,
    "benchmark": benchmark,
}


def sentence(error: BaseException) -> str:
    """What went wrong, without the traceback."""
    text = str(error).strip()
    unknown = re.match(r"Could not override '([^']+)'", text)
    if unknown:
        return f"{unknown[1]}: there is no such setting; `python run.py --cfg job` shows those there are"
    return text or type(error).__name__


def main() -> None:
    """The command line: an error is one sentence and exit code 1; HYDRA_FULL_ERROR=1 shows the traceback."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        command()
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then lets errors through, to be said in our words
    try:
        command()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        sys.stderr.write(f"error: {sentence(error)}\n(HYDRA_FULL_ERROR=1 shows where)\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
