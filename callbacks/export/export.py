"""stage=export: a policy as a folder that needs nothing of this repository, each of its programs checked first."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

from rich.console import Console

from callbacks.benchmark.timing import median_seconds
from callbacks.evaluation.device import threads
from callbacks.export.card import card
from callbacks.export.programs import (
    Acting,
    Program,
    Recording,
    compare,
    inputs_at,
    onnx_program,
    record,
    torch_program,
)
from callbacks.record import RECORD
from callbacks.report.row import Row
from callbacks.report.sheets import Sheet
from elmur.checkpoint import CONFIG, TASK, WEIGHTS, is_export, write_policy
from elmur.export.program import IS_FIRST, STEP, StepProgram
from elmur.export.trace import ExportError, onnx_operators, program_of, signature_of, traced, write_onnx, write_torch
from elmur.files import read_json, write_json, write_text
from elmur.policy import StreamingPolicy, episode_seeds, first_state
from envs.family import EnvFamily

log = logging.getLogger(__name__)
LANES = 3  # in which the program for any number of lanes is compared
TIMED = 1000  # steps
CARD, LATENCY = "README.md", "latency.json"
FORMATS = ("torch", "onnx")
# File -> what it is, the lanes that it is traced for, and how it is run.
FILES: dict[str, tuple[str, str, int | None]] = {
    "step.onnx": ("onnx", "the step for any number of environments, ONNX", None),
    "step_1.onnx": ("onnx", "the step for one environment, ONNX", 1),
    "step.pt2": ("torch", "the step for any number of environments, `torch.export`", None),
    "step_1.pt2": ("torch", "the step for one environment, `torch.export`", 1),
}
RUNNERS = {"onnx": onnx_program, "torch": torch_program}
NOTES = {
    WEIGHTS: "weights",
    CONFIG: "what the network is made of; `elmur.load` reads it, the weights and the task, and runs no code in them",
    TASK: "the TaskSpec: shapes and kinds of observations and actions",
    STEP: "names, types and shapes of what the programs take and give",
}


@dataclass(frozen=True)
class ExportPlan:
    """How a policy is exported.

    formats: of the programs. steps: of the task in which each program has to act as the policy does. time: whether
    their latency is measured, on one thread.
    """

    formats: list[str]
    steps: int = 1000
    time: bool = False

    def __post_init__(self) -> None:
        if wrong := [name for name in self.formats if name not in FORMATS]:
            raise ValueError(f"formats: expected some of {', '.join(FORMATS)}; found {wrong[0]!r}")
        if self.steps < 1:
            raise ValueError(f"steps: expected 1 or more; found {self.steps}")


def export(
    policy: StreamingPolicy,
    checkpoint: Mapping[str, Any],
    family: EnvFamily,
    plan: ExportPlan,
    seeds: range,
    folder: Path,
    row: Row | None = None,
) -> None:
    """Write the folder, whole or not at all.

    checkpoint: as `elmur.checkpoint.read_checkpoint` gave it. seeds: of the episodes in which the programs are checked.
    Raises ExportError for a policy whose step cannot be traced, and for a program that acts otherwise.
    """
    if folder.exists() and not is_export(folder):
        raise ExportError(f"{folder}: expected nothing, or an earlier export; found other files: hydra.run.dir=ANOTHER")
    if "onnx" in plan.formats:
        onnx_operators()
    drawn_by = episode_seeds(0, [0])[0]
    program = program_of(policy.model, policy.context_length, first_state(policy.model, drawn_by))
    making = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(making, ignore_errors=True)
    try:
        making.mkdir(parents=True)
        write_policy(making, checkpoint)
        write_json(making / STEP, signature_of(program))
        with threads(1):
            recording = record(policy, family.world, family.variants, plan.steps, seeds)
            write_programs(program, plan, making)
            check(making, plan, recording, policy.context_length)
            times = latencies(making, plan, recording, policy) if plan.time else {}
        if times:
            write_json(making / LATENCY, times)
        made = (checkpoint.get(RECORD) or {}).get("settings") or {}
        names = {**{name: FILES[name][1] for name in FILES if (making / name).exists()}, **NOTES}
        about = {
            "parameters": policy.model.num_parameters(),
            "context length": policy.context_length,
            "trained": _training(made, row.updates if row else checkpoint.get("global_step")),
            **{f"latency of {name}, one core": f"{value:.3f} ms" for name, value in times.items()},
        }
        name = row.model if row else made.get("model_name") or type(policy.model).__name__
        write_text(making / CARD, card(name, policy.model.spec, about, row, names))
        if folder.exists():
            shutil.rmtree(folder)
        making.rename(folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    log.info("export: %s", folder)


def write_programs(program: StepProgram, plan: ExportPlan, folder: Path) -> None:
    """Trace the step for one environment and for any number, and write it in each format."""
    for lanes in (None, 1):
        exported = traced(program, lanes)
        for name, (format, _, of) in FILES.items():
            if of != lanes or format not in plan.formats:
                continue
            if format == "onnx":
                write_onnx(exported, program, folder / name)
            else:
                write_torch(exported, folder / name)


def loaded(folder: Path, plan: ExportPlan) -> dict[str, tuple[Program, int]]:
    """The programs that were written, and the lanes that they are checked with."""
    return {
        name: (RUNNERS[format](folder / name), of or LANES)
        for name, (format, _, of) in FILES.items()
        if format in plan.formats
    }


def check(folder: Path, plan: ExportPlan, recording: Recording, context_length: int) -> None:
    """Act with each program as the policy did. Raises ExportError where one acts otherwise."""
    signature = read_json(folder / STEP)
    borders = recording.borders(context_length)
    for name, (program, lanes) in loaded(folder, plan).items():
        apart = compare(name, Acting(program, signature, lanes), recording.lanes(lanes))
        log.info(
            "%s acts as the policy: %d steps of %d episodes across %d borders of segments, predictions within %.1e",
            name, len(recording.is_first), int(recording.is_first.sum()), borders, apart,
        )  # fmt: skip


def latencies(folder: Path, plan: ExportPlan, recording: Recording, policy: StreamingPolicy) -> dict[str, float]:
    """Milliseconds of a step for one environment, the median of `TIMED`, by the policy and by each program."""
    signature, one = read_json(folder / STEP), recording.lanes(1)
    parts, length = policy.model.spec.observation, min(TIMED, len(one.is_first))
    turns = cycle([inputs_at(one, step) for step in range(length)])  # the first of them begins an episode
    policy.start(1)

    def act() -> None:
        given = next(turns)
        policy.act({name: given[name] for name in parts}, given[IS_FIRST])

    works: dict[str, Callable[[], object]] = {"policy.act": act}
    for name, (program, _) in loaded(folder, plan).items():
        works[name] = partial(lambda acting: acting.step(next(turns)), Acting(program, signature, 1))
    found = {name: round(1000 * median_seconds(work, TIMED, TIMED // 10), 4) for name, work in works.items()}
    cells = [{"acting with": name, "ms a step": f"{value:.3f}"} for name, value in found.items()]
    Sheet(f"latency, one environment, one thread, median of {TIMED} steps", cells).show(Console())
    return found


def _training(made: Mapping[str, Any], updates: int | None) -> str | None:
    """How a policy was trained, where its checkpoint says so."""
    return f"{updates} updates, seed {made['seed']}" if updates is not None and "seed" in made else None
