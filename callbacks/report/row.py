"""The result row: one JSON file that says what was run, with which seeds and versions, and how every episode ended."""

from __future__ import annotations

import datetime
import os
import platform
import re
import resource
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import torch

from callbacks.command.identity import ROW as ROW
from callbacks.command.identity import portable
from callbacks.command.settings import Settings
from callbacks.evaluation.outcomes import LARGEST, RETURN, Outcome
from callbacks.report.text import plain
from elmur.files import read_json, write_json
from envs import suites
from envs.family import EnvFamily

FORMAT = 1
NEEDED = ("finished", "task", "model", "seed", "outcomes")
STAGES = ("train", "evaluate")  # that write rows
PACKAGES = ("torch", "lightning", "gymnasium", "numpy", "h5py", "popgym", "mani_skill")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a row took: seconds of wall and of processor time, training without selection; bytes at the most.

    step_ms, state_bytes: processor time of a step of one episode alone, and what is kept from it for the next
    (`callbacks.benchmark.acting`), where `evaluation.cost_after` asked for it.
    """

    train_seconds: float | None = None
    train_cpu_seconds: float | None = None
    selection_seconds: float | None = None
    selection_cpu_seconds: float | None = None
    evaluation_seconds: float | None = None
    evaluation_cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None
    step_ms: float | None = None
    state_bytes: int | None = None


@dataclass(frozen=True)
class Origin:
    """Where a row comes from: the command, the code (a commit, and a hash of its files), the machine."""

    command: str | None = None
    commit: str | None = None
    code: str | None = None
    machine: dict[str, Any] = field(default_factory=dict)
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One evaluation of one policy; its fields are the keys of the file, those of `cost` and `origin` among them.

    stage: `train`, or `evaluate` for a checkpoint that acted once more. seed: None where a checkpoint does not say its
    own. label: what was set beside the defaults. settings: of the run that made the checkpoint, with the env and the
    evaluation of this row. identity: of checkpoint, env and evaluation. selection_score: of the checkpoint, where it
    was chosen. data: what was trained on. reference: mean returns of random play and of the expert.
    """

    task: str
    model: str
    seed: int | None
    outcomes: dict[str, Outcome]
    stage: str = "train"
    metric: str = "success"
    suite: str | None = None
    label: str | None = None
    actions: str | None = None
    checkpoint: str | None = None
    identity: str | None = None
    parameters: int | None = None
    updates: int | None = None
    selection_score: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    reference: dict[str, float] | None = None
    cost: Cost = field(default_factory=Cost)
    origin: Origin = field(default_factory=Origin)
    versions: dict[str, str] = field(default_factory=lambda: versions())
    finished: str = field(default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))

    def normalised(self, value: float) -> float | None:
        """A mean return between random play, 0, and the expert, 1; None where the task has no reference."""
        return None if self.reference is None else normalised(value, self.reference)

    def score(self, chosen: Collection[str] | None = None) -> float:
        """The metric as it was measured, in the mean of the chosen variants or of all."""
        names = [name for name in self.outcomes if chosen is None or name in chosen]
        return float(np.mean([self.outcomes[name].metric(self.metric) for name in names]))

    def write(self, path: Path | str) -> None:
        """Publish the row."""
        write_json(path, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The row as plain values."""
        plain = {name: value for name, value in vars(self).items() if name not in ("outcomes", "cost", "origin")}
        outcomes = {name: outcome.to_json() for name, outcome in self.outcomes.items()}
        if self.reference is not None:
            for name, outcome in self.outcomes.items():
                outcomes[name]["normalised"] = self.normalised(outcome.metric(RETURN))
        return {"format": FORMAT, **plain, **asdict(self.cost), **asdict(self.origin), "outcomes": outcomes}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Row:
        """What `to_json` gave, today or before: a key that was not known then has its default."""
        known = {key.name: found[key.name] for key in fields(cls) if key.name in found}
        parts = {
            "cost": Cost(**{key.name: found.get(key.name) for key in fields(Cost)}),
            "origin": Origin(**{key.name: found[key.name] for key in fields(Origin) if key.name in found}),
            "outcomes": {name: Outcome.from_json(outcome) for name, outcome in found["outcomes"].items()},
        }
        return cls(**{**known, **parts})


def normalised(value: float, reference: Mapping[str, float]) -> float:
    """A mean return on the scale of a reference: random play is 0, the expert 1."""
    return (value - reference["random"]) / (reference["expert"] - reference["random"])


def row_of(
    settings: Settings, family: EnvFamily, checkpoint: Path, outcomes: dict[str, Outcome], about: Mapping[str, Any]
) -> Row:
    """The row of outcomes of a checkpoint, made here and now.

    about: fields of the row, of `Cost` among them, that are known better than from the settings of the command.
    """
    from callbacks.record import RECORD, selection_score
    from elmur.checkpoint import read_checkpoint
    from elmur.code import code_hash, commit

    found = read_checkpoint(checkpoint)
    spent = {key.name: about.get(key.name) for key in fields(Cost)}
    known = {
        "task": family.id, "metric": family.metric, "suite": family.suite, "outcomes": outcomes,
        "stage": settings.stage, "model": settings.model_name, "seed": settings.seed, "label": settings.label,
        "settings": portable(settings), "checkpoint": str(checkpoint), "updates": found.get("global_step"),
        "selection_score": selection_score(checkpoint, found), "data": (found.get(RECORD) or {}).get("data") or {},
        "reference": None if family.reference is None else dict(vars(family.reference)),
        "cost": Cost(**{**spent, "peak_memory_bytes": peak_memory()}),
        "origin": Origin(settings.command, commit(), code_hash(), machine(), torch.get_num_threads()),
    }  # fmt: skip
    return Row(**{**known, **{name: value for name, value in about.items() if name not in spent}})


def read_row(path: Path | str) -> Row | None:
    """A row that was written there; None where there is none. Raises ValueError for a damaged one."""
    try:
        found = read_json(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path}: expected a result row in JSON, found {error}; delete it to run again") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"{path}: expected a result row of format {FORMAT}; delete it to run again")
    if wrong := list(dict.fromkeys(_wrong(found))):
        raise ValueError(f"{path}: expected a result row with {', '.join(wrong[:5])}; delete it to run again")
    return Row.from_json(found)


def _wrong(found: Mapping[str, Any]) -> Iterator[str]:
    """What every row has and this one has not, or not as it should be."""
    acts_again = found.get("stage") == STAGES[1]
    for name, (kinds, is_needed) in KINDS.items():
        value = found.get(name)
        if name not in found or (name == "seed" and value is None):
            if is_needed and not (name == "seed" and acts_again):
                yield name
        elif not isinstance(value, kinds) or isinstance(value, bool) or (is_needed and value == ""):
            yield name
        elif isinstance(value, int | float) and not abs(value) < LARGEST:
            yield f"a number below {LARGEST:.0e} as {name}"
        elif isinstance(value, int | float) and value < 0 and name != "selection_score":
            yield f"0 or more as {name}"
    if found.get("stage", STAGES[0]) not in STAGES:
        yield f"{' or '.join(STAGES)} as stage"
    outcomes, metric, reference = found.get("outcomes"), found.get("metric", "success"), found.get("reference")
    for name, outcome in (outcomes or {"<variant>": None}).items() if isinstance(outcomes, dict) else ():
        try:
            measured = Outcome.from_json(outcome).metrics
            if metric not in measured:
                yield f"the metric {metric!r} in outcomes.{name}"
            if any(plain(one, most=None) != one for one in measured):
                yield f"printable names of metrics in outcomes.{name}"
        except KeyError as error:
            yield f"outcomes.{name}.{error.args[0]}"
        except ValueError as error:
            yield f"outcomes.{name}.{error}"
        except (TypeError, AttributeError):
            yield f"outcomes.{name}"
    if isinstance(found.get("data"), dict):
        yield from _wrong_rounds(found["data"].get("rounds") or [])
    if isinstance(reference, dict):
        known: list[Any] = [reference.get(key) for key in ("random", "expert")]
        is_known = all(type(value) in (int, float) and abs(value) < LARGEST for value in known)
        if not is_known or abs(known[1] - known[0]) < 1e-9:
            yield "other returns of random play than of an expert as reference"
    try:
        if isinstance(suite := found.get("suite"), str) and found.get("task") not in list(suites.read(suite).tasks):
            yield f"a task of {suite} as task"
    except suites.SuiteError as error:
        yield str(error)


def _wrong_rounds(rounds: Any) -> Iterator[str]:
    """What rounds of labelling say of themselves in another form than a report reads."""
    if not isinstance(rounds, list) or not all(isinstance(one, dict) for one in rounds):
        yield "a list of rounds in data"
        return
    for number, one in enumerate(rounds):
        if not all(type(one.get(key)) is int for key in ("episodes", "steps")):
            yield f"numbers of episodes and steps in data.rounds.{number}"
        how = one.get("collection") or {}
        if not isinstance(how, dict) or not isinstance(how.get("learner") or {}, dict):
            yield f"how it was collected in data.rounds.{number}"


def _kinds(hint: Any) -> tuple[type, ...]:
    """The types that an annotation unites; whole numbers will do for a float."""
    united = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    kinds = tuple(get_origin(kind) or kind for kind in united)
    return (*kinds, int) if float in kinds else kinds


# Each key of a row: what its value may be, and whether it has to be there.
KINDS = {
    key.name: (_kinds(get_type_hints(part)[key.name]), key.name in NEEDED)
    for part in (Row, Cost, Origin)
    for key in fields(part)
    if key.name not in ("cost", "origin")
}


def machine() -> dict[str, Any]:
    """The processor, its cores and the accelerator of this machine."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": found[1] if found else platform.machine(), "cores": os.cpu_count(), "accelerator": accelerator}


def peak_memory() -> int:
    """Bytes of main memory that this process held at the most, and of the accelerator's."""
    unit = 1 if sys.platform == "darwin" else 1024
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return held + (torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a result, those that are installed."""
    found = {"python": platform.python_version()}
    for package in ("elmur", *PACKAGES):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
