"""Heat maps: a setting that was swept, such as the length trained on, by what was tested."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from callbacks.evaluation.outcomes import RETURN
from callbacks.report.figure import INK, svg
from callbacks.report.gather import Group
from callbacks.report.panels import WIDTH, Figure, label, name
from callbacks.report.row import Row
from callbacks.report.scores import by_number, measures
from callbacks.report.tables import named


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
        for j, variant in enumerate(names):
            if of and (measured := measures(of, variant, metric)):
                table[i, j] = np.mean([one.mean for one in measured])
    values = [f"{value:g}" for value in rows]
    lines = [
        {"model": model, "task": task, key: value, "variant": variant, metric: None if np.isnan(cell) else float(cell)}
        for value, line in zip(values, table, strict=True)
        for variant, cell in zip(names, line, strict=True)
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
        axes.set_xticks(np.arange(len(names)) + 0.5, [label(variant, 14) for variant in names], rotation=45, ha="right")
        axes.set_yticks(np.arange(len(values)) + 0.5, values)
        axes.invert_yaxis()
        axes.tick_params(length=0)
        axes.set(xlabel="tested on", ylabel=label(key.replace("_", " ")))

    title = f"{named(metric, groups[0].stage)} of {model} on {task}: {key.replace('_', ' ')} by what it was tested on"
    return Figure(
        "-".join([name("grid", groups), model, task]), title, svg((WIDTH, 1.3 + 0.36 * len(rows)), draw), lines
    )
