"""Sweeps on one machine or many: each local run in a process of its own, and what failed is listed at the end.

`sweep=NAME` is a multirun by itself (conf/sweep/NAME.yaml sets `hydra.mode`). A run that fails stops no other:
each tells how it ended in a journal in the sweep's folder, from which the main process makes the summary.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback

from callbacks.command.arguments import usual
from callbacks.command.identity import ROW, check_same_run
from callbacks.command.settings import Settings
from callbacks.errors import sentence
from elmur.children import end_with_parent
from elmur.files import append_bytes

log = logging.getLogger("sweep")
JOURNAL = "ELMUR_SWEEP"  # in the environment: where the runs of a sweep tell how they ended
OUTPUT = "output.log"
RUN = Path(__file__).resolve().parents[2] / "run.py"


class Sweep(Callback):
    """A Hydra callback: opens the journal when a multirun begins, and ends it with a summary and its exit code."""

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[JOURNAL] = str(folder / f".sweep-{secrets.token_hex(4)}.jsonl")

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        if summarise():
            sys.exit(1)


def is_job() -> bool:
    """Whether this is one run of a sweep that keeps a journal."""
    return JOURNAL in os.environ and "MULTIRUN" in str(HydraConfig.get().mode)


def job(prepared: Callable[[], Settings], run: Callable[[], object]) -> None:
    """Carry out one run of a sweep; what goes wrong is noted, so that the others go on.

    prepared: gives the settings of the run. run: does the run in this process, which a cluster's job has to itself;
    beside others on one machine it gets a process of its own, so that it can neither take them with it nor leave
    anything behind.
    """
    about: dict[str, Any] = {
        "run": " ".join(HydraConfig.get().overrides.task),
        "folder": HydraConfig.get().runtime.output_dir,
        "log": None,
    }
    begin, error = time.monotonic(), None
    try:
        settings = prepared()
        if kept := finished_before(settings):
            about["state"] = "kept"
        elif "joblib" in str(HydraConfig.get().launcher._target_):
            about["log"] = str(Path(about["folder"]) / OUTPUT)
            error = run_apart(Path(about["folder"]))
        else:
            run()
    except Exception as found:
        kept, error = False, sentence(found)
    if not kept:
        about |= {"state": "failed", "error": error} if error else {"state": "finished"}
    note(about)
    level = logging.ERROR if error else logging.INFO
    log.log(level, "%s after %.0f s: %s", about["state"], time.monotonic() - begin, error or about["folder"])


def finished_before(settings: Settings) -> bool:
    """Whether the folder of a training run holds its row. Raises UsageError for the row of another run."""
    folder = Path(settings.run_dir)
    if settings.stage != "train" or not (folder / ROW).exists():
        return False
    return not check_same_run(folder, settings, usual)


def run_apart(folder: Path) -> str | None:
    """Do the run of this Hydra job in a process of its own; what went wrong in it, in a sentence, or None.

    How many threads it may use is in its environment: joblib shares the cores among the jobs that it runs side by side.
    """
    hydra = HydraConfig.get()
    command = [sys.executable, str(RUN), *hydra.overrides.task, f"hydra.run.dir={folder}", "hydra.mode=RUN"]
    environment = {name: value for name, value in os.environ.items() if name not in (JOURNAL, "HYDRA_FULL_ERROR")}
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / OUTPUT).open("wb") as output:
        code = subprocess.run(
            command, cwd=hydra.runtime.cwd, env=environment, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, preexec_fn=partial(end_with_parent, signal.SIGTERM),
        ).returncode  # fmt: skip
    if code == 0:
        return None
    if code < 0:
        return f"ended by signal {-code} ({signal.strsignal(-code)}); the same command goes on from its last checkpoint"
    lines = (folder / OUTPUT).read_text(errors="replace").splitlines()
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return said[-1] if said else f"exit code {code}"


def note(about: dict[str, Any]) -> None:
    """Add how a run ended to the journal."""
    append_bytes(os.environ[JOURNAL], (json.dumps(about) + "\n").encode())


def summarise() -> int:
    """The number of failed runs, each of which is named; 0 where no journal was kept. Closes the journal."""
    path = Path(os.environ.pop(JOURNAL, "/dev/null"))
    try:
        entries = [json.loads(line) for line in path.read_text().splitlines()]
    except FileNotFoundError:  # no run has begun
        return 0
    if not entries:
        return 0
    path.unlink()
    states = [entry["state"] for entry in entries]
    counts = {"finished": "finished", "kept": "had been finished before", "failed": "failed"}
    log.info("sweep: %s", ", ".join(f"{states.count(state)} {words}" for state, words in counts.items()))
    failed = [entry for entry in entries if entry["state"] == "failed"]
    for entry in failed:
        log.error("failed: %s: %s; see %s", entry["run"], entry["error"], entry["log"] or entry["folder"])
    return len(failed)
