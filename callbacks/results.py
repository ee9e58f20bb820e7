"""The result row: one JSON file that says what was run, with which seeds and versions, and how every episode ended."""

from __future__ import annotations

import datetime
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from callbacks.checks import ROW as ROW
from callbacks.evaluation import Outcome
from data.atomic import write_json

FORMAT = 1
PACKAGES = ("torch", "lightning", "gymnasium", "numpy", "h5py", "popgym", "mani_skill")


def write_row(
    path: Path | str, outcomes: Mapping[str, Outcome], about: Mapping[str, Any], reference: Any = None
) -> dict[str, Any]:
    """Write the row of one evaluation and give it back; `about` is plain JSON values (task, seed, settings, ...).

    reference: what is known of the task, a dataclass with the mean returns `random` and `expert` and the method
    `normalised` (0 for random play, 1 for the expert); it is noted beside the returns, with the normalised score.
    """
    found = {name: outcome.to_json() for name, outcome in outcomes.items()}
    if reference is not None:
        about = {**about, "reference": asdict(reference)}
        for name, outcome in outcomes.items():
            found[name]["normalised"] = reference.normalised(outcome.mean_return)
    row = {
        "format": FORMAT,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **about,
        "versions": versions(),
        "outcomes": found,
    }
    write_json(path, row)
    return row


def read_row(path: Path | str) -> dict[str, Any] | None:
    """A row that `write_row` wrote; None where there is none. Raises ValueError for a damaged one."""
    try:
        row = json.loads(Path(path).read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path}: expected a result row in JSON, found {error}; delete it to run again") from error
    if not isinstance(row, dict) or row.get("format") != FORMAT:
        raise ValueError(f"{path}: expected a result row of format {FORMAT}; delete it to run again")
    return row


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a result, those that are installed."""
    found = {"python": platform.python_version()}
    for package in ("elmur", *PACKAGES):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
