"""Tables of many runs, one for each question: tasks by models, settings by lengths, differences, totals, cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from callbacks.evaluation.outcomes import RETURN
from callbacks.report.gather import Found, Group
from callbacks.report.published import published
from callbacks.report.row import Row
from callbacks.report.scores import compared, measures, over_all, scores, variants
from callbacks.report.sheets import Estimate, Sheet
from callbacks.report.statistics import mean_and_error

LATENCY = "ms a step"  # a published metric
MOST_PAIRS = 28  # of 8 groups; of more, each is compared with the best alone
ALONE, STATE = "ms a step, alone", "state kB"
OPTIONAL = ("published, ms a step", ALONE, STATE)  # columns that most reports have no number for
WALL = ("train_seconds", "selection_seconds", "evaluation_seconds")
CPU = tuple(name.replace("_seconds", "_cpu_seconds") for name in WALL)


def questions(groups: Sequence[Group]) -> dict[tuple[str, str], list[Group]]:
    """The groups that can stand in one table: of one stage and one metric."""
    found: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        found.setdefault((group.stage, group.metric), []).append(group)
    return found


def named(metric: str, stage: str) -> str:
    """What a table shows, as its title has it."""
    return metric.replace("_", " ").capitalize() + (", checkpoints acting again" if stage == "evaluate" else "")


def cell(rows: Sequence[Row], variant: str, metric: str) -> Estimate | None:
    """Mean over seeds and its standard error; of one seed, that of its episodes."""
    found = measures(rows, variant, metric)
    return Estimate(*mean_and_error([one.mean for one in found], found[0].error)) if found else None


def chance(rows: Iterable[Row]) -> float | None:
    """The success of guessing, where the env says it."""
    env: Any = next((row.settings.get("env") for row in rows if isinstance(row.settings.get("env"), dict)), {})
    value = env.get("chance")
    return float(value) if type(value) in (int, float) and abs(value) <= 1 else None


def tables(groups: Sequence[Group]) -> list[Sheet]:
    """The question tables of groups of one stage and metric: by length where a task has several variants."""
    metric, title = groups[0].metric, named(groups[0].metric, groups[0].stage)
    by_task = {group.name: group.by_task() for group in groups}
    tasks = list(dict.fromkeys(task for rows in by_task.values() for task in rows))
    found, single = [], []
    for task in tasks:
        rows = {name: of[task] for name, of in by_task.items() if task in of}
        names = variants([row for of in rows.values() for row in of])
        if len(names) > 1:
            found.append(by_variant(f"{title}: {task}", rows, names, metric))
        else:
            single.append(task)
    if single:
        found.insert(0, by_model(f"{title}: tasks by models", single, by_task, metric))
    return found


def by_variant(title: str, rows: Mapping[str, Sequence[Row]], names: Sequence[str], metric: str) -> Sheet:
    """Settings by lengths: a line for each group, a column for each variant."""
    lines: list[dict[str, Any]] = []
    for name, of in rows.items():
        lines.append({"settings": name, "seeds": len(of)} | {variant: cell(of, variant, metric) for variant in names})
    every = [row for of in rows.values() for row in of]
    if metric != RETURN and (guessing := chance(every)) is not None:
        lines.append({"settings": "guessing", "seeds": None} | dict.fromkeys(names, guessing))
    if metric == RETURN and (reference := next((row.reference for row in every if row.reference), None)):
        lines += [
            {"settings": kind, "seeds": None} | dict.fromkeys(names, reference[key])
            for kind, key in (("expert", "expert"), ("random play", "random"))
        ]
    return Sheet(title, lines, notes=["Mean ± standard error over seeds (of one seed: over its episodes)."])


def by_model(title: str, tasks: Sequence[str], by_task: Mapping[str, Mapping[str, list[Row]]], metric: str) -> Sheet:
    """Tasks by models: a line for each task, a column for each group."""
    lines = []
    for task in tasks:
        line: dict[str, Any] = {"task": task}
        there = [row for of in by_task.values() for row in of.get(task, [])]
        for name, of in by_task.items():
            rows = of.get(task, [])
            line[name] = cell(rows, next(iter(rows[0].outcomes)), metric) if rows else None
        if metric == RETURN:
            reference = next((row.reference for row in there if row.reference), None) or {}
            line |= {"expert": reference.get("expert"), "random play": reference.get("random")}
        else:
            line["guessing"] = chance(there)
        lines.append(line)
    empty = [key for key in ("expert", "random play", "guessing") if all(line.get(key) is None for line in lines)]
    kept = [{key: value for key, value in line.items() if key not in empty} for line in lines]
    return Sheet(title, kept, notes=["Mean ± standard error over seeds (of one seed: over its episodes)."])


def totals(groups: Sequence[Group]) -> Sheet | None:
    """Mean and interquartile mean over all tasks and seeds of each group, where there are several tasks."""
    lines = []
    for group in groups:
        of = scores(group)
        if len(of) > 1:
            about = {"settings": group.name, "tasks": len(of), "runs": sum(map(len, of.values()))}
            lines.append({**about, **over_all(of)})
    if not lines:
        return None
    unit = "returns, 0 random play and 1 the expert where that is known" if groups[0].metric == RETURN else "shares"
    note = f"Means over tasks and seeds, of {unit}; seeds are resampled within each task, so one seed has no interval."
    return Sheet(f"{named(groups[0].metric, groups[0].stage)}: over all tasks", lines, notes=[note])


def differences(groups: Sequence[Group]) -> Sheet | None:
    """Each two groups on the tasks of both: difference, probability of improvement, what they show."""
    pairs = list(combinations(groups, 2))
    if len(pairs) > MOST_PAIRS:
        means = [float(np.mean([np.mean(values) for values in scores(group).values()])) for group in groups]
        best = groups[int(np.argmax(means))]
        pairs = [(best, group) for group in groups if group is not best]
    lines = []
    for ours, theirs in pairs:
        if (found := compared(ours, theirs)) is not None:
            lines.append({
                "of": ours.name, "and": theirs.name, "tasks": found.tasks, "difference": found.difference,
                "95 %": found.difference_interval, "P(above)": found.probability,
                "95 % of P": found.probability_interval, "the first is": found.says,
            })  # fmt: skip
    if all(line["95 %"] is None for line in lines):  # one seed each: nothing is known of others
        return None
    notes = [
        "Difference of the mean scores, and the probability that a run of the first scores above one of the second; "
        "intervals over seeds. With three seeds they are too narrow rather than too wide."
    ]
    if len(pairs) < len(groups) * (len(groups) - 1) / 2:
        notes.append("Of so many, each is compared with the best.")
    return Sheet(f"{named(groups[0].metric, groups[0].stage)}: differences", lines, notes=notes)


def microseconds(row: Row) -> float | None:
    """What acting took for each step of an episode, of all that acted side by side."""
    steps = sum(outcome.mean_length * outcome.episodes for outcome in row.outcomes.values())
    seconds = sum(outcome.wall_seconds for outcome in row.outcomes.values())
    return 1e6 * seconds / steps if steps and seconds else None


def side_by_side(row: Row) -> Any:
    """How many episodes acted at the same time, as the row's settings say."""
    evaluation: Any = row.settings.get("evaluation")
    return evaluation.get("num_envs") if isinstance(evaluation, dict) else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def cost(groups: Sequence[Group]) -> Sheet:
    """What a run of each group took: parameters, seconds apart, memory, machine."""
    lines = []
    for group in groups:
        rows = group.rows
        peak = _mean(row.cost.peak_memory_bytes for row in rows)
        line: dict[str, Any] = {"settings": group.name, "runs": len(rows)}
        parameters = sorted({row.parameters for row in rows if row.parameters is not None})
        line["parameters"] = (
            f"{parameters[0]:,}" + f" to {parameters[-1]:,}" * (len(parameters) > 1) if parameters else None
        )
        for name in WALL:
            line[f"{name.removesuffix('_seconds')} s"] = _mean(getattr(row.cost, name) for row in rows)
        line["processor s"] = _mean(_sum(getattr(row.cost, name) for name in CPU) for row in rows)
        line["µs a step"] = _mean(map(microseconds, rows))
        line[ALONE], line[STATE] = _mean(row.cost.step_ms for row in rows), state_kilobytes(rows)
        alone = all(side_by_side(row) == 1 for row in rows)  # as what was published
        of = [one for task in group.by_task() if alone for one in published().get((task, group.model), [])]
        latency = next((one.value for one in of if one.metric == LATENCY), None)
        line["published, ms a step"] = latency
        line["peak MB"] = None if peak is None else peak / 1e6
        line["on"] = ", ".join(sorted({machine(row) for row in rows}))
        lines.append(line)
    fastest = min((line["µs a step"] for line in lines if line["µs a step"]), default=None)
    for line in lines:
        line["of the fastest"] = line["µs a step"] / fastest if fastest and line["µs a step"] else None
    notes = [
        "Means over runs. A step of acting is one step of one episode; episodes act side by side. Seconds are of the "
        "machines as they were, other work beside them included."
    ]
    if any(line["published, ms a step"] for line in lines):
        notes.append("What was published is of one episode at a time on an A100.")
    if any(line[STATE] for line in lines):
        notes.append(
            "Alone: one episode on one thread, processor time, the last steps of a history of `evaluation.cost_after`; "
            "the state is what the next action depends on, while peak MB is the whole process."
        )
    unknown = [key for key in OPTIONAL if all(line[key] is None for line in lines)]
    return Sheet("Cost", [{k: v for k, v in line.items() if k not in unknown} for line in lines], notes=notes)


