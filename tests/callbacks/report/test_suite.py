"""The report: figures against sums by hand, missing tasks shown as missing, every kind of row by its metric."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from callbacks.evaluation.outcomes import Outcome
from callbacks.report.gather import gather
from callbacks.report.report import report
from callbacks.report.row import Row
from callbacks.report.sheets import Sheet, as_csv
from callbacks.report.suite import ROBOT_OTHERS
from envs import suites
from envs.experts.popgym.levels import LEVELS, Level
from envs.mikasa import TASKS
from envs.rollout import Episode

TABLE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "mikasa32_offline_table8.csv"
EASY = "popgym-RepeatFirstEasy-v0"
HARD = "popgym-AutoencodeHard-v0"
CART = "popgym-PositionOnlyCartPoleEasy-v0"


def outcome(returns: list[float]) -> Outcome:
    return Outcome.of([Episode(i, 9, value, {"success": value > 0}) for i, value in enumerate(returns)], 1.0)


def write(root: Path, task: str, seed: int, returns: list[float], **about: Any) -> None:
    popgym = task.startswith("popgym")
    about = {
        "model": "elmur", "metric": "return" if popgym else "success", "actions": "argmax",
        "suite": "popgym48" if popgym else None, "reference": vars(LEVELS[task]) if task in LEVELS else None, **about,
    }  # fmt: skip
    path = root / task / about["model"] / "default" / f"seed-{seed}" / "result.json"
    variants = {"all": outcome(returns)} if popgym else {"T=9": outcome(returns), "T=30": outcome(returns[:-1])}
    Row(task=task, seed=seed, outcomes=variants, **about).write(path)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed, value in enumerate((0.4, 0.6, 0.8)):
        write(tmp_path / "runs", EASY, seed, [value - 0.1, value + 0.1])
    write(tmp_path / "runs", HARD, 0, [-0.5, -0.3])
    write(tmp_path / "runs", CART, 0, [1.0, 1.0])
    for seed in (0, 1):
        write(tmp_path / "runs", "tmaze", seed, [1.0, 1.0, 1.0, float(seed)])
    return tmp_path / "runs"


def written(runs: Path, folder: Path, is_asked: bool = False) -> tuple[str, list[dict[str, str]]]:
    console = Console(record=True, width=240, file=(folder.parent / "shown").open("w"))
    report(runs, folder, console, is_asked=is_asked)
    console.file.close()
    assert "RepeatFirstEasy" in console.export_text()
    with (folder / "report.csv").open() as file:
        return (folder / "report.md").read_text(), list(csv.DictReader(file))


def test_the_table_of_a_suite(runs: Path, tmp_path: Path) -> None:
    text, lines = written(runs, tmp_path / "report")
    assert [line["task"] for line in lines if line["table"] == "Return in popgym48: elmur"] == [HARD, EASY, CART], (
        "those that ran"
    )
    assert "| missing |" not in text and "45 of 48 tasks have no run" in text
    text, lines = written(runs, tmp_path / "asked", is_asked=True)  # as a sweep over the suite asks
    returns = {line["task"]: line for line in lines if line["table"] == "Return in popgym48: elmur"}
    assert len(returns) == 48 and sum(line["seeds"] == "missing" for line in returns.values()) == 45
    line = returns[EASY]
    assert float(line["return"]) == pytest.approx(0.6) and line["seeds"] == "3"
    assert float(line["±"]) == pytest.approx(np.std([0.4, 0.6, 0.8], ddof=1) / 3**0.5)
    assert float(line["normalised"]) == pytest.approx((0.6 + 0.504) / 1.504)
    assert (line["expert"], line["random"], line["demonstrator*"], line["RATE*"]) == ("1.0", "-0.504", "1.0", "1.0")
    assert float(returns[HARD]["±"]) == pytest.approx(0.1), "one seed: the error of its two episodes"
    assert text.count("| missing |") == 45 and "demonstrators differ" in text and "45 of 48 tasks have no run" in text
    assert "actions: argmax" in text
    sums = {line["tasks"]: line for line in lines if line["table"] == "Sums and means: elmur"}
    assert list(sums) == ["all (48)", "puzzle (33)", "reactive (15)"]
    assert float(sums["all (48)"]["sum"]) == pytest.approx(0.6 - 0.4 + 1.0) and sums["all (48)"]["with runs"] == "3"
    assert float(sums["puzzle (33)"]["sum"]) == pytest.approx(0.2) and sums["reactive (15)"]["above 0.8"] == "1"
    shares = [1.104 / 1.504, (-0.4 + 0.5) / 1.5, 1.0]
    assert float(sums["all (48)"]["normalised"]) == pytest.approx(np.mean(shares))
    low, high = (float(sums["all (48)"][f"95 %, seeds and tasks {end}"]) for end in ("low", "high"))
    assert min(shares) <= low < np.mean(shares) < high <= 1.0
    assert sums["all (48)"]["ELMUR*"] == "10.4" and sums["puzzle (33)"]["demonstrator*"] == "3.71"
    with (tmp_path / "report" / "figures" / "tasks-return-popgym48.csv").open() as file:
        drawn = {line["task"]: float(line["score"]) for line in csv.DictReader(file)}
    assert list(drawn) == [CART, EASY, HARD] and list(drawn.values()) == pytest.approx([1.0, shares[0], shares[1]])


def test_success_by_length_over_all_seeds(runs: Path, tmp_path: Path) -> None:
    _, lines = written(runs, tmp_path / "report")
    nine, thirty = [line for line in lines if line["table"] == "Success: elmur"]
    assert (nine["variant"], nine["episodes"], nine["success"], nine["worst seed"]) == ("T=9", "8", "0.875", "0.75")
    assert (thirty["variant"], thirty["success"]) == ("T=30", "1.0")
    assert float(thirty["95 % low"]) == pytest.approx(6 / (6 + 1.959964**2)), "Wilson's bound where all succeed"


def test_robot_tasks_have_the_published_success_beside_ours(runs: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        episodes = [Episode(i, 60, 0.0, {"success": i < 3, "success_at_end": i < 2 + seed}) for i in range(4)]
        path = tmp_path / "runs" / "RememberColor3-v0" / "elmur" / "default" / f"seed-{seed}" / "result.json"
        outcomes = {"all": Outcome.of(episodes, 1.0)}
        Row(task="RememberColor3-v0", model="elmur", seed=seed, outcomes=outcomes).write(path)
    text, lines = written(runs, tmp_path / "report")
    lines = [line for line in lines if line["table"] == "Success: elmur"]
    robot = next(line for line in lines if line["task"] == "RememberColor3-v0")
    assert (robot["success"], robot["success at end"]) == ("0.75", "0.625")  # 6 of 8, 5 of 8
    assert [robot[f"{method}*"] for method in ("ELMUR", "RATE", "DP", "DT")] == ["0.89", "0.65", "0.32", "0.01"]
    maze = next(line for line in lines if line["task"] == "tmaze")
    assert (maze["success at end"], maze["ELMUR*"]) == ("", "") and "observation=vector" in text
    assert "have no run here" not in text, "one of 32: nobody asked for the others"


def test_robot_tasks_that_are_left_out_of_most_are_named(runs: Path, tmp_path: Path) -> None:
    episodes = [Episode(i, 60, 0.0, {"success": i < 3}) for i in range(4)]
    for task in TASKS:
        if not task.startswith("ShellGame"):
            path = tmp_path / "runs" / task / "elmur" / "default" / "seed-0" / "result.json"
            Row(task=task, model="elmur", seed=0, outcomes={"all": Outcome.of(episodes, 1.0)}).write(path)
    text, _ = written(runs, tmp_path / "report")
    assert "3 of 32 tasks have no run here: ShellGameTouch, ShellGamePush, ShellGamePick." in text


def test_the_suite_of_robot_tasks_is_the_adapters() -> None:
    suite = suites.read("mikasa32")
    assert set(suite.tasks) == set(TASKS) and suite.sums == {}
    assert {name: task.published["ELMUR"] for name, task in suite.tasks.items() if "ELMUR" in task.published} == {
        "RememberColor3-v0": 0.89, "RememberColor5-v0": 0.19, "RememberColor9-v0": 0.23, "TakeItBack-v0": 0.78,
    }  # fmt: skip
    if TABLE.exists():
        lines = {line["env_id"]: line for line in csv.DictReader(io.StringIO(TABLE.read_text(encoding="utf-8")))}
        for name, task in suite.tasks.items():
            cells = {method: lines[name][f"{method.replace('-', '_')}_mean"] for method in ROBOT_OTHERS}
            assert task.published == {method: float(cell) for method, cell in cells.items() if cell}, name
    zero = [name for name, task in suite.tasks.items() if not any(task.published.values())]
    assert len(zero) == 9 and all("OfColors" in name for name in zero)


def test_rows_of_other_settings_are_other_groups_and_damaged_ones_are_named(
    runs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(runs, EASY, 0, [0.0, 1.0], model="gru")
    (runs / EASY / "gru" / "default" / "seed-0" / "result.json").rename(runs / "result.json")
    (bad := runs / EASY / "elmur" / "default" / "seed-0" / "result.json").write_text("{")
    found = gather([runs]).groups
    assert sorted((group.model, group.metric, len(group.rows)) for group in found) == [
        ("elmur", "return", 4), ("elmur", "success", 2), ("gru", "return", 1),
    ]  # fmt: skip
    assert str(bad) in caplog.text
    nowhere = runs / HARD / "elmur" / "default" / "seed-0" / "none"
    with pytest.raises(ValueError, match=r"found no result.json below it; there is no folder .*/none; name a"):
        gather([nowhere])
    nowhere.mkdir()
    with pytest.raises(ValueError, match=r"found no result.json below it; name a folder of finished runs, or"):
        gather([nowhere])


def test_the_suite_is_that_of_the_levels_and_of_the_published_sums() -> None:
    suite = suites.read("popgym48")
    assert set(suite.tasks) == set(LEVELS) and suite.groups == ["all", "puzzle", "reactive"]
    assert [len(suite.members(group)) for group in suite.groups] == [48, 33, 15]
    for method, sums in suite.sums.items():
        if method == "ELMUR":
            continue
        for group in suite.groups:
            total = sum(suite.tasks[task].published[method] for task in suite.members(group))
            assert total == pytest.approx(sums[group], abs=0.06), (method, group)
    for task, level in LEVELS.items():  # random play is random play, if Medium and Hard stand where they belong
        assert suite.tasks[task].published["random"] == pytest.approx(level.random, abs=0.05), task
    with pytest.raises(suites.SuiteError, match=r"expected one of mikasa32, popgym48; found 'popgym49'"):
        suites.read("popgym49")
    with pytest.raises(suites.SuiteError, match="tmaze is not one of the 48 tasks"):
        suites.number("popgym48", "tmaze", "segments")


def test_a_sheet_in_markdown_and_csv() -> None:
    sheet = Sheet("a", [{"x": "p|q", "y": 1.234}, {"x": None, "z": (0.5, 1.0)}], {"model": "m"})
    assert sheet.markdown().splitlines()[2:6] == [
        "| x | y | z |", "| --- | --- | --- |", "| p\\|q | 1.23 | – |", "| – | – | 0.50..1.00 |",
    ]  # fmt: skip
    assert as_csv([sheet]) == "table,model,x,y,z low,z high\na,m,p|q,1.234,,\na,m,,,0.5,1.0\n"


def test_levels_normalise() -> None:
    assert Level(-1.0, 1.0, 0.0).normalised(0.0) == 0.5


@pytest.mark.parametrize("width", [8, 20, 80, 200])
def test_a_terminal_of_any_width_shows_every_column_of_every_row(width: int) -> None:
    """What has no room in its line stands below it; what has none in any line goes on in the next."""
    lines = [
        {"task": name} | {f"figure {n}": 10.0 * row + n for n in range(9)}
        for row, name in enumerate(("short", "longer-than-8"))
    ]
    output = io.StringIO()
    Sheet("table", lines).show(Console(width=width, file=output))
    printed = output.getvalue().splitlines()
    assert not [line for line in printed if len(line) > width or "…" in line]
    words = " ".join(printed).replace(",", "").split()
    if width == 8:
        words = ["".join(words)]
    for line in lines:
        for value in line.values():
            assert any((f"{value:.2f}" if isinstance(value, float) else value) in word for word in words), value
    assert "".join(words).count("figure8") == (2 if width < 200 else 1), "with each row, or once above them all"
    assert len(printed) == 4 or width < 200
