"""`resume=FOLDER`: the training run in a folder goes on with the settings that it was started with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from callbacks.command.identity import PLACE, SETTINGS, run_label
from callbacks.errors import UsageError
from elmur.aliases import renamed

KEY = "resume="
# What may be said anew beside it: where the run is carried out, and who is told of it.
FREE = (
    "resume",
    "plugins",
    "allow_mismatch",
    "logger",
    "shards",
    *(f"{section}.{key}" for section in PLACE for key in PLACE[section]),
)


def expanded(arguments: list[str]) -> list[str]:
    """The arguments of a command with the output folder that they imply: of `resume=FOLDER`, or of a report."""
    if "stage=report" in arguments and not any(argument.startswith("hydra.run.dir=") for argument in arguments):
        sources = [argument for argument in arguments if argument.startswith("source=")]
        return [*arguments, f"hydra.run.dir=outputs/reports/{run_label(','.join(sources))}"]
    folders = [argument.removeprefix(KEY) for argument in arguments if argument.startswith(KEY)]
    return arguments + [f"hydra.run.dir={folder}" for folder in folders if folder not in ("", "null")]


def resumed(settings: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The settings of the run to go on with, at the places of this command; without `resume` they are as they came.

    Raises UsageError where there is no run, or where the command asks for other settings than the run's.
    """
    if settings["resume"] is None:
        return settings
    folder = Path(settings["resume"])
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if not any(key == free or key.startswith(f"{free}.") for free in FREE):
            raise UsageError(f"resume={folder} takes its settings from that folder; leave {override} out")
    try:
        there = renamed(json.loads((folder / SETTINGS).read_text()))
    except FileNotFoundError:
        raise UsageError(f"resume={folder}: there is no training run in that folder") from None
    except ValueError as error:
        raise UsageError(f"{folder / SETTINGS}: damaged ({error}); give the run's own command instead") from error
    chosen = any(override.startswith("shards=") for override in overrides)
    places = {"run_dir": settings["run_dir"], "shards": settings["shards"] if chosen else there["shards"]}

    def placed(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: placed(value) for key, value in node.items()}
        if isinstance(node, list):
            return [placed(value) for value in node]
        for name, place in places.items() if isinstance(node, str) else ():
            node = place + node[len(name) + 3 :] if node.startswith(f"${{{name}}}") else node
        return node

    found = {**settings, **placed(there), **places, "resume": None}
    here = {
        section: {**found[section], **{key: settings[section][key] for key in keys if key in settings[section]}}
        for section, keys in PLACE.items()
    }
    return {**found, **here}
