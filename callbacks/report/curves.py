"""Scores as lines with intervals, a panel for each task: against the length of a corridor, and while learning."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from callbacks.evaluation.outcomes import RETURN
from callbacks.metriclog import FILE
from callbacks.report.gather import Group
from callbacks.report.panels import (
    COLOURS,
    INK,
    MOST_LINES,
    MOST_PANELS,
    Drawing,
    Figure,
    Lines,
    grid,
    label,
    name,
    of_many,
    size,
)
from callbacks.report.row import Row
from callbacks.report.scores import RESAMPLES, interval, measures, variants
from callbacks.report.show import NUMBERED
from callbacks.report.statistics import percentiles, resampled
from callbacks.report.tables import chance, named

LARGEST = 1e30  # of a logged number that is drawn


class Point(NamedTuple):
    """A score at a place, with the ends of its interval, where that is known."""

    x: int
    mean: float
    low: float | None
    high: float | None


Panels = dict[str, dict[str, list[Point]]]  # task -> settings -> a line


def by_length(groups: Sequence[Group]) -> Figure | None:
    """Score against the number in the variants' names, the length of a corridor, on a logarithmic axis."""
    metric, panels, chosen = groups[0].metric, Panels(), groups[:MOST_LINES]
    for task in dict.fromkeys(row.task for group in chosen for row in group.rows):
        for group in chosen:
            points = _of_variants(group.by_task().get(task, []), metric)
            if len(points) > 1:
                panels.setdefault(task, {})[group.name] = points
    if not panels:
        return None
    guessing = chance([row for group in chosen for row in group.rows]) if metric != RETURN else None
    shown = dict(list(panels.items())[:MOST_PANELS])
    about = {"xscale": "log", "xlabel": "length (steps)", "ylabel": metric.replace("_", " ")}
    drawn, title = _drawn(shown, metric, about, guessing), f"{named(groups[0])} against length"
    note = of_many(groups=(len(groups), MOST_LINES), tasks=(len(panels), MOST_PANELS))
    return Figure(name("length", groups), title, drawn, _lines(shown, "length", metric), note)


def _of_variants(rows: Sequence[Row], metric: str) -> list[Point]:
    """The mean over rows in each variant that is named by a number."""
    points = []
    for variant in variants(rows):
        match, of = NUMBERED.match(variant), measures(rows, variant, metric)
        if match and of and int(match[1]) > 0:
            mean = float(np.mean([one.mean for one in of]))
            points.append(Point(int(match[1]), mean, *(interval(of) or (None, None))))
    return points


def learning_curves(groups: Sequence[Group]) -> Figure | None:
    """Score on selection seeds against updates, mean over seeds with its interval, of each task."""
    metric, logs = groups[0].metric, dict[str, dict[str, list[dict[int, float]]]]()
    if groups[0].stage != "train":
        return None
    for group in groups[:MOST_LINES]:
        for one in group.found:
            if found := curve(one.path, metric):
                logs.setdefault(one.row.task, {}).setdefault(group.name, []).append(found)
    if not logs:
        return None
    shown = dict(list(logs.items())[:MOST_PANELS])
    panels = {task: {key: _over_seeds(seeds) for key, seeds in series.items()} for task, series in shown.items()}
    drawn = _drawn(panels, metric, {"xlabel": "updates", "ylabel": f"{metric.replace('_', ' ')}, selection seeds"})
    lines = [{**line, "seeds": len(shown[line["task"]][line["settings"]])} for line in _lines(panels, "update", metric)]
    note = of_many(groups=(len(groups), MOST_LINES), tasks=(len(logs), MOST_PANELS))
    return Figure(name("learning", groups), f"{named(groups[0])} while learning", drawn, lines, note)


def curve(row_path: Path, metric: str) -> dict[int, float]:
    """update -> what acting on selection seeds gave there, from the log of a run; empty where there is none."""
    path, key = row_path.parent / "logs" / FILE, f"eval/{metric}"
    if not path.is_file():
        return {}
    found = {}
    # A log of something else, or a torn one: what was read is shown.
    with suppress(ValueError, OSError, csv.Error), path.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            if line.get(key) and line.get("update"):
                found[int(line["update"])] = float(line[key])
    return {update: value for update, value in found.items() if abs(value) < LARGEST}


def _over_seeds(seeds: Sequence[Mapping[int, float]]) -> list[Point]:
    """Update, mean over the seeds that have it, and how far its interval reaches."""
    rng = np.random.default_rng(0)
    points = []
    for update in sorted({update for seed in seeds for update in seed}):
        values = [seed[update] for seed in seeds if update in seed]
        known = len(values) > 1
        ends = percentiles(resampled(values, rng)[:RESAMPLES].mean(axis=1)) if known else (None, None)
        points.append(Point(update, float(np.mean(values)), *ends))
    return points


def _lines(panels: Panels, place: str, metric: str) -> Lines:
    """What the panels show, as numbers."""
    return [
        {"task": task, "settings": settings, place: point.x, metric: point.mean, "95 %": (point.low, point.high)}
        for task, series in panels.items()
        for settings, points in series.items()
        for point in points
    ]


def _drawn(panels: Panels, metric: str, about: Mapping[str, Any], guessing: float | None = None) -> Drawing:
    """The panels beside each other. about: of their axes. guessing: the score of random play."""

    def paint(axes: Any, number: int) -> None:
        for at, (settings, points) in enumerate(list(panels.values())[number].items()):
            x, mean, low, high = zip(*points, strict=True)
            axes.plot(x, mean, marker="os^Dvp*X"[at], markersize=4, label=label(settings), color=COLOURS[at])
            ends = (np.asarray(end, np.float64) for end in (low, high))  # NaN, and not filled, where unknown
            axes.fill_between(x, *ends, alpha=0.15, color=COLOURS[at], linewidth=0)
        if guessing is not None:
            axes.axhline(guessing, color=INK, linestyle=":", linewidth=1, label="guessing")
        if metric != RETURN:
            axes.set_ylim(-0.03, 1.03)

    count = max(map(len, panels.values()))
    return Drawing(size(len(panels), count), lambda on: grid(on, list(panels), paint, **about))
