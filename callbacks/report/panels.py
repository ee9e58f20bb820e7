"""What figures over many runs have in common: their names, labels and legends, panels beside each other."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from callbacks.evaluation.outcomes import RETURN
from callbacks.report.gather import Group
from callbacks.text import plain

MOST_PANELS = 24  # tasks that one figure shows beside each other
MOST_LINES = 8  # groups in one panel: more cannot be told apart
WIDTH = 7.2  # inches
Lines = list[dict[str, Any]]


@dataclass(frozen=True)
class Figure:
    """A figure: its name as a file, what it shows, as SVG and as lines of numbers."""

    name: str
    title: str
    svg: str
    lines: Lines
    note: str = ""


def axis(groups: Sequence[Group]) -> str:
    """What scores of these groups are called on an axis."""
    metric = groups[0].metric
    scaled = metric == RETURN and any(row.reference for group in groups for row in group.rows)
    return "normalised return" if scaled else metric.replace("_", " ")


def name(kind: str, groups: Sequence[Group]) -> str:
    """The name of a figure of this kind, as a file."""
    return "-".join([kind, groups[0].metric, *(["again"] * (groups[0].stage == "evaluate"))])


def label(text: str, most: int = 46) -> str:
    """The text as a label, folded; not hidden by a leading underscore."""
    found = "\n".join(textwrap.wrap(plain(text), most)) or " "
    return f" {found}" if found.startswith("_") else found


def legend(drawn: Any, axes: Any, count: int) -> None:
    """A legend below the figure, where there are several lines to tell apart."""
    handles, labels = axes.get_legend_handles_labels()
    if count > 1 and handles:
        columns = 1 if max(map(len, labels)) > 30 else min(3, len(labels))
        drawn.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def plain_powers(axes: Any) -> None:
    """Numbers on a logarithmic axis as numbers."""
    if axes.get_xscale() == "log":
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
        axes.xaxis.set_minor_formatter(lambda *_: "")


def grid(drawn: Any, titles: Sequence[str], paint: Callable[[Any, int], None], **about: Any) -> None:
    """Panels beside each other, each with its title."""
    columns = min(len(titles), 1 if len(titles) == 1 else 2 if len(titles) < 5 else 3)
    axes = drawn.subplots(math.ceil(len(titles) / columns), columns, squeeze=False, sharey=True)
    for number, one in enumerate(axes.flat):
        if number >= len(titles):
            one.set_visible(False)
            continue
        paint(one, number)
        if len(titles) > 1:
            one.set_title(label(titles[number], 34), fontsize=8)
        one.grid(alpha=0.25, linewidth=0.5)
        one.set(**about)
        plain_powers(one)
        one.label_outer()
    legend(drawn, axes.flat[0], 2)


def size(panels: int, lines: int) -> tuple[float, float]:
    """Inches of a figure with so many panels and so many lines in its legend."""
    rows = math.ceil(panels / (1 if panels == 1 else 2 if panels < 5 else 3))
    return WIDTH, max(2.9, 1.9 * rows) + 0.19 * lines


def of_many(count: int, most: int, noun: str) -> str:
    """The note that a figure shows the first of many; empty where it shows all."""
    return f"The first {most} of {count} {noun}." if count > most else ""
