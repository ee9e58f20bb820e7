"""Sweeps on one machine or many: what failed is listed at the end, and with hydra/launcher=local runs are processes.

`sweep=NAME` is a multirun by itself (conf/sweep/NAME.yaml sets `hydra.mode`). A run that fails stops no other:
each tells how it ended in a journal in the sweep's folder, from which the main process makes the summary.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from joblib import cpu_count
from omegaconf import OmegaConf
from rich.filesize import decimal

from callbacks import signals
from callbacks.command.arguments import untyped, usual
from callbacks.command.identity import ROW, VALIDATION, check_same_run, place_of_data, portable, read_settings
from callbacks.command.journal import JOURNAL, ended, entries, note, summarise
from callbacks.command.label import folder_name
from callbacks.command.local import OUTPUT, Runs, options
from callbacks.command.processes import asked, starts_others
from callbacks.command.settings import Settings
from callbacks.errors import UsageError, sentence

log = logging.getLogger("sweep")
ANY = "any"  # the unit cost of a run that no override has a cost of its own for
FULL_ERROR = os.environ.get("HYDRA_FULL_ERROR") == "1"
Units = Mapping[str, Mapping[str, Any]]  # override -> seconds and megabytes of a run with it, on one core


class Sweep(Callback):
    """A Hydra callback: opens the journal when a multirun begins, and ends it with a summary and its exit code.

    report: whether it ends with the report on what it ran too. title: of that. costs: what a run takes, as in
    `forecast`, said before the first.
    """

    def __init__(self, report: bool = True, title: str | None = None, costs: Units | None = None) -> None:
        self._report, self._title, self._costs = report, title, costs or {}

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        if self._costs:
            log.info("%s", forecast(jobs(config), self._costs, config.hydra.launcher.get("n_jobs", 1)))
        folder = Path(config.hydra.sweep.dir).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if config.hydra.launcher._target_.endswith("SlurmLauncher"):
            signals.way_on(
                "the jobs stay with SLURM (squeue --me shows them, scancel ends them); when they are over, give the "
                "same command again to go on"
            )
        atexit.register(summarise)  # also where a signal ends the sweep
        os.environ[JOURNAL] = str(folder / f".sweep-{secrets.token_hex(4)}.jsonl")

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        folders = [Path(entry["folder"]) for entry in entries()]
        failed = summarise()
        if self._report:
            self._tell(config, list(dict.fromkeys(folders)))
        if failed:
            sys.exit(1)

    def _tell(self, config: Any, folders: list[Path]) -> None:
        """The report on the runs of this sweep, in a folder beside that of all runs."""
        if not any((folder / ROW).exists() for folder in folders):
            return
        from callbacks.command.parts import loggers
        from callbacks.loggers import tell_report
        from callbacks.report.report import TITLE, report

        overrides, asked = list(config.hydra.overrides.task), config.hydra.runtime.choices.get("sweep")
        told = sorted(one for one in overrides if not one.lstrip("+~").startswith(("hydra", "shards=", "logger")))
        name = asked or folder_name("+".join(told)) or "multirun"
        typed = [] if asked is None or f"sweep={asked}" in overrides else [f"sweep={asked}"]
        of_hydra = [one for one in config.hydra.overrides.hydra if one != "hydra.mode=MULTIRUN"]
        command = ["run.py", *options(config.hydra), *([] if asked else ["-m"]), *typed, *overrides, *of_hydra]
        place = Path(config.hydra.sweep.dir).resolve().parent / "reports" / name
        sinks = loggers(of_no_run(config.logger, place))
        made = report(
            folders, place, defaults=untyped, below=False, is_asked=asked is not None,
            title=title(asked, self._title) or self._title or TITLE,
            command=shlex.join(command),
        )  # fmt: skip
        tell_report(sinks, made)


def offer_launchers() -> None:
    """Put our launcher where Hydra looks for those there are: in a package of that name on the path."""
    if (place := str(Path(__file__).parent / "launchers")) not in sys.path:
        sys.path.append(place)


def is_job() -> bool:
    """Whether this is one run of a sweep that keeps a journal."""
    return JOURNAL in os.environ and "MULTIRUN" in str(HydraConfig.get().mode)


def score_in(folder: Path) -> float | None:
    """By what the best checkpoint of the training run in a folder was chosen; None where there is no such run."""
    from callbacks.report.row import read_row
    from callbacks.report.validation import Validation

    found = read_row(folder / ROW) or Validation.read(folder)
    return None if found is None else found.selection_score


def job(prepared: Callable[[], Settings], run: Callable[[], object]) -> float | None:
    """Carry out one run of a sweep; what goes wrong is noted, so that the others go on. Gives its `score_in`.

    prepared: gives the settings of the run. run: does it in this process; with hydra/launcher=local it is only begun.
    """
    about: dict[str, Any] = {
        "run": " ".join(HydraConfig.get().overrides.task),
        "folder": HydraConfig.get().runtime.output_dir,
        "log": log_file(),
    }
    begin, error = time.monotonic(), None
    note({**about, "state": "begun"})
    try:
        settings = prepared()
        if finished_before(settings):
            ended(about, begin, "kept")
            return score_in(Path(settings.run_dir))
        if Runs.present is not None:
            Runs.present.start({**about, "log": str(Path(about["folder"]) / OUTPUT)})
            return None
        check_alone(settings)
        run()
    except Exception as found:
        if FULL_ERROR:
            log.exception("of %s", about["run"])
        error = sentence(found)
    ended(about, begin, "failed" if error else "finished", error)
    return None if error else score_in(Path(about["folder"]))


def log_file() -> str:
    """Where the present Hydra job says what it does: a cluster's file for it, or its own."""
    hydra = HydraConfig.get()
    if "submitit" in str(hydra.launcher._target_):
        from submitit import JobEnvironment  # an extra

        return str(JobEnvironment().paths.stdout)
    return str(Path(hydra.runtime.output_dir) / f"{hydra.job.name}.log")


