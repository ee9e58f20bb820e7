"""Texts of files, harmless where they are shown."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from callbacks.report.panels import label
from callbacks.report.report import Report
from callbacks.report.sheets import Sheet, as_csv
from callbacks.report.text import csv_cell, file_name, markdown, plain

EVIL = [
    "\x1b[2J\x1b]0;owned\x07", "\x9b31m", "\u202egpj.exe", "a\r\nb", "\x00", "\ufeffx", "<script>x</script>", "=1+1",
    "=HYPERLINK(\"http://x\")", "[x](http://evil)", "![x](http://evil/p.png)", "`x`", "|", "@SUM(A1)", "[red]x[/red]",
    "[link=file:///etc/passwd]x[/link]", "$\\frac{", "_hidden", "../../x", "/etc/passwd", ".bashrc",
    "x" * 3000, "\ud800",
]  # fmt: skip
LONG = "x" * 2000 + "endé"


@pytest.mark.parametrize("text", EVIL, ids=ascii)
def test_no_text_gives_orders(text: str, tmp_path: Path) -> None:
    assert all(" " <= c <= "~" or c.isalnum() or c in "–±·" for c in plain(text)), "nothing that moves a cursor"
    assert "\n" not in plain(text) and len(plain(text)) <= 3000
    assert "<" not in markdown(text) and "](" not in re.sub(r"\\.", "", markdown(text)) and "://" not in markdown(text)
    assert not str(csv_cell(text)).startswith(("=", "+", "-", "@", "\t", "\r"))
    name = file_name(text)
    (tmp_path / name).write_text("")
    assert [path.name for path in tmp_path.iterdir()] == [name] and not name.startswith(".") and len(name) <= 80


def test_what_is_harmless_stays_as_it_is() -> None:
    for text in ("elmur", "popgym-RepeatFirstEasy-v0", "lr=1e-3, λ 0.5 ± 0.1", "Künstler 北京"):
        assert plain(text) == text == csv_cell(text) == label(text)
    assert file_name("normalised-elmur-default") == "normalised-elmur-default"
    assert file_name("a/b") != file_name("a:b"), "other texts have other names"
    assert [csv_cell(value) for value in (-1.5, -1, None)] == [-1.5, -1, None]
    assert markdown("a|b*") == "a\\|b\\*" and markdown("elmur_x") == "elmur_x"


def test_sentences_and_notes_are_whole_in_markdown() -> None:
    told = Report([LONG], [LONG], [Sheet("t", [{"a": 1}], notes=[LONG])], [], Sheet("", []), [])
    assert told.markdown().count("endé") == 3


@pytest.mark.parametrize("text", EVIL, ids=ascii)
def test_a_table_shows_texts_and_obeys_none(text: str) -> None:
    sheet = Sheet(f"Success: {text}", [{"task": text, "won": 0.5}], {"model": text})
    out = io.StringIO()
    sheet.show(Console(file=out, width=200, force_terminal=True, color_system=None))
    shown = out.getvalue()
    assert "\x1b[2J" not in shown and "\x1b]0" not in shown and "\x1b]8" not in shown and "\x9b" not in shown
    lines = sheet.markdown().splitlines()
    assert lines[0].startswith("## Success: ") and lines[2] == "| task | won |" and len(lines) == 5
    (row,) = csv.DictReader(io.StringIO(as_csv([sheet])))
    assert row["won"] == "0.5" and not row["model"].startswith(("=", "+", "-", "@"))
