"""Compose a configuration, check it, run one stage: `python run.py [group=choice ...] [key=value ...]`; see --help."""

from __future__ import annotations

if __name__ == "__main__":  # before the imports that take seconds: a signal during them is not to lose the job
    from callbacks import signals

    signals.install()
import operator
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf

from callbacks import signals
from callbacks.command import sweeps
from callbacks.command.allocator import keep_freed_memory
from callbacks.command.arguments import expanded, explained
from callbacks.command.identity import remove_traces
from callbacks.command.journal import summarise
from callbacks.command.label import READ, run_label, what_was_set
from callbacks.command.local import command_line
from callbacks.command.packages import offer_settings
from callbacks.command.parts import named
from callbacks.command.processes import check_shared, is_first_process, settle
from callbacks.command.quiet import quieten, sturdy_output
from callbacks.command.resume import check_folder, check_folders, resumed
from callbacks.command.settings import Settings, check_choices, check_read, check_spelling, in_force
from callbacks.command.targets import allow_typed_plugins, guard_composition, refuse_pickles
from callbacks.errors import refuse
from elmur.children import end_with_parent
from envs import suites

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
    """Check the configuration and carry out its stage, a file of `callbacks/stages`."""
    settings = prepared(config)
    named("stage", settings.stage)(settings)


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
    check_read(overrides, unresolved)
    label = what_was_set(overrides, unresolved, without=READ)
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
        "command": command_line(),
        "title": sweeps.title(choices.get("sweep"), (HydraConfig.get().callbacks.get("sweep") or {}).get("title")),
    }
    settings = Settings.of(tree, **about)
    if settings.resume is not None:
        found = resumed(tree, overrides)
        about |= {"model_name": found.pop("model_name"), "label": found.pop("label", None)}
        settings = Settings.of({key: value for key, value in found.items() if key != "code"}, **about)
    check_shared(vars(settings), processes)
    check_folder(Path(settings.run_dir))
    return settings


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
        summarise()
        refuse(explained(error, sys.argv[1:]))


if __name__ == "__main__":
    with signals.quick_end():
        main()
