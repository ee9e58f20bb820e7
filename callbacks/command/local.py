"""The runs of a sweep on this machine, with hydra/launcher=local: each is a process of its own."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.types import RunMode
from joblib import cpu_count

from callbacks import signals
from callbacks.command.journal import JOURNAL, ended, summarise
from callbacks.command.settings import CONF
from callbacks.errors import UsageError
from elmur.children import end_with_parent

OUTPUT = "output.log"
LOOK_EVERY = 0.1  # seconds
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
RUN = Path(__file__).resolve().parents[2] / "run.py"


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
    ours = re.compile(r"[+~]*hydra[./](launcher|sweeper|sweep|mode|run|callbacks)\b")
    others = [override for override in hydra.overrides.hydra if not ours.match(override)]
    return [*options(hydra), *others, *hydra.overrides.task, f"hydra.run.dir={quoted(folder)}", "hydra.mode=RUN"]


def options(hydra: Any) -> list[str]:
    """The options of a command line by which it finds a configuration that is not conf/run.yaml alone."""
    found = [f"--config-name={hydra.job.config_name}"] if hydra.job.config_name != "run" else []
    for source in hydra.runtime.config_sources:
        option = {"main": "--config-path", "command-line": "--config-dir"}.get(source.provider)
        found += [f"{option}={source.path}"] if option and Path(source.path) != CONF else []
    return found


def command_line() -> str:
    """The present command as it can be typed again; a job of a multirun as a run by itself into its folder."""
    hydra = HydraConfig.get()
    if hydra.mode is RunMode.MULTIRUN:
        folder, here = Path(hydra.runtime.output_dir), Path(hydra.runtime.cwd)
        return shlex.join(["run.py", *arguments(folder.relative_to(here) if folder.is_relative_to(here) else folder)])
    return shlex.join(["run.py", *options(hydra), *hydra.overrides.task, *hydra.overrides.hydra])


def quoted(text: Path | str) -> str:
    """A text as a value in Hydra's grammar, whatever signs are in it."""
    return QuotedString(str(text), Quote.single).with_quotes().replace("${", "\\${")


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
