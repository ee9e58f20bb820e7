"""The error of a shard, and the check that two tasks are one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from elmur.spec import TaskSpec

RECOLLECT = "delete the file and collect it again"


class ShardError(ValueError):
    """A shard that cannot be written or trusted: which file, which key, what was found and expected, what to do."""

    def __init__(self, file: Path | str, key: str = "", found: str = "", expected: str = "", advice: str = "") -> None:
        self.file, self.key, self.found, self.expected, self.advice = str(file), key, found, expected, advice
        if not key:  # a DataLoader builds the error of its worker anew from the worker's traceback: keep its last line
            super().__init__(str(file).strip().splitlines()[-1].split("ShardError: ", 1)[-1])
            return
        wanted = f", expected {expected}" if expected else ""
        super().__init__(f"shard {file}, {key}: found {found}{wanted}; {advice or RECOLLECT}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.file, self.key, self.found, self.expected, self.advice)


def require_same_task(file: Path | str, expected: TaskSpec, found: TaskSpec) -> None:
    """Raises ShardError unless `found` is the expected task: the same name, the same shapes and kinds."""
    differences = expected.differences(found)
    if found.name != expected.name:
        differences.insert(0, f"task '{found.name}'")
    if differences:
        advice = "keep each task's shards in a folder of its own"
        raise ShardError(file, "spec", "; ".join(differences), f"task '{expected.name}'", advice)