def state_kilobytes(rows: Sequence[Row]) -> float | None:
    """What one episode's state takes, where rows say it."""
    held = _mean(row.cost.state_bytes for row in rows)
    return None if held is None else held / 1e3


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def machine(row: Row) -> str:
    """Processor or accelerator and threads, in short."""
    about = row.origin.machine
    name = about.get("accelerator") or about.get("cpu") or "unknown"
    return f"{name}, {row.origin.threads or '?'} threads"


def runs(groups: Sequence[Group]) -> Sheet:
    """A line for each run with all that is needed to repeat it."""
    return Sheet("Runs", [run(group, one) for group in groups for one in group.found])


def run(group: Group, one: Found) -> dict[str, Any]:
    """One run: what it is, how it did, how it came about."""
    row = one.row
    data = row.data.get("episodes")
    return {
        "task": row.task, "model": row.model, "settings": group.label, "stage": row.stage,
        "seed": "unknown" if row.seed is None else row.seed, row.metric: row.score(), "actions": row.actions,
        "updates": row.updates, "selection score": row.selection_score, "episodes of data": data,
        **{name.replace("_", " "): getattr(row.cost, name) for name in (*WALL, *CPU)},
        "peak MB": None if row.cost.peak_memory_bytes is None else row.cost.peak_memory_bytes / 1e6,
        "machine": machine(row), "commit": row.origin.commit, "code": row.origin.code,
        "versions": " ".join(f"{name} {version}" for name, version in row.versions.items()),
        "finished": row.finished, "command": row.origin.command, "folder": str(one.path.parent),
    }  # fmt: skip
