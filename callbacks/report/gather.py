"""Result rows of many runs: found below a folder, and grouped by what was computed.

Rows are seeds of one another where nothing that counts differs but the seed: what a run computes is its settings
(callbacks/command/identity.py), the data it was trained on and, for a checkpoint that acted once more, which one.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from callbacks.command.identity import SETTINGS, VALIDATION, essence
from callbacks.command.label import DEFAULT, readable, short
from callbacks.command.settings import leaves
from callbacks.report.row import ROW, Row, read_row
from elmur.aliases import renamed

log = logging.getLogger(__name__)
ABSENT = object()  # a value that no setting has
DATA = ("episodes", "collection")  # of what a row says of its data: what does not depend on who wrote the files
Question = tuple[str, str, str | None]
Reference = dict[str, float]
Essence = dict[str, Any]  # dotted key -> its value, in a form that can be hashed


SAID = ("output.log", "run.log")  # of a run: what it said, its error in the end
TAIL = 4000  # characters of it that are read


@dataclass(frozen=True)
class Group:
    """Rows of one stage and one model; of each task those of one computation, a row for each seed.

    label: what was set by the command, and where rows of that label differ nonetheless, by what. common: the parts of
    it that all groups which are reported have, which need not be said of each. references: by task, the mean returns of
    random play and of the expert that all rows beside each other are normalised by.
    """

    stage: str
    model: str
    label: str
    metric: str
    suite: str | None
    found: tuple[Found, ...]
    common: frozenset[str] = frozenset()
    references: Mapping[str, Reference] = field(default_factory=dict)

    @property
    def question(self) -> Question:
        """What can stand in one table with it: groups of this stage, metric and suite."""
        return self.stage, self.metric, self.suite

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows alone."""
        return tuple(one.row for one in self.found)

    @property
    def name(self) -> str:
        """Model and settings."""
        own = "+".join(part for part in self.label.split("+") if part not in (*self.common, DEFAULT))
        name = f"{self.model} ({own})" if own else self.model
        return name if self.stage == "train" else f"{name}, acting again"

    def by_task(self) -> dict[str, list[Row]]:
        """The rows of each task, by seed."""
        found: dict[str, list[Row]] = {task: [] for task in sorted({row.task for row in self.rows})}
        for row in sorted(self.rows, key=lambda row: -1 if row.seed is None else row.seed):
            found[row.task].append(row)
        return found


@dataclass(frozen=True)
class Found:
    """A row, where it lies, and what it computed: its settings without the seed."""

    path: Path
    row: Row
    label: str
    computed: Essence

    @classmethod
    def at(cls, path: Path, row: Row) -> Found:
        """What a row says of itself; of before, its label is the name of its folder."""
        seed, settings = row.seed, essence(renamed(row.settings))
        of_seed = [key for key, value in settings.items() if key.endswith(".seed") and value == seed]
        settings |= dict.fromkeys(of_seed, "${seed}")
        # A digest depends on how episodes lie in files, so it counts where nothing else tells one file from another.
        data = DATA if is_collected(row) else (*DATA, "digest")
        about = {f"data.{key}": value for key, value in leaves({key: row.data[key] for key in data if key in row.data})}
        if row.stage == "evaluate":
            about["checkpoint"] = None if row.checkpoint is None else Path(row.checkpoint).name
        settings.pop("seed", None)
        return cls(
            path, row, path.parent.parent.name if row.label is None else row.label, _comparable({**settings, **about})
        )


@dataclass
class Gathered:
    """What lies in folders of runs: groups of rows, and what is no row, by folder with the reason.

    unfinished: runs that have begun and have no row; failed: those of them that ended with an error, which is told;
    refused: commands that were refused before anything was done; left_out: rows that are damaged, or copies.
    validated: runs on trajectories alone, in which nobody acted.
    """

    groups: list[Group] = field(default_factory=list)
    unfinished: list[Path] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)
    refused: dict[Path, str] = field(default_factory=dict)
    left_out: dict[Path, str] = field(default_factory=dict)
    validated: list[Path] = field(default_factory=list)

    def leave_out(self, path: Path, why: str) -> None:
        """Count a row that is not reported, and say it."""
        self.left_out[path] = why
        log.warning("left out: %s", why)

    def read(self, folder: Path, names: Iterable[str]) -> Found | None:
        """The row in a folder with files of these names; a run that has none is counted."""
        if ROW in names:
            try:
                row = read_row(folder / ROW)
                return None if row is None else Found.at(folder / ROW, row)
            except (ValueError, OSError) as error:
                self.leave_out(folder / ROW, str(error))
        elif VALIDATION in names:
            self.validated.append(folder)
        elif why := next((said for name in SAID if name in names if (said := _error(folder / name))), None):
            (self.failed if SETTINGS in names else self.refused)[folder] = why
        elif SETTINGS in names:
            self.unfinished.append(folder)
        return None


