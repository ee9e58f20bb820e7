"""Sweeps on one machine or many: what failed is listed at the end, and with hydra/launcher=local runs are processes.

`sweep=NAME` is a multirun by itself (conf/sweep/NAME.yaml sets `hydra.mode`). A run that fails stops no other:
each tells how it ended in a journal in the sweep's folder, from which the main process makes the summary.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from joblib import cpu_count

from callbacks import signals
from callbacks.command.arguments import untyped, usual
from callbacks.command.forecast import forecast, jobs
from callbacks.command.identity import ROW, VALIDATION, check_same_run
from callbacks.command.label import folder_name
from callbacks.command.processes import asked, starts_others
from callbacks.command.settings import Settings
from callbacks.errors import UsageError, sentence
from elmur.children import end_with_parent
from elmur.files import append_bytes

log = logging.getLogger("sweep")
JOURNAL = "ELMUR_SWEEP"  # in the environment: where the runs of a sweep tell how they ended
OUTPUT = "output.log"
LOOK_EVERY = 0.1  # seconds
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
FULL_ERROR = os.environ.get("HYDRA_FULL_ERROR") == "1"
RUN = Path(__file__).resolve().parents[2] / "run.py"


class Sweep(Callback):
    """A Hydra callback: opens the journal when a multirun begins, and ends it with a summary and its exit code.

    report: whether it ends with the report on what it ran too. title: of that. costs: what a run takes, as in
    `callbacks.command.forecast.forecast`, said before the first.
    """

    def __init__(
        self, report: bool = True, title: str | None = None, costs: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
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
        from callbacks.report.report import TITLE, report

        overrides, asked = list(config.hydra.overrides.task), config.hydra.runtime.choices.get("sweep")
        told = sorted(one for one in overrides if not one.lstrip("+~").startswith(("hydra", "shards=", "logger")))
        name = asked or folder_name("+".join(told)) or "multirun"
        typed = [] if asked is None or f"sweep={asked}" in overrides else [f"sweep={asked}"]
        report(
            folders, Path(config.hydra.sweep.dir).resolve().parent / "reports" / name, defaults=untyped, below=False,
            is_asked=asked is not None, title=self._title or (f"What sweep={asked} reached" if asked else TITLE),
            command=shlex.join(["run.py", *([] if asked else ["-m"]), *typed, *overrides]),
        )  # fmt: skip


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


def ended(about: Mapping[str, Any], begin: float, state: str, error: str | None = None) -> None:
    """Note and say how a run has ended."""
    note({**about, "state": state, "error": error})
    level = logging.ERROR if error else logging.INFO
    log.log(level, "%s after %.0f s: %s", state, time.monotonic() - begin, error or about["folder"])


def finished_before(settings: Settings) -> bool:
    """Whether the folder of a training run holds its result. Raises UsageError for that of another run."""
    folder = Path(settings.run_dir)
    if settings.stage != "train" or not any((folder / name).exists() for name in (ROW, VALIDATION)):
        return False
    return not check_same_run(folder, settings, usual)


def check_alone(settings: Settings) -> None:
    """Raises UsageError where several processes would have to be started for one job of this very process."""
    if starts_others() and asked(settings.trainer) > 1 and "submitit" not in str(HydraConfig.get().launcher._target_):
        raise UsageError(
            "trainer.devices: several processes for each run of a sweep need hydra/launcher=local or slurm, where "
            "every run has processes of its own"
        )


class Runs:
    """Runs side by side, each a process that begins with nothing and can neither harm the others nor leave anything.

    They end with the process that started them, in whatever way it ends, and save what they have.
    """

    present: ClassVar[Runs | None] = None  # those that the jobs of this process are begun in

    def __init__(self, count: int) -> None:
        cores = cpu_count()
        if count == 0 or count < -1:
            raise UsageError(f"hydra.launcher.n_jobs: expected 1 or more, or -1 for one per core; found {count}")
        self.count = cores if count == -1 else count
        # The cores are shared among the runs; of the variables, a library may follow any, so one that is set sets all.
        given = (os.environ[name] for name in THREADS if name in os.environ)
        self._threads = next(given, str(max(1, cores // self.count)))
        self._running: dict[subprocess.Popen[bytes], tuple[dict[str, Any], float]] = {}

    def start(self, about: dict[str, Any]) -> None:
        """Begin the run of the present Hydra job."""
        environment = {name: value for name, value in os.environ.items() if name not in (JOURNAL, "HYDRA_FULL_ERROR")}
        for name in THREADS:
            environment.setdefault(name, self._threads)
        folder = Path(about["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / OUTPUT).open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, str(RUN), *arguments(folder)], cwd=HydraConfig.get().runtime.cwd, env=environment,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                preexec_fn=partial(end_with_parent, signal.SIGTERM),
            )  # fmt: skip
        self._running[process] = (about, time.monotonic())

    def wait(self, below: int) -> None:
        """Until fewer than so many run. Where a signal asks for the end they are asked too, and all are waited for."""
        asked_to_end = False
        while len(self._running) >= below:
            if signals.received() and not asked_to_end:
                asked_to_end, below = True, 1
                signals.acting()
                for process in self._running:
                    process.send_signal(signal.SIGTERM)
            for process in [process for process in self._running if process.poll() is not None]:
                about, begin = self._running.pop(process)
                error = how_it_failed(process.returncode, Path(about["log"]))
                ended(about, begin, "failed" if error else "finished", error)
            time.sleep(LOOK_EVERY)
        if asked_to_end:
            summarise()
            signals.leave()


def arguments(folder: Path) -> list[str]:
    """The command line of the present Hydra job, as a run by itself into `folder`."""
    hydra = HydraConfig.get()
    found = [f"--config-name={hydra.job.config_name}"]
    for source in hydra.runtime.config_sources:
        option = {"main": "--config-path", "command-line": "--config-dir"}.get(source.provider)
        found += [f"{option}={source.path}"] if option else []
    ours = re.compile(r"[+~]*hydra[./](launcher|sweeper|sweep|mode|run|callbacks)\b")
    found += [override for override in hydra.overrides.hydra if not ours.match(override)]
    return [*found, *hydra.overrides.task, f"hydra.run.dir={quoted(folder)}", "hydra.mode=RUN"]


def quoted(text: Path | str) -> str:
    """A text as a value in Hydra's grammar, whatever signs are in it."""
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", str(text))
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return "'" + escaped.replace("${", "\\${") + "'"


