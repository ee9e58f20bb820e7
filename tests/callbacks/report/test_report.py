"""The result row goes round through its file; the table and the figure show what it holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from callbacks.evaluation.outcomes import Outcome
from callbacks.report.row import FORMAT, read_row, write_row
from callbacks.report.show import draw_success, numbered, show_table
from envs.rollout import Episode

ABOUT = {"task": "tmaze", "model": "elmur", "seed": 3}


def outcome(won: int) -> Outcome:
    return Outcome.of(
        [Episode(seed=i, length=9, episode_return=float(i < won), success=i < won) for i in range(4)], 0.25
    )


def row_at(path: Path, names: tuple[str, ...] = ("T=9", "T=1200", "T=30")) -> dict[str, Any]:
    return write_row(path, {name: outcome(i + 1) for i, name in enumerate(names)}, ABOUT)


def test_a_row_goes_round(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "result.json"
    assert read_row(path) is None
    written = row_at(path)
    found = read_row(path)
    assert found is not None and found == json.loads(json.dumps(written)) and found["format"] == FORMAT
    assert found["task"] == "tmaze" and found["finished"].endswith("+00:00")
    assert found["outcomes"]["T=1200"]["successes"] == [True, True, False, False]
    assert found["outcomes"]["T=1200"]["seeds"] == [0, 1, 2, 3] and found["outcomes"]["T=9"]["wall_seconds"] == 0.25
    assert {"python", "torch", "lightning", "numpy"} <= found["versions"].keys()


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
    row = holder = json.loads(json.dumps(row_at(path := tmp_path / "result.json")))
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
    show_table(row_at(tmp_path / "result.json"), console)
    console.file.close()
    text = console.export_text()
    assert "tmaze · elmur · seed 3" in text
    (line,) = [line for line in text.splitlines() if "T=1200" in line]
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells[:3] == ["T=1200", "4", "0.50"] and cells[3] == "0.15-0.85" and cells[4].startswith("0.50 ±")


def test_the_figure_is_drawn_where_variants_have_numbers(tmp_path: Path) -> None:
    row = row_at(tmp_path / "result.json")
    assert [(n, o["success"]) for n, o in numbered(row)] == [(9, 0.25), (30, 0.75), (1200, 0.5)], "in their order"
    assert draw_success({"elmur": row}, tmp_path / "a.png", chance=0.5)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert not draw_success({"elmur": row_at(tmp_path / "r.json", ("all",))}, tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()
