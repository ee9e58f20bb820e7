"""What figures have in common: SVG, names, colours, labels and legends, panels beside each other."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from callbacks.evaluation.outcomes import RETURN
from callbacks.report.gather import Group
from callbacks.report.text import plain
from elmur.files import write_bytes

MOST_PANELS = 24  # tasks that one figure shows beside each other
MOST_LINES = 8  # groups in one panel: more cannot be told apart
WIDTH = 7.2  # inches
Lines = list[dict[str, Any]]
INK = "#010203"  # of lines and text; in an SVG it becomes the colour of the text around it, light or dark
# Told apart by people of all kinds of colour vision, on white and on black.
COLOURS = ("#2a7fc9", "#d9730d", "#159a6c", "#c0509a", "#8064d2", "#a88a00", "#5b8f9e", "#c8453a")
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text: to be found, and in the page's own font
    "svg.hashsalt": "elmur",  # the same figure is the same file
    "text.parse_math": False,  # a name with two dollars is no formula
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


class Drawing:
    """What `draw` puts on an empty figure of so many inches: as SVG and as PNG, each made when it is asked for."""

    def __init__(self, size: tuple[float, float], draw: Callable[[Any], None]) -> None:
        self.size, self._draw = size, draw

    @cached_property
    def svg(self) -> str:
        """An `<svg>` element that scales with its place and follows its colour."""
        with self._drawn() as drawn:
            text = io.StringIO()
            for part in (drawn, *drawn.axes):
                part.patch.set_alpha(0)
            drawn.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
        element = text.getvalue()
        element = element[element.index("<svg") :].replace(INK, "currentColor")
        width, height = (round(96 * inches) for inches in self.size)
        head, end = element.split(">", 1)
        head = re.sub(r' (width|height)="[^"]*"', "", head)
        return f'{head} width="{width}" height="{height}">{end}'

    def png(self) -> bytes:
        """On white, for whoever takes no SVG."""
        with self._drawn() as drawn:
            image = io.BytesIO()
            drawn.savefig(image, format="png", dpi=150)
        return image.getvalue()

    @contextmanager
    def _drawn(self) -> Iterator[Any]:
        import matplotlib
        from cycler import cycler
        from matplotlib.figure import Figure

        style: Any = {**STYLE, "axes.prop_cycle": cycler(color=COLOURS)}
        with matplotlib.rc_context(style):
            drawn = Figure(figsize=self.size, layout="constrained")
            self._draw(drawn)
            yield drawn


@dataclass(frozen=True)
class Figure:
    """A figure: its name as a file, what it shows, drawn and as lines of numbers."""

    name: str
    title: str
    drawing: Drawing
    lines: Lines
    note: str = ""

    @property
    def svg(self) -> str:
        """The drawing as an element of a page."""
        return self.drawing.svg


@contextmanager
def figure(path: Path | str, size: tuple[float, float]) -> Iterator[Any]:
    """Axes to draw on; the PNG is written at the end. size: width and height in inches."""
    from matplotlib import rc_context  # takes a second to import, and needs no display without pyplot
    from matplotlib.figure import Figure

    image = io.BytesIO()
    with rc_context({"text.parse_math": False}):
        drawn = Figure(figsize=size, layout="constrained")
        yield drawn.subplots()
        drawn.savefig(image, format="png", dpi=150)
    write_bytes(path, image.getvalue())


def axis(groups: Sequence[Group]) -> str:
    """What scores of these groups are called on an axis."""
    metric = groups[0].metric
    return "normalised return" if metric == RETURN and groups[0].references else metric.replace("_", " ")


def name(kind: str, groups: Sequence[Group]) -> str:
    """The name of a figure of this kind, as a file."""
    stage, metric, suite = groups[0].question
    return "-".join([kind, metric, *([suite] if suite else []), *(["again"] * (stage == "evaluate"))])


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
    axes = drawn.subplots(*shape(len(titles)), squeeze=False, sharey=True)
    for one in axes.flat[len(titles) :]:
        one.set_visible(False)
    for number, one in enumerate(axes.flat[: len(titles)]):
        paint(one, number)
        if len(titles) > 1:
            one.set_title(label(titles[number], 34), fontsize=8)
        one.grid(alpha=0.25, linewidth=0.5)
        one.set(**about)
        plain_powers(one)
        one.label_outer()
    legend(drawn, axes.flat[0], 2)


def shape(panels: int) -> tuple[int, int]:
    """Rows and columns of so many panels."""
    columns = 1 if panels == 1 else 2 if panels < 5 else 3
    return math.ceil(panels / columns), columns


def size(panels: int, lines: int) -> tuple[float, float]:
    """Inches of a figure with so many panels and so many lines in its legend."""
    return WIDTH, max(2.9, 1.9 * shape(panels)[0]) + 0.19 * lines


def of_many(**nouns: tuple[int, int]) -> str:
    """The note that a figure shows the first of many; empty where it shows all. nouns: how many, and the most."""
    return " ".join(f"The first {most} of {count} {noun}." for noun, (count, most) in nouns.items() if count > most)