def finished_before(settings: Settings) -> bool:
    """Whether the folder of a training run holds its result. Raises UsageError for that of another run.

    Data in another place are others where the place of those is still there.
    """
    folder = Path(settings.run_dir)
    if settings.stage != "train" or not any((folder / name).exists() for name in (ROW, VALIDATION)):
        return False
    if check_same_run(folder, settings, usual):
        return False
    there, here = place_of_data(read_settings(folder)), place_of_data(portable(settings))
    if there != here and there.exists():
        raise UsageError(
            f"{folder} holds a run that was trained on {there}, not on {here}; runs of other data need folders of "
            "their own, as with hydra.sweep.dir=ANOTHER for each"
        )
    return True


def check_alone(settings: Settings) -> None:
    """Raises UsageError where several processes would have to be started for one job of this very process."""
    if starts_others() and asked(settings.trainer) > 1 and "submitit" not in str(HydraConfig.get().launcher._target_):
        raise UsageError(
            "trainer.devices: several processes for each run of a sweep need hydra/launcher=local or slurm, where "
            "every run has processes of its own"
        )


def title(sweep: str | None, own: str | None) -> str | None:
    """The title of the report on a sweep that was chosen by name: its own, or one that names it; None without one."""
    return (own or f"What sweep={sweep} reached") if sweep else None


def of_no_run(logger: Any, folder: Path) -> dict[str, Any] | None:
    """The section `logger` for what is told of a whole sweep, into `folder`: what is said of its single runs leaves."""
    raw: Any = OmegaConf.to_container(logger, resolve=False) if logger else None
    if not raw:
        return None
    return {key: value for key, value in raw.items() if "${" not in str(value)} | {"save_dir": str(folder)}


def jobs(config: Any) -> list[list[str]]:
    """The overrides of each run of a multirun, as Hydra's basic sweeper will launch them."""
    params = config.hydra.sweeper.get("params") or {}
    given = [f"{key}={value}" for key, value in params.items()] + list(config.hydra.overrides.task)
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    return [list(job) for job in BasicSweeper.split_arguments(parser.parse_overrides(given), None)[0]]


def forecast(jobs: Sequence[Sequence[str]], units: Units, at_once: int = 1) -> str:
    """How many runs there are, how long they take and how much disk.

    units: see Units; the first override of a job that has one gives its cost, else `any`. at_once: runs side by side,
    -1 for one a core. Raises KeyError where a job has no cost.
    """
    costs = [next((units[key] for key in job if key in units), units.get(ANY)) for job in jobs]
    known = [cost for cost in costs if cost is not None]
    if len(known) < len(costs):
        raise KeyError(ANY)
    side_by_side = max(1, min(len(jobs), cpu_count() if at_once == -1 else at_once))
    seconds = sum(float(cost["seconds"]) for cost in known) / side_by_side
    size = round(1e6 * sum(float(cost["megabytes"]) for cost in known))
    return (
        f"{len(jobs)} runs, {side_by_side} side by side: about {timedelta(seconds=60 * round(seconds / 60) or 60)} and "
        f"{decimal(size)} where none is finished; what is finished is kept, and the same command goes on"
    )
