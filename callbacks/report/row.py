"""The result row: one JSON file that says what was run, with which seeds and versions, and how every episode ended."""

from __future__ import annotations

import datetime
import json
import platform
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from callbacks.command.identity import ROW as ROW
from callbacks.evaluation.outcomes import Outcome
from elmur.files import write_json

FORMAT = 1
KEYS = {"finished": str, "task": str, "model": str, "seed": int, "outcomes": dict}
OUTCOME_KEYS = ("episodes", *(key.name for key in fields(Outcome) if key.default is key.default_factory is MISSING))
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
    if missing := _missing(row):
        raise ValueError(f"{path}: expected a result row with {', '.join(missing)}; delete it to run again")
    return row


def _missing(row: Mapping[str, Any]) -> list[str]:
    """What every row has and this one has not, or not as it should be."""
    missing = [key for key, kind in KEYS.items() if not isinstance(row.get(key), kind)]
    if "outcomes" in missing:
        return missing
    found = {f"outcomes.{name}": outcome for name, outcome in row["outcomes"].items()} or {"outcomes.<variant>": None}
    for name, outcome in found.items():
        if isinstance(outcome, Mapping):
            missing += [f"{name}.{key}" for key in OUTCOME_KEYS if key not in outcome]
        else:
            missing.append(name)
    return missing


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a result, those that are installed."""
    found = {"python": platform.python_version()}
    for package in ("elmur", *PACKAGES):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
