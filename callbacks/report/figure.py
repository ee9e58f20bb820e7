"""Figures as files, written whole or not at all: PNG beside a run, SVG in the report of many."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from elmur.files import write_bytes

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


@contextmanager
def figure(path: Path | str, size: tuple[float, float]) -> Iterator[Any]:
    """Axes to draw on; the file is written at the end. size: width and height in inches."""
    from matplotlib.figure import Figure  # takes a second to import, and needs no display without pyplot

    drawn, image = Figure(figsize=size, layout="constrained"), io.BytesIO()
    yield drawn.subplots()
    drawn.savefig(image, format="png", dpi=150)
    write_bytes(path, image.getvalue())


def svg(size: tuple[float, float], draw: Callable[[Any], None]) -> str:
    """What `draw` puts on an empty figure, as an `<svg>` element that scales with its place and follows its colour."""
    import matplotlib
    from cycler import cycler
    from matplotlib.figure import Figure

    style: Any = {**STYLE, "axes.prop_cycle": cycler(color=COLOURS)}
    with matplotlib.rc_context(style):
        drawn, text = Figure(figsize=size, layout="constrained"), io.StringIO()
        drawn.patch.set_alpha(0)
        draw(drawn)
        for axes in drawn.axes:
            axes.patch.set_alpha(0)
        drawn.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    element = text.getvalue()
    element = element[element.index("<svg") :].replace(INK, "currentColor")
    width, height = (round(96 * inches) for inches in size)
    head, end = element.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    return f'{head} width="{width}" height="{height}">{end}'
