"""Where things that files name have moved to: import paths are a storage format.

Checkpoints, the settings of runs and the records of collections hold dotted names. What moves leaves a line here, and
whoever reads a name from a file asks `current` first.
"""

from __future__ import annotations

import re
from typing import Any

# What was named there is named here now; a module stands for all that was in it.
MOVED = {
    "callbacks.slurm": "callbacks.command.slurm",
    "callbacks.sweeps": "callbacks.command.sweeps",
    "elmur.board": "elmur.encoders",
    "elmur.selfattention": "elmur.attention",
    "elmur.steps": "elmur.clock",
    "envs.mikasa_archive": "envs.mikasa.archive",
    "envs.popgym_archive": "envs.popgym.archive",
}
NAME = re.compile(r"(?P<name>[A-Za-z_]\w*(\.[A-Za-z_]\w*)+)(?P<revision> \(revision \d+\))?")


def current(name: str) -> str:
    """The dotted name by which a thing is known today; a name that has not moved comes back as it is."""
    module, _, attribute = name.rpartition(".")
    if name in MOVED:
        return MOVED[name]
    return f"{current(module)}.{attribute}" if module else name


def renamed(node: Any) -> Any:
    """The same nest of plain values with every dotted name in it as it is today; a revision behind it stays."""
    if isinstance(node, dict):
        return {key: renamed(value) for key, value in node.items()}
    if isinstance(node, list):
        return [renamed(value) for value in node]
    if isinstance(node, str) and (found := NAME.fullmatch(node)):
        return current(found["name"]) + (found["revision"] or "")
    return node
