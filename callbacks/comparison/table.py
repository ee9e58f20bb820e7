"""The tables of a comparison: scores and costs, each contender against each other, every variant, and the search."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from callbacks.benchmark.run import readable
from callbacks.comparison.plan import Contender
from callbacks.report.row import Row
from callbacks.report.scores import measures
from callbacks.report.sheets import Sheet, as_csv
from callbacks.report.statistics import Interval, above, bootstrap_of_seeds, success_interval
from elmur.files import write_text

log = logging.getLogger("sweep")
NAME = "comparison"  # of the files
COSTS = (
    "Parameters are the learned numbers. Milliseconds are of processor time on one thread, untrained, measured before "
    "the runs, one contender after the other; seconds of an update are those of the reported runs, choosing "
    "checkpoints apart. State: bytes that are kept for one episode, all that its next action depends on."
)
BETTER = "How probable it is that a run of the line scores above one of the column, equal scores counting one half."


def write_tables(contenders: Sequence[Contender], folder: Path) -> None:
    """Show the tables of all runs that have finished, and write comparison.md and comparison.csv into the folder."""
    sheets = []
    for task in dict.fromkeys(row.task for contender in contenders for row in contender.reported):
        there = [c for c in contenders if c.reported and c.reported[0].task == task]
        sheets += [scores(task, there), against(task, there), variants(task, there), search(task, there)]
    sheets = [sheet for sheet in sheets if sheet.lines]
    for sheet in sheets:
        sheet.show(Console())
    write_text(folder / f"{NAME}.md", "\n".join(sheet.markdown() for sheet in sheets))
    write_text(folder / f"{NAME}.csv", as_csv(sheets))
    log.info("written: %s, %s", folder / f"{NAME}.md", folder / f"{NAME}.csv")


def scores(task: str, contenders: Sequence[Contender]) -> Sheet:
    """Of each contender its mean score over the seeds, with the interval (95 %), and its costs."""
    lines: list[dict[str, Any]] = []
    costs = [contender.cost for contender in contenders if contender.cost is not None]
    for contender, cost in zip(contenders, costs, strict=True):
        rows = contender.reported
        spent = [row.cost.train_seconds / row.updates for row in rows if row.cost.train_seconds and row.updates]
        lines.append({
            "model": contender.name, **chosen_values(contender), "seeds": len(rows),
            "score": float(np.mean([row.score() for row in rows])), "95 %": interval(rows),
            "parameters": f"{cost.parameters:,}", "updates": rows[0].updates,
            "steps of an update": f"{cost.steps_per_update:,}",
            "ms an update": readable(1e3 * cost.update_seconds),
            "s an update, runs": readable(float(np.mean(spent))) if spent else None,
            **{f"ms a step, {n} env{'s' * (n > 1)}": readable(cost.step_ms[n]) for n in (1, 100)},
            "state, bytes": f"{cost.state_bytes:,}",
        })  # fmt: skip
    first = contenders[0].reported[0]
    of = f"{first.metric.replace('_', ' ')}, mean over {', '.join(first.outcomes)}"
    episodes = next(iter(first.outcomes.values())).episodes
    note = f"Score: {of}; {episodes} episodes of each, of seeds that nothing was chosen by."
    sizes = [cost.parameters for cost in costs]
    if max(sizes) > 2 * min(sizes):
        note += f" Parameters differ by more than a factor of two: {min(sizes):,} to {max(sizes):,}."
    return Sheet(f"{task}: scores and costs", lines, notes=[note, COSTS])


def interval(rows: Sequence[Row]) -> Interval | None:
    """The interval of the mean score: over seeds and their episodes; None where a single seed says nothing of it.

    Variants are played from the same seeds by the same policy, so they count as one.
    """
    measures = [[outcome.metrics[row.metric] for outcome in row.outcomes.values()] for row in rows]
    if all(measure.is_share for of_row in measures for measure in of_row):
        won = [[bool(value) for measure in of_row for value in measure.values] for of_row in measures]
        return success_interval(won, variants=len(measures[0]))
    if len(rows) > 1:
        return bootstrap_of_seeds({"": [row.score() for row in rows]})
    return measures[0][0].interval if len(measures[0]) == 1 else None


def against(task: str, contenders: Sequence[Contender]) -> Sheet:
    """The probability of improvement of each contender over each other."""
    values = {contender.name: [row.score() for row in contender.reported] for contender in contenders}
    lines: list[dict[str, Any]] = []
    for name, ours in values.items():
        wins = {other: None if other == name else float(above(ours, of).mean()) for other, of in values.items()}
        lines.append({"model": name, **wins})
    return Sheet(f"{task}: probability of improvement", lines if len(lines) > 1 else [], notes=[BETTER])


def variants(task: str, contenders: Sequence[Contender]) -> Sheet:
    """The mean over the seeds in each variant, where there are several."""
    lines: list[dict[str, Any]] = []
    for contender in contenders:
        rows = contender.reported
        lines.append({"model": contender.name, "seeds": len(rows)})
        for name in dict.fromkeys(name for row in rows for name in row.outcomes):
            lines[-1][name] = float(np.mean([one.mean for one in measures(rows, name, rows[0].metric)]))
    return Sheet(f"{task}: variants", lines if any(len(line) > 3 for line in lines) else [])


def search(task: str, contenders: Sequence[Contender]) -> Sheet:
    """The mean score of every point that was tried, and what trying them took."""
    lines: list[dict[str, Any]] = []
    for contender in contenders:
        if not contender.searched:
            continue
        line: dict[str, Any] = {"model": contender.name}
        for point, rows in contender.searched.items():
            mean = float(np.mean([row.score() for row in rows])) if rows else None
            line[", ".join(short(override) for override in point)] = mean
        updates = [row.updates or 0 for rows in contender.searched.values() for row in rows]
        chosen = ", ".join(chosen_values(contender).values())
        lines.append({**line, "runs": len(updates), "updates in all": f"{sum(updates):,}", "chosen": chosen})
    seeds = ", ".join(str(seed) for seed in contenders[0].search_seeds)
    note = (
        f"The budget of the search, the same for all: training seeds {seeds}, which are not reported; scores are of "
        "episodes that nothing else plays, in the variants by which checkpoints are chosen. Of equal scores the "
        "first value stands."
    )
    return Sheet(f"{task}: search", lines, notes=[note])


def chosen_values(contender: Contender) -> dict[str, str]:
    """What was chosen for a contender, by the last part of its key."""
    return dict(short(override).split("=", 1) for override in contender.chosen or ())


def short(override: str) -> str:
    """An override with the last part of its key."""
    key, _, value = override.partition("=")
    return f"{key.rpartition('.')[2]}={value}"
