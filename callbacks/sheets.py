"""A table once, to be shown in the terminal and written as Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

ABSENT = "–"


@dataclass
class Sheet:
    """Lines of one table, each heading -> value; `None` is shown as a dash and left empty in CSV.

    about: what the whole table is of, which CSV repeats in every line. notes: sentences below the table.
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
        """Print the table."""
        table = Table(title=self.title, title_justify="left")
        for heading, first in zip(self.headings, self.lines[0].values(), strict=False):
            table.add_column(heading, justify="left" if isinstance(first, str) else "right", no_wrap=True)
        for cells in self.cells():
            table.add_row(*cells)
        console.print(table)
        for note in self.notes:
            console.print(note, highlight=False)

    def markdown(self) -> str:
        """The table in Markdown."""
        rows = [self.headings, ["---"] * len(self.headings), *self.cells()]
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        return "\n".join([f"## {self.title}", "", *lines, "", *[f"{note}\n" for note in self.notes]])


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
            lines.append(flat)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for line in lines for key in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
