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
    "elmur.clock.DatedByStart": "elmur.published.quirks.DatedByStart",
    "elmur.clock.Mirrored": "elmur.published.quirks.Mirrored",
    "elmur.optim.PublishedTokenCosine": "elmur.published.quirks.PublishedTokenCosine",
    "elmur.positional.PublishedRelative": "elmur.published.quirks.PublishedRelative",
    "elmur.selfattention": "elmur.attention",
    "elmur.steps": "elmur.clock",
    "envs.mikasa_archive": "envs.mikasa.archive",
    "envs.popgym_archive": "envs.popgym.archive",
    "lightning.pytorch.callbacks.EarlyStopping": "callbacks.early_stopping.EarlyStopping",  # which can be interrupted
}
# What a flag switched is a thing of its own now: the flag's default, and what is named where it had another value
# (None: the same; `all_candidates` alone changed no slot, and stood beside `replace_empty` in all that is published).
FLAGS: dict[str, dict[str, tuple[bool, str | None]]] = {
    "elmur.memory.LRU": {
        "replace_empty": (True, "elmur.published.quirks.PublishedLRU"),
        "all_candidates": (False, None),
    },
    "elmur.memory.ReplaceAll": {"stamp": (True, "elmur.published.quirks.PublishedReplaceAll")},
    "elmur.optim.adamw": {"decay_all": (False, "elmur.published.quirks.adamw_on_all")},
}
NAME = re.compile(r"(?P<name>[A-Za-z_]\w*(\.[A-Za-z_]\w*)+)(?P<revision> \(revision \d+\))?")


def current(name: str) -> str:
    """The dotted name by which a thing is known today; a name that has not moved comes back as it is."""
    module, _, attribute = name.rpartition(".")
    moved = MOVED.get(name) or (f"{current(module)}.{attribute}" if module else name)
    return moved if moved == name else current(moved)


def renamed(node: Any) -> Any:
    """The same nest of plain values with every dotted name in it as it is today; a revision behind it stays."""
    if isinstance(node, dict):
        new = {key: renamed(value) for key, value in node.items()}
        for flag, (usual, otherwise) in FLAGS.get(str(new.get("_target_")), {}).items():
            if new.pop(flag, usual) != usual and otherwise:
                new["_target_"] = otherwise
        return new
    if isinstance(node, list):
        return [renamed(value) for value in node]
    if isinstance(node, str) and (found := NAME.fullmatch(node)):
        return current(found["name"]) + (found["revision"] or "")
    return node
