"""Tables of docs/ are what a report makes of the result rows that stand beside them in docs/rows."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

import numpy as np
import pytest

from callbacks.command.arguments import untyped
from callbacks.comparison.table import interval
from callbacks.report.gather import gather
from callbacks.report.report import compiled
from callbacks.report.sheets import shown

DOCS = Path(__file__).parents[1] / "docs"
ARCHIVES = sorted((DOCS / "rows").glob("*.tar.xz"))
PLACE = r"<!-- rows of {} -->\n(.*?)<!-- end -->"


def test_there_are_rows() -> None:
    assert len(ARCHIVES) >= 1


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.name)
def test_a_table_is_what_the_report_makes_of_its_rows(archive: Path, tmp_path: Path) -> None:
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    name = archive.name.removesuffix(".tar.xz")
    tables = {sheet.markdown() for sheet in compiled(gather([tmp_path / name / "runs"], untyped)).sheets}
    made = {line for table in tables for line in table.splitlines() if line.startswith("|")}
    pages = "".join(page.read_text(encoding="utf-8") for page in sorted(DOCS.glob("*.md")))
    shown = [
        line
        for table in re.findall(PLACE.format(re.escape(name)), pages, flags=re.DOTALL)
        for line in table.splitlines()
        if line.startswith("|")
    ]
    assert len(shown) > 3, f"expected a table of docs/ between '<!-- rows of {name} -->' and '<!-- end -->'"
    assert [line for line in shown if line not in made] == []


def test_the_scores_of_the_comparison_are_those_of_its_rows(tmp_path: Path) -> None:
    with tarfile.open(DOCS / "rows" / "compare_tmaze.tar.xz") as packed:
        packed.extractall(tmp_path, filter="data")
    made = {
        (group.model, str(len(group.rows)), shown(float(np.mean([row.score() for row in group.rows]))),
         shown(interval(group.rows)))
        for group in gather([tmp_path / "compare_tmaze" / "runs"]).groups
    }  # fmt: skip
    page = (DOCS / "comparison.md").read_text(encoding="utf-8")
    cell = r" ([^|]+) \|"
    assert set(re.findall(rf"^\| (\w+) \| 0\.00\d \|{cell * 3} [\d,]+ \| 300 \|", page, re.MULTILINE)) == made
