"""A report's figure and its numbers in a page: `python -m docs.put_figure REPORT FIGURE docs/results.md`.

The figure is copied beside it, and its numbers are the table between `<!-- numbers of NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

from callbacks.report.sheets import Sheet
from elmur.files import write_text


def put(report: Path, name: str, page: Path) -> None:
    """Copy the figure, and write its numbers into the page. Raises SystemExit where the page has no place for them."""
    with (report / "figures" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [{heading: number(cell) for heading, cell in row.items() if heading != "table"} for row in rows]
    table = "\n".join(line for line in Sheet("", lines).markdown().splitlines() if line.startswith("|"))
    text, place = page.read_text(encoding="utf-8"), rf"(<!-- numbers of {re.escape(name)} -->\n).*?(<!-- end -->)"
    found, times = re.subn(place, lambda match: f"{match[1]}{table}\n\n{match[2]}", text, flags=re.DOTALL)
    if times != 1:
        raise SystemExit(f"{page}: expected one '<!-- numbers of {name} -->' with its '<!-- end -->'; found {times}")
    write_text(page, found)
    write_text(page.with_name(f"{name}.svg"), (report / "figures" / f"{name}.svg").read_text(encoding="utf-8"))


def number(cell: str) -> float | str | None:
    """A cell as the number that it is, or as it stands; None where it is empty."""
    try:
        return float(cell)
    except ValueError:
        return cell or None


if __name__ == "__main__":
    put(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
