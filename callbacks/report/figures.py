"""Figures over many runs, each with the numbers that it shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from callbacks.evaluation.outcomes import RETURN
from callbacks.report.curves import by_length, learning_curves
from callbacks.report.gather import Group
from callbacks.report.heatmaps import heat_maps
from callbacks.report.panels import (
    COLOURS,
    INK,
    MOST_LINES,
    WIDTH,
    Drawing,
    Figure,
    Lines,
    axis,
    label,
    legend,
    name,
    of_many,
    plain_powers,
)
from callbacks.report.scores import scores
from callbacks.report.statistics import performance_profile
from callbacks.report.tables import ALONE, STATE, cost, microseconds, named

MOST_BARS = 60


def figures(groups: Sequence[Group]) -> list[Figure]:
    """The figures of groups of one stage and metric, those that their rows have numbers for."""
    found: list[Figure | None] = [by_length(groups)]
    found += heat_maps(groups)
    found += [bars(groups), profiles(groups), learning_curves(groups), against_cost(groups), state_against_time(groups)]
    return [one for one in found if one is not None]


def bars(groups: Sequence[Group]) -> Figure | None:
    """Scores of every task, sorted by the difference of the first two groups, or by score where there is one."""
    of = {group.name: scores(group) for group in groups[:MOST_LINES]}
    tasks = list(dict.fromkeys(task for found in of.values() for task in found))
    if len(tasks) < 2:
        return None
    means = {key: {task: float(np.mean(values)) for task, values in found.items()} for key, found in of.items()}
    first, *others = means.values()
    second = others[0] if others else {}

    def order(task: str) -> tuple[bool, float]:
        known = task in first and (not others or task in second)
        return not known, -(first.get(task, 0.0) - second.get(task, 0.0))

    tasks = sorted(tasks, key=order)
    shown = tasks[:MOST_BARS]
    lines = [
        {"task": task, "settings": settings, "score": found.get(task)}
        | ({"difference": first[task] - second[task]} if others and task in first and task in second else {})
        for task in tasks
        for settings, found in means.items()
    ]

    def draw(on: Any) -> None:
        axes = on.subplots()
        height = 0.8 / len(means)
        for number, (settings, found) in enumerate(means.items()):
            there = [(at, found[task]) for at, task in enumerate(shown) if task in found]
            if there:
                places, values = zip(*there, strict=True)
                axes.barh([at + (number - (len(means) - 1) / 2) * height for at in places], values, height,
                          label=label(settings), color=COLOURS[number])  # fmt: skip
        axes.set_yticks(range(len(shown)), [label(task, 40) for task in shown], fontsize=8)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.axvline(0, color=INK, linewidth=0.8)
        if groups[0].metric == RETURN:
            axes.axvline(1, color=INK, linewidth=0.8, linestyle=":")
        axes.set_xlabel(axis(groups))
        legend(on, axes, len(means))

    inches = (WIDTH, 1.1 + len(shown) * max(0.2, 0.11 * len(means)) + 0.19 * len(means))
    sorting = "sorted by the difference of the first two" if others else "sorted"
    title = f"{named(groups[0])} of every task, {sorting}"
    note = of_many(groups=(len(groups), MOST_LINES), tasks=(len(tasks), MOST_BARS))
    return Figure(name("tasks", groups), title, Drawing(inches, draw), lines, note)


def profiles(groups: Sequence[Group]) -> Figure | None:
    """Performance profiles: the share of runs above each score, where there are several tasks."""
    of = {group.name: found for group in groups[:MOST_LINES] if len(found := scores(group)) > 2}
    if not of:
        return None
    every = [value for found in of.values() for values in found.values() for value in values]
    thresholds = np.linspace(min(0.0, *every), max(1.0, *every), 101).tolist()
    shares = {settings: performance_profile(found, thresholds) for settings, found in of.items()}
    lines = [
        {"settings": settings, "score": at, "share of runs above": float(share)}
        for settings, line in shares.items()
        for at, share in zip(thresholds, line, strict=True)
    ]

    def draw(on: Any) -> None:
        axes = on.subplots()
        for number, (settings, line) in enumerate(shares.items()):
            axes.step(thresholds, line, where="post", label=label(settings), color=COLOURS[number])
        axes.set(xlabel=axis(groups), ylabel="share of runs above", ylim=(-0.02, 1.02))
        axes.grid(alpha=0.25, linewidth=0.5)
        legend(on, axes, len(shares))

    title = f"{named(groups[0])}: performance profiles"
    note = of_many(groups=(len(groups), MOST_LINES))
    return Figure(name("profile", groups), title, Drawing((WIDTH, 2.9 + 0.19 * len(of)), draw), lines, note)


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
                      label=label(line["settings"]) if number < MOST_LINES else None)  # fmt: skip
        axes.set(xscale="log", xlabel="µs for each step of an episode", ylabel=axis(groups))
        plain_powers(axes)
        axes.grid(alpha=0.25, linewidth=0.5)
        legend(on, axes, len(lines))

    title = f"{named(groups[0])} against the cost of acting"
    note = "Of the machines as they were; episodes act side by side."
    if len(lines) > MOST_LINES:
        note += f" The first {MOST_LINES} of {len(lines)} groups are named."
    return Figure(
        name("cost", groups), title, Drawing((WIDTH, 2.9 + 0.19 * min(len(lines), MOST_LINES)), draw), lines, note
    )


def state_against_time(groups: Sequence[Group]) -> Figure | None:
    """What an episode's state takes against what a step takes, a point for each group, where rows have measured it."""
    lines = [
        {key: line[key] for key in ("settings", "parameters", ALONE, STATE)}
        for line in cost(groups).lines
        if line.get(STATE)
    ]
    if len(lines) < 2:
        return None

    def draw(on: Any) -> None:
        axes = on.subplots()
        for number, line in enumerate(lines):
            colour = COLOURS[number % len(COLOURS)]
            axes.plot(line[ALONE], line[STATE], "o", color=colour)
            axes.annotate(label(line["settings"]), (line[ALONE], line[STATE]), (5, 4), textcoords="offset points",
                          fontsize=8)  # fmt: skip
        axes.margins(0.18)
        axes.set(yscale="log", xlabel="ms of a step, one episode on one thread", ylabel="state of an episode, kB")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
        axes.grid(alpha=0.25, linewidth=0.5)

    note = "Of the machines as they were, processor time; untrained or trained makes no difference."
    title = "What a policy keeps against what a step takes"
    return Figure(name("state", groups), title, Drawing((WIDTH, 3.4), draw), lines, note)
