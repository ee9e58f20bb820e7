"""A table once, to be shown in the terminal and written as Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from callbacks.text import csv_cell, markdown, plain

ABSENT = "–"


@dataclass
class Sheet:
    """Lines of one table, each heading -> value; `None` is shown as a dash and left empty in CSV.

    about: what the whole table is of, which CSV repeats in every line. notes: sentences below the table, ours alone;
    everything else may come from files, and is made harmless for where it is shown.
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
        return [[shown(line.get(heading)) for heading in self.headings] for line in self.lines]

    def show(self, console: Console) -> None:
        """Print the table; columns at its right that the terminal has no room for are left out, which is said."""
        number = len(self.headings)
        while number > 2 and self.width(number) > console.width:
            number -= 1
        console.print(self.table(number))
        if left_out := self.headings[number:]:
            console.print(f"No room here for {', '.join(left_out)}: they are in the files.", highlight=False)
        for note in self.notes:
            if not note.startswith("!["):
                console.print(Text(note))

    def width(self, number: int) -> int:
        """Characters that the first columns take; measured on a wide console, for none measures beyond its own."""
        wide = Console(width=10_000, file=io.StringIO())
        return Measurement.get(wide, wide.options, self.table(number)).maximum

    def table(self, number: int) -> Table:
        """The first columns."""
        table = Table(title=Text(plain(self.title)), title_justify="left")
        for heading, first in zip(self.headings[:number], self.lines[0].values(), strict=False):
            table.add_column(Text(plain(heading)), justify="left" if isinstance(first, str) else "right", no_wrap=True)
        for cells in self.cells():
            table.add_row(*[Text(plain(cell)) for cell in cells[:number]])
        return table

    def markdown(self) -> str:
        """The table in Markdown."""
        rows = [self.headings, ["---"] * len(self.headings), *self.cells()]
        lines = ["| " + " | ".join(markdown(cell) for cell in row) + " |" for row in rows]
        return "\n".join([f"## {markdown(self.title)}", "", *lines, "", *[f"{note}\n" for note in self.notes]])


def shown(value: Any) -> str:
    """A cell as people read it: two decimals, intervals as low..high."""
    if value is None:
        return ABSENT
    if isinstance(value, tuple):
        return "..".join(f"{number:.2f}" for number in value)
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def as_csv(sheets: Sequence[Sheet]) -> str:
    """All tables as one CSV with the headings of all of them; an interval takes two columns."""
    lines = []
    for sheet in sheets:
        for line in sheet.lines:
            flat: dict[str, Any] = {"table": sheet.title, **sheet.about}
            for heading, value in line.items():
                if isinstance(value, tuple):
                    flat |= {f"{heading} low": value[0], f"{heading} high": value[1]}
                else:
                    flat[heading] = value
            lines.append({csv_cell(heading): csv_cell(value) for heading, value in flat.items()})
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for line in lines for key in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
