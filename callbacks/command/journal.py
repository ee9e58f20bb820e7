"""How the runs of a sweep ended: each tells it in a file, from which the main process makes the summary."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from elmur.files import append_bytes

log = logging.getLogger("sweep")
JOURNAL = "ELMUR_SWEEP"  # in the environment: the file


def note(about: dict[str, Any]) -> None:
    """Add how a run ended to the journal."""
    append_bytes(os.environ[JOURNAL], (json.dumps(about) + "\n").encode())


def ended(about: Mapping[str, Any], begin: float, state: str, error: str | None = None) -> None:
    """Note and say how a run has ended."""
    note({**about, "state": state, "error": error})
    level = logging.ERROR if error else logging.INFO
    log.log(level, "%s after %.0f s: %s", state, time.monotonic() - begin, error or about["folder"])


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