def gather(sources: Sequence[Path], defaults: Callable[[], Mapping[str, Any]] = dict, below: bool = True) -> Gathered:
    """The rows below folders, grouped. Raises ValueError where there are none.

    Damaged ones are left out, and copies of one run, and that is said.
    defaults: gives today's settings without typed values: what rows of other code have where they do not know a key.
    below: false takes the rows of these very folders alone.
    """
    gathered = Gathered()
    found = [one for folder, names in _folders(sources, below) if (one := gathered.read(folder, names)) is not None]
    if not found:
        raise ValueError(_nothing(sources, gathered))
    tasks: dict[tuple[str, str, str, str | None], dict[str, list[Found]]] = defaultdict(lambda: defaultdict(list))
    for one in found:
        tasks[one.row.stage, one.row.model, one.row.metric, one.row.suite][one.row.task].append(one)
    made: list[Group] = []
    for (stage, model, metric, suite), by_task in tasks.items():
        labelled: dict[str, list[Found]] = defaultdict(list)
        for rows in by_task.values():
            for label, same in _computations(_completed(rows, defaults)).items():
                labelled[label] += _seeds(same, gathered)
        made += [Group(stage, model, label, metric, suite, tuple(rows)) for label, rows in labelled.items()]
    scales = _references(made)
    gathered.groups = [
        replace(group, common=_common(group, made), references=scales[group.question])
        for group in sorted(made, key=_place)
    ]
    return gathered


def is_collected(row: Row) -> bool:
    """Whether its data were collected here, and not converted or of unknown origin; so of rows that do not say."""
    how = row.data.get("collection", {})
    return isinstance(how, dict) and "converted" not in how


def _nothing(sources: Sequence[Path], gathered: Gathered) -> str:
    """That there are no rows, what there is instead, and what can be done."""
    at = ",".join(str(source) for source in sources[:3]) + ",..." * (len(sources) > 3)
    there = f"; {len(gathered.left_out)} that are damaged or of another format" * bool(gathered.left_out)
    runs = len(gathered.unfinished) + len(gathered.failed)
    there += f"; {runs} runs that have not finished" * bool(runs)
    alone = len(gathered.validated)
    there += f"; {alone} runs on trajectories alone, each with its {VALIDATION}" * bool(alone)
    absent = next((f"; there is no folder {source}" for source in sources if not source.exists()), "")
    return (
        f"source={at}: expected a folder of runs, found no {ROW} below it{there}{absent}; name a folder of finished "
        "runs, or give the command of a run, which writes a row when it is over"
    )


def _common(group: Group, of: Sequence[Group]) -> frozenset[str]:
    """The parts of the label that all groups have which can stand in one table; none where this one is alone."""
    beside = [set(other.label.split("+")) for other in of if other.question == group.question]
    return frozenset(set.intersection(*beside) - {DEFAULT} if len(beside) > 1 else ())


def _references(groups: Sequence[Group]) -> dict[Question, dict[str, Reference]]:
    """By question and task the reference of the row that finished last, for rows that know another or none as well."""
    found: dict[Question, dict[str, Reference]] = {group.question: {} for group in groups}
    for row, question in sorted(
        ((row, of.question) for of in groups for row in of.rows), key=lambda of: of[0].finished
    ):
        if row.reference is not None:
            found[question][row.task] = row.reference
    return found


def _place(group: Group) -> tuple[Any, ...]:
    """Runs before what acted again, models by name, settings by the numbers in them."""
    parts = [(float(p) if i % 2 else 0.0, p) for i, p in enumerate(re.split(r"(\d+(?:\.\d+)?)", group.label))]
    return group.stage != "train", group.metric, group.suite or "", group.model, parts


def _folders(sources: Sequence[Path], below: bool) -> Iterable[tuple[Path, list[str]]]:
    """Each folder once, with the names of its files."""
    seen: set[Path] = set()
    for source in sources:
        for at, inside, names in os.walk(source):
            inside[:] = sorted(inside) if below else []
            if (folder := Path(at)) not in seen:
                seen.add(folder)
                yield folder, names


