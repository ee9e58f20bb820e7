"""Heat maps: a setting that was swept, such as the length trained on, by what was tested or by a second setting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from callbacks.evaluation.outcomes import RETURN
from callbacks.report.gather import Group
from callbacks.report.panels import INK, WIDTH, Drawing, Figure, Lines, label, name
from callbacks.report.scores import by_number, measures, score
from callbacks.report.tables import named

Cells = Mapping[tuple[float, ...], Group]  # the values of the settings that were swept -> what ran with them


@dataclass(frozen=True)
class Grid:
    """One panel. cells: [rows, columns], the mean over seeds, NaN where nothing ran."""

    title: str
    rows: tuple[str, Sequence[str]]
    columns: tuple[str, Sequence[str]]
    cells: np.ndarray

    def lines(self, value: str, **about: str) -> Lines:
        """Its numbers, one a line; value: what a cell is called."""
        return [
            {**about, self.rows[0]: row, self.columns[0]: column, value: None if np.isnan(cell) else float(cell)}
            for row, line in zip(self.rows[1], self.cells, strict=True)
            for column, cell in zip(self.columns[1], line, strict=True)
        ]


def swept(groups: Sequence[Group]) -> tuple[tuple[str, ...], dict[tuple[float, ...], Group]] | None:
    """The one or two settings, numbers, in which labels differ, with the group of each combination; else None.

    They are in alphabetical order. Of two at least two combinations share a value, else a grid would show nothing.
    """
    parts = [dict(part.partition("=")[::2] for part in group.label.split("+")) for group in groups]
    keys = dict.fromkeys(key for part in parts for key in part)
    differ = tuple(sorted(key for key in keys if len({part.get(key) for part in parts}) > 1))
    if len(groups) < 2 or len(differ) not in (1, 2) or any(key not in part for part in parts for key in differ):
        return None
    try:
        values = [tuple(float(part[key]) for key in differ) for part in parts]
    except ValueError:
        return None
    if len(set(values)) < len(values) or not all(map(math.isfinite, np.ravel(values))):
        return None
    if len(differ) == 2 and any(len({value[axis] for value in values}) == len(values) for axis in (0, 1)):
        return None
    return differ, dict(sorted(zip(values, groups, strict=True)))


def heat_maps(groups: Sequence[Group]) -> list[Figure]:
    """The figures of what was swept with each model.

    One setting: for each model and task, by the variants that were tested, where there are several. Two settings, the
    same ones of each model: for each task a figure with a panel a model, whose cells are scores.
    """
    found, pairs = [], dict[tuple[str, ...], dict[str, Cells]]()
    for model in dict.fromkeys(group.model for group in groups):
        if (one := swept([group for group in groups if group.model == model])) is None:
            continue
        keys, cells = one
        if len(keys) == 1:
            found += _by_variant(groups, model, keys[0], cells)
        else:
            pairs.setdefault(keys, {})[model] = cells
    for both, models in pairs.items():
        found += _by_settings(groups, both, models)
    return found


def _tasks(groups: Sequence[Group]) -> list[str]:
    return list(dict.fromkeys(row.task for group in groups for row in group.rows))


def _by_variant(groups: Sequence[Group], model: str, key: str, cells: Cells) -> list[Figure]:
    metric, found = groups[0].metric, []
    for task in _tasks(list(cells.values())):
        rows = {values[0]: group.by_task().get(task, []) for values, group in cells.items()}
        names = by_number([name for of in rows.values() for row in of for name in row.outcomes])
        if len(names) < 2:
            continue
        table = np.full((len(rows), len(names)), np.nan)
        for i, of in enumerate(rows.values()):
            for j, variant in enumerate(names):
                if of and (measured := measures(of, variant, metric)):
                    table[i, j] = np.mean([one.mean for one in measured])
        grid = Grid("", (key, [f"{value:g}" for value in rows]), ("variant", names), table)
        about = f"{model} on {task}: {key.replace('_', ' ')} by what it was tested on"
        title = f"{named(groups[0])} of {about}"
        lines = grid.lines(metric, model=model, task=task)
        found.append(Figure("-".join([name("grid", groups), model, task]), title, _drawn([grid], metric), lines))
    return found


def _by_settings(groups: Sequence[Group], keys: tuple[str, ...], models: Mapping[str, Cells]) -> list[Figure]:
    found = []
    axes = [sorted({values[at] for cells in models.values() for values in cells}) for at in (0, 1)]
    titles = [[f"{value:g}" for value in axis] for axis in axes]
    for task in _tasks([group for cells in models.values() for group in cells.values()]):
        grids, lines = [], Lines()
        for model, cells in models.items():
            table = np.full((len(axes[0]), len(axes[1])), np.nan)
            for values, group in cells.items():
                if rows := group.by_task().get(task, []):
                    table[axes[0].index(values[0]), axes[1].index(values[1])] = np.mean(
                        [score(group, row) for row in rows]
                    )
            grids.append(Grid(model, (keys[0], titles[0]), (keys[1], titles[1]), table))
            lines += grids[-1].lines("score", model=model, task=task)
        title = f"Score on {task}: {' by '.join(key.replace('_', ' ') for key in keys)}"
        shown = _drawn(grids, groups[0].metric)
        found.append(Figure("-".join([name("grid", groups), *keys, task]), title, shown, lines))
    return found


def _drawn(grids: Sequence[Grid], metric: str) -> Drawing:
    """The panels beside each other, of one scale of colours."""
    known = np.concatenate([grid.cells[~np.isnan(grid.cells)] for grid in grids])
    low, high = (0.0, 1.0) if metric != RETURN else (float(known.min()), float(known.max()))

    def draw(on: Any) -> None:
        panels = on.subplots(1, len(grids), squeeze=False, sharey=True)[0]
        for axes, grid in zip(panels, grids, strict=True):
            _paint(axes, grid, low, high)
            if axes is not panels[0]:
                axes.set_ylabel("")

    return Drawing((WIDTH, 1.5 + 0.36 * len(grids[0].cells)), draw)


def _paint(axes: Any, grid: Grid, low: float, high: float) -> None:
    from matplotlib import colormaps

    colours, cells = colormaps["cividis"], np.ma.masked_invalid(grid.cells)
    axes.pcolormesh(cells, cmap=colours, vmin=low, vmax=high, edgecolors="white", linewidth=1)
    for (i, j), cell in np.ndenumerate(grid.cells):
        share = 0.0 if np.isnan(cell) or high <= low else (cell - low) / (high - low)
        ink = INK if np.isnan(cell) else "white" if share < 0.55 else "black"
        text = "–" if np.isnan(cell) else f"{cell:.2f}"
        axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", color=ink, fontsize=8)
    (row_key, rows), (column_key, columns) = grid.rows, grid.columns
    about = {"rotation": 45, "ha": "right"} if max(map(len, columns)) > 4 else {}
    axes.set_xticks(np.arange(len(columns)) + 0.5, [label(column, 14) for column in columns], **about)
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.set_ylim(len(rows), 0)
    axes.tick_params(length=0)
    axes.set_title(label(grid.title, 34) if grid.title else "", fontsize=8)
    axes.set(xlabel="tested on" if column_key == "variant" else label(column_key.replace("_", " ")))
    axes.set_ylabel(label(row_key.replace("_", " ")))
