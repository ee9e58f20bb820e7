"""Tables of tasks that are reported together, with what was published on them; a CSV file each, beside this one."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
NUMBERS = ("context_length", "segments", "max_length")  # of the published configurations


class SuiteError(ValueError):
    """A suite or a task that there is no table of."""


@dataclass(frozen=True)
class SuiteTask:
    """One task: its group and family, the published configuration, published mean return or success by method."""

    group: str
    family: str
    numbers: dict[str, int]
    published: dict[str, float]


@dataclass(frozen=True)
class Suite:
    """The tasks of a suite in their order, and published sums, if any: method -> group ("all" is one) -> sum."""

    tasks: dict[str, SuiteTask]
    sums: dict[str, dict[str, float]]

    @property
    def groups(self) -> list[str]:
        """All tasks together, then their groups."""
        return list(dict.fromkeys(["all", *[task.group for task in self.tasks.values()]]))

    def members(self, group: str) -> list[str]:
        """The tasks of a group."""
        return [name for name, task in self.tasks.items() if group in ("all", task.group)]


@cache
def read(name: str) -> Suite:
    """The suite of that name. Raises SuiteError where there is none."""
    known = sorted(path.stem for path in FOLDER.glob("*.csv") if not path.stem.endswith("_sums"))
    if name not in known:
        raise SuiteError(f"suite: expected one of {', '.join(known)}; found {name!r}")
    tasks = {}
    for line in read_table(FOLDER / f"{name}.csv"):
        fixed = {key: line.pop(key) for key in ("task", "group", "family")}
        numbers = {key: int(line.pop(key)) for key in NUMBERS if key in line}
        published = {key: float(value) for key, value in line.items() if value}
        tasks[fixed["task"]] = SuiteTask(fixed["group"], fixed["family"], numbers, published)
    sums = FOLDER / f"{name}_sums.csv"
    lines = read_table(sums) if sums.exists() else []
    return Suite(tasks, {line.pop("method"): {key: float(value) for key, value in line.items()} for line in lines})


def number(suite: str, task: str, key: str) -> int:
    """A number of the published configuration of a task, for `${suite:...}` in a configuration."""
    tasks = read(suite).tasks
    if task not in tasks:
        raise SuiteError(f"{task} is not one of the {len(tasks)} tasks of {suite}, whose published {key} was asked for")
    return tasks[task].numbers[key]


def read_table(path: Path) -> list[dict[str, str]]:
    """The lines of a CSV file, less those that begin with #, as dictionaries by its first one."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))