def _error(path: Path) -> str | None:
    """The sentence with which a run ended that said so last; None of others, and of what is no file."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        lines = file.read().decode(errors="replace").splitlines()
    if not lines or not lines[-1].startswith("error: "):
        return None
    return lines[-1].removeprefix("error: ").partition(" (HYDRA_FULL_ERROR")[0]


def _comparable(values: Mapping[str, Any]) -> Essence:
    """The values with lists and what else cannot be hashed as JSON."""
    plain = (str, int, float, type(None))
    return {key: value if isinstance(value, plain) else json.dumps(value) for key, value in values.items()}


def _completed(rows: Sequence[Found], defaults: Callable[[], Mapping[str, Any]]) -> list[Found]:
    """The rows of a task with today's defaults for the keys that their code did not know, as in `check_same_run`.

    Of the data, which rows of before do not describe, with what the others say if they agree.
    """
    codes: dict[str, set[str | None]] = defaultdict(set)
    values: dict[str, set[Any]] = defaultdict(set)
    for one in rows:
        for key, value in one.computed.items():
            codes[key].add(one.row.origin.code)
            values[key].add(value)
    new = {key for one in rows for key in codes.keys() - one.computed.keys() if one.row.origin.code not in codes[key]}
    if not new:
        return list(rows)
    usual = _comparable(essence(defaults()))
    usual |= {key: next(iter(values[key])) for key in new if key.startswith("data.") and len(values[key]) == 1}

    def completed(one: Found) -> Found:
        missing = [
            key for key in new - one.computed.keys()
            if one.row.origin.code not in codes[key] and key in usual and _takes(one.computed, key, usual)
        ]  # fmt: skip
        return replace(one, computed={**one.computed, **{key: usual[key] for key in missing}})

    return [completed(one) for one in rows]


def _takes(computed: Essence, key: str, usual: Essence) -> bool:
    """Whether what takes this key in the default settings is also there in these, and not another class."""
    parts = key.split(".")
    targets = [".".join([*parts[:depth], "_target_"]) for depth in range(1, len(parts))]
    return all(computed.get(target) == usual.get(target) for target in targets)


def _computations(rows: Sequence[Found]) -> dict[str, list[Found]]:
    """The rows of a task by what they computed, each computation under a label of its own."""
    alike: dict[Any, list[Found]] = defaultdict(list)
    for one in rows:
        # Of a row that keeps no settings, its label is all there is.
        alike[frozenset(one.computed.items()) if one.row.settings else one.label].append(one)
    by_label: dict[str, list[list[Found]]] = defaultdict(list)
    for same in alike.values():
        # In rows of before a long label was cut, as the name of their folder is.
        label = min((one.label for one in same), key=lambda label: (label != DEFAULT, "~" in label, len(label), label))
        by_label[label].append(same)
    named: dict[str, list[Found]] = {}
    for label, several in by_label.items():
        known = [same[0].computed for same in several]
        keys = sorted({key for of in known for key in of})
        differ = [key for key in keys if len({of.get(key, ABSENT) for of in known}) > 1]
        short_names = {key: short(key, keys) for key in differ}
        for same, of in zip(several, known, strict=True):
            told = "+".join(_said(key, name, of) for key, name in short_names.items())
            name = "+".join(filter(None, [label if label != DEFAULT or not told else "", told]))
            named[name if name not in named else f"{name}~{len(named)}"] = same
    return named


def _said(key: str, name: str, of: Essence) -> str:
    """A setting in short, as labels have it."""
    if key not in of:
        return f"no_{name}"
    return f"{name}={readable(of[key] if isinstance(of[key], str) else json.dumps(of[key]))}"


def _seeds(same: Sequence[Found], gathered: Gathered) -> list[Found]:
    """The rows of one computation, one for each seed; of others it is said that they are left out."""
    kept: dict[Any, Found] = {}
    for one in same:
        unseeded = one.row.identity or str(one.path)
        first = kept.setdefault(one.row.seed if one.row.seed is not None else unseeded, one)
        if first is one:
            continue
        if _played(first.row) == _played(one.row):
            gathered.leave_out(one.path, f"{one.path} is a copy of {first.path}, which counts once")
        else:
            gathered.leave_out(
                one.path,
                f"{one.path} has the settings and the seed of {first.path} and other outcomes; of one seed one row "
                "counts",
            )
    return list(kept.values())


def _played(row: Row) -> dict[str, Any]:
    """How every episode ended."""
    return {name: (outcome.seeds, outcome.metrics) for name, outcome in row.outcomes.items()}
