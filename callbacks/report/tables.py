"""Tables of many runs, one for each question: tasks by models, settings by lengths, differences, totals, cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from callbacks.evaluation.outcomes import RETURN
from callbacks.report.gather import Group, Question, Reference
from callbacks.report.published import experts, published
from callbacks.report.row import Row
from callbacks.report.scores import compared, has_seeds, measures, over_all, scores, variants
from callbacks.report.sheets import Estimate, Sheet
from callbacks.report.statistics import mean_and_error
from envs.vector import SUCCESS

MEANS = "Mean ± standard error over seeds (of one seed: over its episodes)."
LATENCY = "ms a step"  # a published metric
MOST_BESIDE = 4  # groups that stand beside each other; of more on as few tasks each is a line
MOST_PAIRS = 28  # of 8 groups; of more, each is compared with the best alone
ALONE, STATE = "ms a step, alone", "state kB"
OPTIONAL = ("published, ms a step", ALONE, STATE)  # columns that most reports have no number for
WALL = ("train_seconds", "selection_seconds", "evaluation_seconds")
CPU = tuple(name.replace("_seconds", "_cpu_seconds") for name in WALL)


def questions(groups: Sequence[Group]) -> dict[Question, list[Group]]:
    """The groups that can stand in one table: of one stage, one metric and one suite."""
    found: dict[Question, list[Group]] = {}
    for group in groups:
        found.setdefault(group.question, []).append(group)
    return found


def quantity(group: Group) -> str:
    """What was measured of this group, as a title has it."""
    return group.metric.replace("_", " ").capitalize() + (f" in {group.suite}" if group.suite else "")


def named(group: Group) -> str:
    """What a table with this group and others shows, as its title has it."""
    return quantity(group) + (", checkpoints acting again" if group.stage == "evaluate" else "")


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
    first, title = groups[0], named(groups[0])
    by_task = {group.name: group.by_task() for group in groups}
    tasks = list(dict.fromkeys(task for rows in by_task.values() for task in rows))
    found, single = [], []
    for task in tasks:
        rows = {name: of[task] for name, of in by_task.items() if task in of}
        names = variants([row for of in rows.values() for row in of])
        if len(names) > 1 or len(rows) > MOST_BESIDE >= len(tasks):
            found.append(by_variant(f"{title}: {task}", rows, names, first))
        else:
            single.append(task)
    if single:
        found.insert(0, by_model(f"{title}: tasks by models", single, by_task, first))
    return found


def by_variant(title: str, rows: Mapping[str, Sequence[Row]], names: Sequence[str], first: Group) -> Sheet:
    """Settings by lengths: a line for each group, a column for each variant; of one, the metric's.

    first: any of the groups, which have metric and references in common.
    """
    lines, metric = list[dict[str, Any]](), first.metric
    columns = dict(zip(names if len(names) > 1 else [metric], names, strict=True))
    for name, of in rows.items():
        cells = {column: cell(of, variant, metric) for column, variant in columns.items()}
        lines.append({"settings": name, "seeds": len(of)} | cells)
    for who, value in beside([row for of in rows.values() for row in of], first).items():
        if value is not None:
            lines.append({"settings": who, "seeds": None} | dict.fromkeys(columns, value))
    return Sheet(title, lines, notes=[MEANS])


def beside(rows: Sequence[Row], group: Group) -> dict[str, float | None]:
    """What the expert reaches on the task of these rows, and random play or guessing, where that is known."""
    if group.metric == SUCCESS:
        return {"expert": experts().get(rows[0].task), "guessing": chance(rows)}
    if group.metric != RETURN:
        return {"guessing": chance(rows)}
    reference: Reference = group.references.get(rows[0].task, {})
    return {"expert": reference.get("expert"), "random play": reference.get("random")}


def without_empty(lines: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[dict[str, Any]]:
    """The lines without those of these columns in which nothing stands."""
    empty = [key for key in columns if all(line.get(key) is None for line in lines)]
    return [{key: value for key, value in line.items() if key not in empty} for line in lines]


def by_model(title: str, tasks: Sequence[str], by_task: Mapping[str, Mapping[str, list[Row]]], first: Group) -> Sheet:
    """Tasks by models: a line for each task, a column for each group."""
    lines = []
    for task in tasks:
        line: dict[str, Any] = {"task": task}
        for name, of in by_task.items():
            rows = of.get(task, [])
            line[name] = cell(rows, next(iter(rows[0].outcomes)), first.metric) if rows else None
        lines.append(line | beside([row for of in by_task.values() for row in of.get(task, [])], first))
    return Sheet(title, without_empty(lines, ("expert", "random play", "guessing")), notes=[MEANS])


def totals(groups: Sequence[Group]) -> Sheet | None:
    """Mean and interquartile mean over all tasks and seeds of each group, where there are several tasks."""
    lines = [
        {"settings": group.name, "tasks": len(of), "runs": sum(map(len, of.values())), **over_all(of)}
        for group in groups
        if len(of := scores(group)) > 1
    ]
    if not lines:
        return None
    unit = "returns, 0 random play and 1 the expert where that is known" if groups[0].metric == RETURN else "shares"
    note = (
        f"Means over tasks of their means over seeds, of {unit}; seeds are resampled within each task, so one seed has "
        "no interval. The interquartile mean is of all runs, and left out where tasks have unequal numbers of seeds."
    )
    return Sheet(f"{named(groups[0])}: over all tasks", lines, notes=[note])


def differences(groups: Sequence[Group]) -> Sheet | None:
    """Each two groups on the tasks of both: difference, probability of improvement, what they show."""
    pairs = list(combinations(groups, 2))
    if len(pairs) > MOST_PAIRS:
        best = best_of(groups)
        pairs = [(best, group) for group in groups if group is not best]
    lines = []
    for ours, theirs in pairs:
        if (found := compared(ours, theirs)) is not None:
            lines.append({
                "of": ours.name, "and": theirs.name, "tasks": found.tasks, "difference": found.difference,
                "95 %": found.difference_interval, "P(above)": found.probability,
                "95 % of P": found.probability_interval, "the first is": found.says,
            })  # fmt: skip
    if all(line["95 % of P"] is None for line in lines):  # one seed each: nothing is known of others
        return None
    notes = [
        "Difference of the mean scores, with Welch's interval over seeds; where all seeds of one score the same, their "
        "episodes stand in for them. P(above): that a run of the first scores above one of the second; its interval is "
        "a bootstrap of seeds, with three of them too narrow rather than too wide."
    ]
    if len(pairs) < len(groups) * (len(groups) - 1) / 2:
        notes.append("Of so many, each is compared with the best of those that have most tasks and seeds.")
    return Sheet(f"{named(groups[0])}: differences", lines, notes=notes)


def best_of(groups: Sequence[Group]) -> Group:
    """The group of the highest mean score, of those with several seeds of most tasks; of all where no one has seeds."""
    of = [(group, found) for group in groups if has_seeds(found := scores(group))]
    most = max((len(found) for _, found in of), default=0)
    whole = [group for group, found in of if len(found) == most]
    return max(whole or groups, key=lambda group: np.mean([np.mean(values) for values in scores(group).values()]))


def microseconds(row: Row) -> float | None:
    """What acting took for each step of an episode, of all that acted side by side."""
    steps = sum(outcome.mean_length * outcome.episodes for outcome in row.outcomes.values())
    seconds = sum(outcome.wall_seconds for outcome in row.outcomes.values())
    return 1e6 * seconds / steps if steps and seconds else None


def _mean(values: Iterable[float | None], unit: float = 1.0) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) / unit if known else None


def cost(groups: Sequence[Group]) -> Sheet:
    """What a run of each group took: parameters, seconds apart, memory, machine."""
    lines: list[dict[str, Any]] = []
    for group in groups:
        rows, costs = group.rows, [row.cost for row in group.rows]
        sizes = sorted({row.parameters for row in rows if row.parameters is not None})
        cpu = [[spent for name in CPU if (spent := getattr(of, name)) is not None] for of in costs]
        evaluations: list[Any] = [row.settings.get("evaluation") for row in rows]
        alone = all(isinstance(of, dict) and of.get("num_envs") == 1 for of in evaluations)  # as what was published
        of = [one for task in group.by_task() if alone for one in published().get((task, group.model), [])]
        lines.append({
            "settings": group.name, "runs": len(rows),
            "parameters": f"{sizes[0]:,}" + f" to {sizes[-1]:,}" * (len(sizes) > 1) if sizes else None,
            **{f"{name.removesuffix('_seconds')} s": _mean(getattr(of, name) for of in costs) for name in WALL},
            "processor s": _mean(sum(spent) if spent else None for spent in cpu),
            "µs a step": _mean(map(microseconds, rows)),
            ALONE: _mean(of.step_ms for of in costs), STATE: _mean((of.state_bytes for of in costs), 1e3),
            "published, ms a step": next((one.value for one in of if one.metric == LATENCY), None),
            "peak MB": _mean((of.peak_memory_bytes for of in costs), 1e6),
            "on": ", ".join(sorted({machine(row) for row in rows})),
        })  # fmt: skip
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
    return Sheet("Cost", without_empty(lines, OPTIONAL), notes=notes)


def machine(row: Row) -> str:
    """Processor or accelerator and threads, in short."""
    about = row.origin.machine
    name = about.get("accelerator") or about.get("cpu") or "unknown"
    return f"{name}, {row.origin.threads or '?'} threads"


def runs(groups: Sequence[Group]) -> Sheet:
    """A line for each run with all that is needed to repeat it: what it is, how it did, how it came about."""
    lines = []
    for group, one in ((of, one) for of in groups for one in of.found):
        row = one.row
        lines.append({
            "task": row.task, "model": row.model, "settings": group.label, "stage": row.stage,
            "seed": "unknown" if row.seed is None else row.seed, row.metric: row.score(), "actions": row.actions,
            "updates": row.updates, "selection score": row.selection_score,
            "episodes of data": row.data.get("episodes"),
            **{name.replace("_", " "): getattr(row.cost, name) for name in (*WALL, *CPU)},
            "peak MB": _mean([row.cost.peak_memory_bytes], 1e6),
            "machine": machine(row), "commit": row.origin.commit, "code": row.origin.code,
            "versions": " ".join(f"{name} {version}" for name, version in row.versions.items()),
            "finished": row.finished, "command": row.origin.command, "folder": str(one.path.parent),
        })  # fmt: skip
    return Sheet("Runs", lines)
