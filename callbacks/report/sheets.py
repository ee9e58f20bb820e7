"""A table once, to be shown in the terminal and written as Markdown and CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from callbacks.report.text import csv_cell, markdown, plain

ABSENT = "–"
LEAST, SHARE = 24, 0.4  # how wide a column of texts may be before they are folded: characters, share of the terminal
NUMBER = re.compile(rf"{ABSENT}|-?[\d,.]+(e[+-]?\d+)?( ± [\d.]+)?|-?\d+\.\d+\.\.-?\d+\.\d+")


class Estimate(NamedTuple):
    """A mean with its standard error, if that is known: one cell for people, two columns of CSV."""

    mean: float
    error: float | None = None


@dataclass
class Sheet:
    """Lines of one table, each heading -> value; `None` is shown as a dash and left empty in CSV.

    about: what the whole table is of, which CSV repeats in every line. notes: sentences below the table. All of it may
    come from files, and is made harmless for where it is shown.
    """

    title: str
    lines: list[dict[str, Any]]
    about: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def headings(self) -> list[str]:
        """Of all lines, in the order of their first appearance."""
        return list(dict.fromkeys(heading for line in self.lines for heading in line))

    def cells(self) -> list[list[str]]:
        """The text of every cell."""
        headings = self.headings
        return [[shown(line.get(heading)) for heading in headings] for line in self.lines]

    def show(self, console: Console, most: int | None = None) -> None:
        """Print the table; cells that the terminal has no room for stand below their row, each behind its heading.

        most: lines that are shown; how many more there are is said.
        """
        if most is not None and len(self.lines) > most:
            more = f"{len(self.lines) - most} more lines stand in the files."
            return replace(self, lines=self.lines[:most], notes=[more, *self.notes]).show(console)
        rows = [[Text(plain(cell)) for cell in cells] for cells in (self.headings, *self.cells())]
        headings, columns = rows[0], list(zip(*rows, strict=True))
        widths, most = [max(cell.cell_len for cell in of) for of in columns], max(LEAST, round(SHARE * console.width))
        for at, of in enumerate(columns):
            if of[-1].plain[:1].isalpha():  # a text that others stand behind
                widths[at] = min(widths[at], most)
        number = len(widths)
        while number > 1 and sum(widths[:number]) + 2 * (number - 1) > console.width:
            number -= 1
        console.print(Text(plain(self.title), "italic"))
        for row in rows:
            line = Table.grid(padding=(0, 2, 0, 0))
            for width, cell in zip(widths[:number], rows[-1], strict=False):
                side: Any = "left" if cell.plain[:1].isalpha() else "right"
                line.add_column(width=min(width, console.width), justify=side, overflow="fold")
            line.add_row(*row[:number], style="bold" if row is headings else "")
            console.print(line)
            if row is not headings and row[number:]:
                below = Text(", ").join(
                    Text(" ").join(pair) for pair in zip(headings[number:], row[number:], strict=True)
                )
                console.print(Padding(below, (0, 0, 0, 2), expand=False))
        for note in self.notes:
            console.print(Text(plain(note, most=None)))

    def markdown(self) -> str:
        """The table in Markdown."""
        rows = [self.headings, ["---"] * len(self.headings), *self.cells()]
        lines = ["| " + " | ".join(markdown(cell) for cell in row) + " |" for row in rows]
        return "\n".join(
            [f"## {markdown(self.title)}", "", *lines, "", *[f"{markdown(note, most=None)}\n" for note in self.notes]]
        )


def is_number(text: str) -> bool:
    """Whether a cell is a number, with an error or as an interval, or nothing."""
    return NUMBER.fullmatch(text) is not None


def shown(value: Any) -> str:
    """A cell as people read it: two decimals, intervals as low..high."""
    if value is None:
        return ABSENT
    if isinstance(value, Estimate):
        return f"{value.mean:.2f}" if value.error is None else f"{value.mean:.2f} ± {value.error:.2f}"
    if isinstance(value, tuple):
        return ABSENT if None in value else "..".join(f"{number:.2f}" for number in value)
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def as_csv(sheets: Sequence[Sheet]) -> str:
    """All tables as one CSV with the headings of all of them; an interval takes two columns."""
    lines = []
    for sheet in sheets:
        for line in sheet.lines:
            flat: dict[str, Any] = {"table": sheet.title, **sheet.about}
            for heading, value in line.items():
                if isinstance(value, Estimate):
                    flat |= {heading: value.mean, f"{heading} ±": value.error}
                elif isinstance(value, tuple):
                    flat |= {f"{heading} low": value[0], f"{heading} high": value[1]}
                else:
                    flat[heading] = value
            lines.append({csv_cell(heading): csv_cell(value) for heading, value in flat.items()})
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for line in lines for key in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
