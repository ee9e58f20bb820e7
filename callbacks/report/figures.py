"""Figures over many runs, each with the numbers that it shows."""

from __future__ import annotations

import csv
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from callbacks.evaluation.outcomes import RETURN
from callbacks.metriclog import FILE
from callbacks.report.figure import COLOURS, INK, svg
from callbacks.report.gather import Group
from callbacks.report.row import Row
from callbacks.report.scores import RESAMPLES, by_number, interval, measures, scores, variants
from callbacks.report.show import NUMBERED
from callbacks.report.statistics import performance_profile, resampled
from callbacks.report.tables import ALONE, STATE, chance, cost, microseconds, named
from callbacks.text import plain

MOST_PANELS = 24  # tasks that one figure shows beside each other
MOST_LINES = 8  # groups in one panel: more cannot be told apart
MOST_BARS = 60
WIDTH = 7.2  # inches
LARGEST = 1e30  # of a logged number that is drawn
Lines = list[dict[str, Any]]


@dataclass(frozen=True)
class Figure:
    """A figure: its name as a file, what it shows, as SVG and as lines of numbers."""

    name: str
    title: str
    svg: str
    lines: Lines
    note: str = ""


def figures(groups: Sequence[Group]) -> list[Figure]:
    """The figures of groups of one stage and metric, those that their rows have numbers for."""
    found: list[Figure | None] = [by_length(groups)]
    found += heat_maps(groups)
    found += [bars(groups), profiles(groups), learning_curves(groups), against_cost(groups), state_against_time(groups)]
    return [one for one in found if one is not None]


def _axis(metric: str, groups: Sequence[Group]) -> str:
    scaled = metric == RETURN and any(row.reference for group in groups for row in group.rows)
    return "normalised return" if scaled else metric.replace("_", " ")


def _name(kind: str, groups: Sequence[Group]) -> str:
    return "-".join([kind, groups[0].metric, *(["again"] * (groups[0].stage == "evaluate"))])


def _label(text: str, most: int = 46) -> str:
    """The text as a label, folded; not hidden by a leading underscore."""
    found = "\n".join(textwrap.wrap(plain(text), most)) or " "
    return f" {found}" if found.startswith("_") else found


