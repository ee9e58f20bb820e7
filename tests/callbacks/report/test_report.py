"""The result row goes round through its file; the table and the figure show what it holds."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from callbacks.evaluation.outcomes import Outcome
from callbacks.report.row import FORMAT, Cost, Row, read_row
from callbacks.report.show import draw_success, numbered, sheet_of
from envs.rollout import Episode


def outcome(won: int) -> Outcome:
    return Outcome.of([Episode(i, 9, float(i < won), {"success": i < won}) for i in range(4)], 0.25)


def row_at(path: Path, names: tuple[str, ...] = ("T=9", "T=1200", "T=30")) -> Row:
    outcomes = {name: outcome(i + 1) for i, name in enumerate(names)}
    row = Row(task="tmaze", model="elmur", seed=3, outcomes=outcomes, cost=Cost(train_seconds=2.5))
    row.write(path)
    return row


def test_a_row_goes_round(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "result.json"
    assert read_row(path) is None
    written = row_at(path)
    assert read_row(path) == written
    found = json.loads(path.read_text())
    assert found["format"] == FORMAT and found["finished"].endswith("+00:00")
    assert (found["task"], found["stage"], found["train_seconds"], found["command"]) == ("tmaze", "train", 2.5, None)
    assert found["outcomes"]["T=1200"]["successes"] == [True, True, False, False]
    assert found["outcomes"]["T=1200"]["seeds"] == [0, 1, 2, 3] and found["outcomes"]["T=9"]["wall_seconds"] == 0.25
    assert {"python", "torch", "lightning", "numpy"} <= found["versions"].keys()


def test_a_row_of_before_has_defaults_for_what_was_not_known_then(tmp_path: Path) -> None:
    row_at(path := tmp_path / "result.json")
    known = ("format", "finished", "task", "model", "seed", "outcomes", "versions", "metric", "stage")
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key in known}))
    found = read_row(path)
    assert found is not None and (found.label, found.cost, found.origin.command, found.data) == (None, Cost(), None, {})
    assert list(found.outcomes) == ["T=9", "T=1200", "T=30"]


@pytest.mark.parametrize("name", ["../up", "a/b", "\x1b[31mred", "<b>", "=1+1"])
def test_a_text_in_a_row_is_shown_as_text(tmp_path: Path, name: str) -> None:
    row_at(path := tmp_path / "result.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "model": name, "label": "[red]"}))
    found = read_row(path)
    assert found is not None and found.model == name
    console = Console(width=120, file=(shown := io.StringIO()), force_terminal=True)
    sheet_of(found).show(console)
    assert "\x1b[31mred" not in shown.getvalue() and "[red]" in shown.getvalue()
    assert draw_success({name: found, "_x": found, "$a": found}, tmp_path / "a.png")


@pytest.mark.parametrize("content", ['{"format"', "[]", "{}", '{"format": 99}'])
def test_a_damaged_row_is_named(tmp_path: Path, content: str) -> None:
    (path := tmp_path / "result.json").write_text(content)
    with pytest.raises(ValueError, match=f"{path}: expected a result row .*delete it to run again"):
        read_row(path)


@pytest.mark.parametrize(
    "lost",
    [("seed",), ("outcomes",), ("outcomes", "T=9"), ("outcomes", "T=9", "returns"), ("outcomes", "T=9", "episodes")],
)
def test_what_a_row_lost_is_named(tmp_path: Path, lost: tuple[str, ...]) -> None:
    row = holder = row_at(path := tmp_path / "result.json").to_json()
    for key in lost[:-1]:
        holder = holder[key]
    holder[lost[-1]] = None
    if len(lost) == 3:
        del holder[lost[-1]]
    path.write_text(json.dumps(row))
    with pytest.raises(ValueError, match=f"with {'.'.join(lost)}; delete it to run again"):
        read_row(path)


def test_the_table(tmp_path: Path) -> None:
    console = Console(record=True, width=120, file=(tmp_path / "out").open("w"))
    sheet_of(row_at(tmp_path / "result.json")).show(console)
    console.file.close()
    text = console.export_text()
    assert "tmaze · elmur · seed 3" in text
    (line,) = [line for line in text.splitlines() if "T=1200" in line]
    cells = re.split(" {2,}", line.strip())
    assert cells[:3] == ["T=1200", "4", "0.50"] and cells[3] == "0.15-0.85" and cells[4].startswith("0.50 ±")


def test_the_figure_is_drawn_where_variants_have_numbers(tmp_path: Path) -> None:
    row = row_at(tmp_path / "result.json")
    assert [(n, o.metric("success")) for n, o in numbered(row)] == [(9, 0.25), (30, 0.75), (1200, 0.5)], (
        "in their order"
    )
    assert draw_success({"elmur": row}, tmp_path / "a.png", chance=0.5)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert not draw_success({"elmur": row_at(tmp_path / "r.json", ("all",))}, tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()
