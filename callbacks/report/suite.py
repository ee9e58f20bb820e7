"""Every task of one group of runs: returns of a suite with its sums, success of every variant, published numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from callbacks.evaluation.outcomes import RETURN
from callbacks.report.gather import Group, Reference
from callbacks.report.row import Row, normalised
from callbacks.report.scores import interval
from callbacks.report.sheets import Sheet
from callbacks.report.statistics import bootstrap_of_seeds, bootstrap_of_tasks, mean_and_error
from callbacks.report.tables import quantity
from envs import suites

OTHERS = ("ELMUR", "RATE", "DT", "BC-LSTM", "demonstrator")  # published, where there are numbers
ROBOTS = "mikasa32"  # known by the task: as a setting of the env it would tell finished runs from new ones
ROBOT_OTHERS = ("ELMUR", "RATE", "DP", "BC-MLP", "CQL-MLP", "DT")
GOOD = 0.8  # a normalised score that counts as solved
NOTE = (
    "Columns with an asterisk were published. Their demonstrators differ from the experts here, which score higher; "
    "the data differ too: they are no comparison of methods. Of ELMUR only sums were published; the published "
    "per-task table lists Medium and Hard the other way round, which is put right here."
)
ROBOT_NOTE = (
    "Columns with an asterisk were published: policies that see two cameras. One that is given numbers "
    "(observation=vector) has an easier task in all but what must be remembered; it is no comparison of methods."
)


def success_sheet(group: Group) -> Sheet:
    """Success, or another metric, in every variant of every task over seeds, and what was published on robot tasks.

    Where half of the robot tasks or more have runs, the others are named.
    """
    lines = []
    robots = suites.read(ROBOTS).tasks
    known = any(row.task in robots for row in group.rows)
    name = group.metric.replace("_", " ")
    for task, rows in group.by_task().items():
        for variant in dict.fromkeys(name for row in rows for name in row.outcomes):
            outcomes = [row.outcomes[variant] for row in rows if variant in row.outcomes]
            means = [outcome.metric(group.metric) for outcome in outcomes]
            line = {
                "task": task, "variant": variant, "seeds": len(outcomes),
                "episodes": sum(outcome.episodes for outcome in outcomes), name: float(np.mean(means)),
                "95 %": interval([outcome.metrics[group.metric] for outcome in outcomes]), "worst seed": min(means),
            }  # fmt: skip
            for metric in dict.fromkeys(name for outcome in outcomes for name in outcome.metrics):
                if metric not in (group.metric, RETURN):  # whatever else the environment measures
                    measured = [outcome.metric(metric) for outcome in outcomes if metric in outcome.metrics]
                    line.setdefault(metric.replace("_", " "), float(np.mean(measured)))
            if known:  # rows of other tasks have dashes here
                published = robots[task].published if task in robots else {}
                line |= {f"{method}*": published.get(method) for method in ROBOT_OTHERS}
            lines.append(line)
    about, notes = {"model": group.model, "settings": group.label}, [ROBOT_NOTE] * known
    missing = [task.removesuffix("-v0") for task in robots if task not in group.by_task()]
    if 0 < len(missing) <= len(robots) / 2:
        notes.insert(0, f"{len(missing)} of {len(robots)} tasks have no run here: {', '.join(missing)}.")
    return Sheet(f"{quantity(group)}: {group.name}", lines, about, notes)


def return_sheets(group: Group, is_asked: bool = False) -> list[Sheet]:
    """Returns of every task, and the sums over the groups of its suite.

    is_asked: the whole suite was asked for, so tasks without a run are shown as missing.
    """
    suite = suites.read(group.suite) if group.suite else None
    by_task = group.by_task()
    known = list(suite.tasks) if suite else list(by_task)
    tasks = [task for task in known if is_asked or task in by_task]
    references = group.references
    lines = [
        task_line(task, by_task.get(task, []), references.get(task), suite.tasks[task] if suite else None)
        for task in tasks
    ]
    missing = [task for task in known if task not in by_task]
    about = {"model": group.model, "settings": group.label}
    kinds = sorted({row.actions for row in group.rows if row.actions})
    notes = [f"Mean return ± standard error over seeds (of one seed: over its episodes); actions: {', '.join(kinds)}."]
    if missing:
        notes.append(f"{len(missing)} of {len(known)} tasks have no run yet.")
    sheets = [Sheet(f"{quantity(group)}: {group.name}", lines, about, notes + [NOTE] * bool(suite))]
    if suite:
        sheets.append(Sheet(f"Sums and means: {group.name}", sum_lines(suite, by_task, references), about))
    return sheets


def task_line(
    task: str, rows: Sequence[Row], reference: Reference | None, known: suites.SuiteTask | None
) -> dict[str, Any]:
    """One task: our return, its references, and what was published."""
    line: dict[str, Any] = {"task": task, "seeds": len(rows) or "missing"}
    line |= dict.fromkeys(("return", "±", "normalised", "norm. ±", "expert", "random"))
    if rows:
        errors = [outcome.metrics[RETURN].error for outcome in rows[0].outcomes.values()]
        line["return"], line["±"] = mean_and_error([row.score() for row in rows], float(np.mean(errors)))
        if reference:
            scale = reference["expert"] - reference["random"]
            line |= {"expert": reference["expert"], "random": reference["random"]}
            line |= {"normalised": (line["return"] - reference["random"]) / scale, "norm. ±": line["±"] / scale}
    if known:
        line |= {f"{method}*": known.published[method] for method in OTHERS if method in known.published}
    return line


def sum_lines(
    suite: suites.Suite, by_task: Mapping[str, Sequence[Row]], references: Mapping[str, Reference]
) -> list[dict[str, Any]]:
    """Sums and normalised means of each group of a suite, over the tasks that have runs."""
    lines = []
    for name in suite.groups:
        members = suite.members(name)
        there = [task for task in members if task in by_task]
        line: dict[str, Any] = {"tasks": f"{name} ({len(members)})", "with runs": len(there)}
        line["sum"] = float(sum(np.mean([row.score() for row in by_task[task]]) for task in there))
        known = {task: references[task] for task in there if task in references}
        line |= {kind: float(sum(reference[kind] for reference in known.values())) for kind in ("expert", "random")}
        chosen = {task: [normalised(row.score(), of) for row in by_task[task]] for task, of in known.items()}
        line |= dict.fromkeys(("normalised", "95 %, seeds", "95 %, seeds and tasks", f"above {GOOD}"))
        if chosen:
            means = [float(np.mean(values)) for values in chosen.values()]
            line |= {"normalised": float(np.mean(means)), f"above {GOOD}": sum(mean > GOOD for mean in means)}
            line["95 %, seeds and tasks"] = bootstrap_of_tasks(chosen)
            if all(len(values) > 1 for values in chosen.values()):
                line["95 %, seeds"] = bootstrap_of_seeds(chosen)
        line |= {f"{method}*": suite.sums[method].get(name) for method in OTHERS if method in suite.sums}
        lines.append(line)
    return lines