def _legend(drawn: Any, axes: Any, count: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if count > 1 and handles:
        columns = 1 if max(map(len, labels)) > 30 else min(3, len(labels))
        drawn.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def _plain_powers(axes: Any) -> None:
    """Numbers on a logarithmic axis as numbers."""
    if axes.get_xscale() == "log":
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
        axes.xaxis.set_minor_formatter(lambda *_: "")


def _grid(drawn: Any, titles: Sequence[str], paint: Callable[[Any, int], None], **about: Any) -> None:
    """Panels beside each other, each with its title."""
    columns = min(len(titles), 1 if len(titles) == 1 else 2 if len(titles) < 5 else 3)
    axes = drawn.subplots(math.ceil(len(titles) / columns), columns, squeeze=False, sharey=True)
    for number, one in enumerate(axes.flat):
        if number >= len(titles):
            one.set_visible(False)
            continue
        paint(one, number)
        if len(titles) > 1:
            one.set_title(_label(titles[number], 34), fontsize=8)
        one.grid(alpha=0.25, linewidth=0.5)
        one.set(**about)
        _plain_powers(one)
        one.label_outer()
    _legend(drawn, axes.flat[0], 2)


def _size(panels: int, lines: int) -> tuple[float, float]:
    rows = math.ceil(panels / (1 if panels == 1 else 2 if panels < 5 else 3))
    return WIDTH, max(2.9, 1.9 * rows) + 0.19 * lines


def by_length(groups: Sequence[Group]) -> Figure | None:
    """Score against the number in the variants' names, the length of a corridor, on a logarithmic axis."""
    metric, lines, panels = groups[0].metric, [], {}
    chosen = groups[:MOST_LINES]
    for task in dict.fromkeys(row.task for group in chosen for row in group.rows):
        series = {}
        for group in chosen:
            rows = group.by_task().get(task, [])
            points = []
            for name in variants(rows):
                match, of = NUMBERED.match(name), measures(rows, name, metric)
                if match and of and int(match[1]) > 0:
                    mean = float(np.mean([one.mean for one in of]))
                    points.append((int(match[1]), mean, interval(of) or (mean, mean)))
            if len(points) > 1:
                series[group.name] = points
        if series:
            panels[task] = series
    panels = dict(list(panels.items())[:MOST_PANELS])
    for task, series in panels.items():
        for name, points in series.items():
            lines += [{"task": task, "settings": name, "length": x, metric: y, "95 %": reach} for x, y, reach in points]
    if not lines:
        return None
    guessing = chance([row for group in chosen for row in group.rows]) if metric != RETURN else None

    def paint(axes: Any, number: int) -> None:
        for at, (name, points) in enumerate(list(panels.values())[number].items()):
            x, y, reach = zip(*points, strict=True)
            low, high = zip(*reach, strict=True)
            colour = COLOURS[at % len(COLOURS)]
            axes.plot(x, y, marker="os^Dvp*X"[at % 8], markersize=4, label=_label(name), color=colour)
            axes.fill_between(x, low, high, alpha=0.15, color=colour, linewidth=0)
        if guessing is not None:
            axes.axhline(guessing, color=INK, linestyle=":", linewidth=1, label="guessing")
        if metric != RETURN:
            axes.set_ylim(-0.03, 1.03)

    count = max(map(len, panels.values()))
    drawn = svg(
        _size(len(panels), count),
        lambda on: _grid(
            on, list(panels), paint, xscale="log", xlabel="length (steps)", ylabel=metric.replace("_", " ")
        ),
    )
    title = f"{named(metric, groups[0].stage)} against length"
    return Figure(_name("length", groups), title, drawn, lines, _of_many(groups, MOST_LINES, "groups"))


def _of_many(of: Sequence[Any], most: int, noun: str) -> str:
    return f"The first {most} of {len(of)} {noun}." if len(of) > most else ""


def swept(groups: Sequence[Group]) -> tuple[str, dict[float, Group]] | None:
    """The one setting, a number, in which labels differ, with the group of each of its values; else None."""
    parts = [dict(part.partition("=")[::2] for part in group.label.split("+")) for group in groups]
    keys = {key for part in parts for key in part}
    differ = [key for key in keys if len({part.get(key) for part in parts}) > 1]
    if len(groups) < 2 or len(differ) != 1 or any(differ[0] not in part for part in parts):
        return None
    try:
        values = [float(part[differ[0]]) for part in parts]
    except ValueError:
        return None
    if len(set(values)) < len(values) or not all(map(math.isfinite, values)):
        return None
    return differ[0], dict(sorted(zip(values, groups, strict=True)))


def heat_maps(groups: Sequence[Group]) -> list[Figure]:
    """For each model and task: a setting that was swept (the length trained on) by the length that was tested."""
    metric, found = groups[0].metric, []
    for model in dict.fromkeys(group.model for group in groups):
        if (one := swept([group for group in groups if group.model == model])) is None:
            continue
        key, by_value = one
        for task in dict.fromkeys(row.task for group in by_value.values() for row in group.rows):
            rows = {value: group.by_task().get(task, []) for value, group in by_value.items()}
            names = by_number([name for of in rows.values() for row in of for name in row.outcomes])
            if len(names) > 1:
                found.append(_heat_map(groups, (model, task, key), rows, names, metric))
    return found


def _heat_map(
    groups: Sequence[Group],
    about: tuple[str, str, str],
    rows: Mapping[float, list[Row]],
    names: Sequence[str],
    metric: str,
) -> Figure:
    model, task, key = about
    table = np.full((len(rows), len(names)), np.nan)
    for i, of in enumerate(rows.values()):
        for j, name in enumerate(names):
            if of and (measured := measures(of, name, metric)):
                table[i, j] = np.mean([one.mean for one in measured])
    values = [f"{value:g}" for value in rows]
    lines = [
        {"model": model, "task": task, key: value, "variant": name, metric: None if np.isnan(cell) else float(cell)}
        for value, line in zip(values, table, strict=True)
        for name, cell in zip(names, line, strict=True)
    ]

    def draw(on: Any) -> None:
        from matplotlib import colormaps

        axes = on.subplots()
        low, high = (0.0, 1.0) if metric != RETURN else (float(np.nanmin(table)), float(np.nanmax(table)))
        colours = colormaps["cividis"]
        axes.pcolormesh(np.ma.masked_invalid(table), cmap=colours, vmin=low, vmax=high, edgecolors="white", linewidth=1)
        for (i, j), cell in np.ndenumerate(table):
            share = 0.0 if np.isnan(cell) or high <= low else (cell - low) / (high - low)
            ink = INK if np.isnan(cell) else "white" if share < 0.55 else "black"
            axes.text(j + 0.5, i + 0.5, "–" if np.isnan(cell) else f"{cell:.2f}", ha="center", va="center", color=ink,
                      fontsize=8)  # fmt: skip
        axes.set_xticks(np.arange(len(names)) + 0.5, [_label(name, 14) for name in names], rotation=45, ha="right")
        axes.set_yticks(np.arange(len(values)) + 0.5, values)
        axes.invert_yaxis()
        axes.tick_params(length=0)
        axes.set(xlabel="tested on", ylabel=_label(key.replace("_", " ")))

    title = f"{named(metric, groups[0].stage)} of {model} on {task}: {key.replace('_', ' ')} by what it was tested on"
    name = "-".join([_name("grid", groups), model, task])
    return Figure(name, title, svg((WIDTH, 1.3 + 0.36 * len(rows)), draw), lines)


def bars(groups: Sequence[Group]) -> Figure | None:
    """Scores of every task, sorted by the difference of the first two groups, or by score where there is one."""
    of = {group.name: scores(group) for group in groups[:MOST_LINES]}
    tasks = list(dict.fromkeys(task for found in of.values() for task in found))
    if len(tasks) < 2:
        return None
    means = {name: {task: float(np.mean(values)) for task, values in found.items()} for name, found in of.items()}
    first, *others = means.values()
    second = others[0] if others else {}

    def key(task: str) -> tuple[bool, float]:
        known = task in first and (not others or task in second)
        return not known, -(first.get(task, 0.0) - second.get(task, 0.0))

    tasks = sorted(tasks, key=key)
    shown = tasks[:MOST_BARS]
    lines = [
        {"task": task, "settings": name, "score": found.get(task)}
        | ({"difference": first[task] - second[task]} if others and task in first and task in second else {})
        for task in tasks
        for name, found in means.items()
    ]

    def draw(on: Any) -> None:
        axes = on.subplots()
        height = 0.8 / len(means)
        for number, (name, found) in enumerate(means.items()):
            there = [(at, found[task]) for at, task in enumerate(shown) if task in found]
            if there:
                places, values = zip(*there, strict=True)
                axes.barh([at + (number - (len(means) - 1) / 2) * height for at in places], values, height,
                          label=_label(name), color=COLOURS[number])  # fmt: skip
        axes.set_yticks(range(len(shown)), [_label(task, 40) for task in shown], fontsize=8)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.axvline(0, color=INK, linewidth=0.8)
        if groups[0].metric == RETURN:
            axes.axvline(1, color=INK, linewidth=0.8, linestyle=":")
        axes.set_xlabel(_axis(groups[0].metric, groups))
        _legend(on, axes, len(means))

    size = (WIDTH, 1.1 + len(shown) * max(0.2, 0.11 * len(means)) + 0.19 * len(means))
    sorting = "sorted by the difference of the first two" if others else "sorted"
    title = f"{named(groups[0].metric, groups[0].stage)} of every task, {sorting}"
    return Figure(_name("tasks", groups), title, svg(size, draw), lines, _of_many(tasks, MOST_BARS, "tasks"))


def profiles(groups: Sequence[Group]) -> Figure | None:
    """Performance profiles: the share of runs above each score, where there are several tasks."""
    of = {group.name: found for group in groups[:MOST_LINES] if len(found := scores(group)) > 2}
    if not of:
        return None
    every = [value for found in of.values() for values in found.values() for value in values]
    thresholds = np.linspace(min(0.0, *every), max(1.0, *every), 101).tolist()
    shares = {name: performance_profile(found, thresholds) for name, found in of.items()}
    lines = [
        {"settings": name, "score": at, "share of runs above": float(share)}
        for name, line in shares.items()
        for at, share in zip(thresholds, line, strict=True)
    ]

    def draw(on: Any) -> None:
        axes = on.subplots()
        for number, (name, line) in enumerate(shares.items()):
            axes.step(thresholds, line, where="post", label=_label(name), color=COLOURS[number])
        axes.set(xlabel=_axis(groups[0].metric, groups), ylabel="share of runs above", ylim=(-0.02, 1.02))
        axes.grid(alpha=0.25, linewidth=0.5)
        _legend(on, axes, len(shares))

    title = f"{named(groups[0].metric, groups[0].stage)}: performance profiles"
    return Figure(_name("profile", groups), title, svg((WIDTH, 2.9 + 0.19 * len(of)), draw), lines)


def curve(row_path: Path, metric: str) -> dict[int, float]:
    """update -> what acting on selection seeds gave there, from the log of a run; empty where there is none."""
    path, name = row_path.parent / "logs" / FILE, f"eval/{metric}"
    if not path.is_file():
        return {}
    found = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for line in csv.DictReader(file):
                if line.get(name) and line.get("update"):
                    found[int(line["update"])] = float(line[name])
    except (ValueError, OSError, csv.Error):  # a log of something else, or a torn one: what was read is shown
        pass
    return {update: value for update, value in found.items() if abs(value) < LARGEST}


def learning_curves(groups: Sequence[Group]) -> Figure | None:
    """Score on selection seeds against updates, mean over seeds with its interval, of each task."""
    metric, lines = groups[0].metric, Lines()
    panels: dict[str, dict[str, list[dict[int, float]]]] = {}
    if groups[0].stage != "train":
        return None
    for group in groups[:MOST_LINES]:
        for one in group.found:
            if found := curve(one.path, metric):
                panels.setdefault(one.row.task, {}).setdefault(group.name, []).append(found)
    every = len(panels)
    panels = dict(list(panels.items())[:MOST_PANELS])
    drawn: dict[str, dict[str, list[tuple[int, float, float, float]]]] = {}
    for task, series in panels.items():
        for name, seeds in series.items():
            points = _over_seeds(seeds)
            drawn.setdefault(task, {})[name] = points
            lines += [
                {"task": task, "settings": name, "update": at, metric: mean, "95 %": (low, high), "seeds": len(seeds)}
                for at, mean, low, high in points
            ]
    if not lines:
        return None

    def paint(axes: Any, number: int) -> None:
        for at, (name, points) in enumerate(list(drawn.values())[number].items()):
            x, mean, low, high = zip(*points, strict=True)
            axes.plot(x, mean, marker=".", label=_label(name), color=COLOURS[at])
            axes.fill_between(x, low, high, alpha=0.15, color=COLOURS[at], linewidth=0)
        if metric != RETURN:
            axes.set_ylim(-0.03, 1.03)

    count = max(map(len, drawn.values()))
    on = svg(
        _size(len(drawn), count),
        lambda on: _grid(
            on, list(drawn), paint, xlabel="updates", ylabel=f"{metric.replace('_', ' ')}, selection seeds"
        ),
    )
    note = f"The first {MOST_PANELS} of {every} tasks." if every > MOST_PANELS else ""
    return Figure(_name("learning", groups), f"{named(metric, 'train')} while learning", on, lines, note)


def _over_seeds(seeds: Sequence[Mapping[int, float]]) -> list[tuple[int, float, float, float]]:
    """Update, mean over the seeds that have it, and how far its interval reaches."""
    rng = np.random.default_rng(0)
    points = []
    for update in sorted({update for seed in seeds for update in seed}):
        values = [seed[update] for seed in seeds if update in seed]
        low = high = float(np.mean(values))
        if len(values) > 1:
            drawn = resampled(values, rng)[:RESAMPLES].mean(axis=1)
            low, high = (float(of) for of in np.quantile(drawn, (0.025, 0.975)))
        points.append((update, float(np.mean(values)), low, high))
    return points


def against_cost(groups: Sequence[Group]) -> Figure | None:
    """Score against what a step of acting took, a point for each group."""
    lines: Lines = []
    for group in groups:
        times = [time for row in group.rows if (time := microseconds(row)) is not None]
        if times:
            means = [float(np.mean(values)) for values in scores(group).values()]
            lines.append({
                "settings": group.name, "µs a step": float(np.mean(times)), "score": float(np.mean(means)),
                "parameters": next((row.parameters for row in group.rows if row.parameters), None), "tasks": len(means),
            })  # fmt: skip
    if len(lines) < 2:
        return None

    def draw(on: Any) -> None:
        axes = on.subplots()
        for number, line in enumerate(lines):
            axes.plot(line["µs a step"], line["score"], "os^Dvp*X"[number % 8], color=COLOURS[number % len(COLOURS)],
                      label=_label(line["settings"]) if number < MOST_LINES else None)  # fmt: skip
        axes.set(xscale="log", xlabel="µs for each step of an episode", ylabel=_axis(groups[0].metric, groups))
        _plain_powers(axes)
        axes.grid(alpha=0.25, linewidth=0.5)
        _legend(on, axes, len(lines))

    title = f"{named(groups[0].metric, groups[0].stage)} against the cost of acting"
    note = "Of the machines as they were; episodes act side by side."
    return Figure(
        _name("cost", groups), title, svg((WIDTH, 2.9 + 0.19 * min(len(lines), MOST_LINES)), draw), lines, note
    )


def state_against_time(groups: Sequence[Group]) -> Figure | None:
    """What an episode's state takes against what a step takes, a point for each group, where rows have measured it."""
    lines = [{key: line[key] for key in ("settings", ALONE, STATE)} for line in cost(groups).lines if line.get(STATE)]
    if len(lines) < 2:
        return None

    def draw(on: Any) -> None:
        axes = on.subplots()
        for number, line in enumerate(lines):
            colour = COLOURS[number % len(COLOURS)]
            axes.plot(line[ALONE], line[STATE], "o", color=colour)
            axes.annotate(_label(line["settings"]), (line[ALONE], line[STATE]), (5, 4), textcoords="offset points",
                          fontsize=8)  # fmt: skip
        axes.margins(0.18)
        axes.set(yscale="log", xlabel="ms of a step, one episode on one thread", ylabel="state of an episode, kB")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
        axes.grid(alpha=0.25, linewidth=0.5)

    note = "Of the machines as they were, processor time; untrained or trained makes no difference."
    return Figure(
        _name("state", groups), "What a policy keeps against what a step takes", svg((WIDTH, 3.4), draw), lines, note
    )
