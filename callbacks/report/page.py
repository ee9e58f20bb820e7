"""The report as one HTML page that opens from disk: no script, nothing from elsewhere, light and dark, for paper too.

What rows say is escaped by the template engine. Figures are SVG of our own making, whose texts matplotlib escapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from callbacks.report.panels import Figure
from callbacks.report.sheets import Sheet, is_number
from callbacks.report.text import file_name, plain

FOLDER = Path(__file__).resolve().parent
MOST_LINES, MOST_RUNS = 200, 300  # of a table that the page shows; files have all
LONGEST = 10_000  # characters of a cell


def page(
    parts: dict[str, Any], sheets: Sequence[Sheet], figures: Sequence[Figure], details: Sequence[Sheet], runs: Sheet
) -> str:
    """The page. parts: title, sources, made, command, overview and differing, as texts."""
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    made = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        finalize=lambda value: plain(value, most=LONGEST) if type(value) is str else value,
    )  # fmt: skip
    contents = [("what", "What was run"), ("tables", "Tables")]
    contents += [("figures", "Figures")] * bool(figures) + [("details", "Details")] * bool(details)
    drawn = [{**vars(one), "name": file_name(one.name), "svg": Markup(one.svg)} for one in figures]
    return made.get_template("page.html.j2").render(
        **parts, contents=[*contents, ("runs", "Runs")], sheets=[_table(sheet) for sheet in sheets],
        details=[_table(sheet) for sheet in details], runs=_table(runs, "runs.csv"), figures=drawn,
        most=MOST_LINES, most_runs=MOST_RUNS,
    )  # fmt: skip


def _table(sheet: Sheet, file: str = "report.csv") -> dict[str, Any]:
    """A table for the template; kinds: whether a column is of text."""
    rows = sheet.cells()
    columns = list(zip(*rows, strict=True)) or [()] * len(sheet.headings)
    kinds = [not all(map(is_number, column)) for column in columns]
    return {**vars(sheet), "headings": sheet.headings, "rows": rows, "kinds": kinds, "file": file}