def how_it_failed(code: int, output: Path) -> str | None:
    """What went wrong in a run, in a sentence, by its exit code and what it said; None where nothing did."""
    if code == 0:
        return None
    if code < 0 or code > 128:
        number = -code if code < 0 else code - 128
        return (
            f"ended by signal {number} ({signal.strsignal(number)}); the same command goes on from its last checkpoint"
        )
    lines = output.read_text(errors="replace").splitlines()
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return said[-1] if said else f"exit code {code}"


def title(sweep: str | None) -> str | None:
    """The title of the report on a sweep that was chosen by name; None where none was."""
    asked = HydraConfig.get().callbacks["sweep"].get("title") if sweep else None
    return asked or (f"What sweep={sweep} reached" if sweep else None)


def note(about: dict[str, Any]) -> None:
    """Add how a run ended to the journal."""
    append_bytes(os.environ[JOURNAL], (json.dumps(about) + "\n").encode())


def entries() -> list[dict[str, Any]]:
    """What the journal holds; nothing where none is kept, or no run has begun."""
    try:
        return [json.loads(line) for line in Path(os.environ.get(JOURNAL, "/dev/null")).read_text().splitlines()]
    except FileNotFoundError:
        return []


def summarise() -> int:
    """The number of failed runs, each of which is named; 0 where no journal was kept. Closes the journal."""
    found = entries()
    path = Path(os.environ.pop(JOURNAL, "/dev/null"))
    if not found:
        return 0
    path.unlink()
    last = {entry["folder"]: entry for entry in found}  # a job that was put back into the queue has begun twice
    states = [entry["state"] for entry in last.values()]
    counts = {"finished": "finished", "kept": "had been finished before", "failed": "failed", "begun": "did not end"}
    told = [f"{states.count(state)} {words}" for state, words in counts.items() if state != "begun" or state in states]
    log.info("sweep: %s", ", ".join(told))
    failed = [entry for entry in last.values() if entry["state"] == "failed"]
    for entry in failed:
        log.error("failed: %s: %s; see %s", entry["run"], entry["error"], entry["log"])
    lost = [entry for entry in last.values() if entry["state"] == "begun"]
    for entry in lost:
        log.error("did not end: %s: it was killed, or runs still; see %s", entry["run"], entry["log"])
    return len(failed) + len(lost)
