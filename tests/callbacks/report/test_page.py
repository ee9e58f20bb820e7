"""The report of many runs: what it says of them by hand-made rows, its figures' numbers, its page in a real browser."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from callbacks.report.gather import gather
from callbacks.report.heatmaps import swept
from callbacks.report.published import experts, published, verdict
from callbacks.report.report import Report, report
from callbacks.report.row import Cost, Origin, Row
from callbacks.report.scores import compared
from docs.put_figure import put
from envs import tmaze
from envs.experts.tmaze import TMazeExpert
from envs.rollout import rollout
from tests.callbacks.report.test_gather import outcome, row

ROOT = Path(__file__).parents[3]
EVIL = "<script>alert(x)</script><img src=x>\"'&$a$"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def made(source: Path, folder: Path, **about: Any) -> Report:
    return report(source, folder, Console(file=io.StringIO(), width=100), **about)


def lines(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def lengths(root: Path, model: str, seed: int, won: dict[int, int], **about: Any) -> None:
    """A T-Maze row: length -> how many of four episodes were won."""
    outcomes = {f"T={length}": outcome([i < count for i in range(4)]) for length, count in won.items()}
    about = {"label": "default", "updates": 100, "cost": Cost(train_seconds=9.0), **about}
    path = root / model / str(about["label"]) / f"seed-{seed}"
    Row(task="tmaze", model=model, seed=seed, outcomes=outcomes, **about).write(path / "result.json")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two models and two seeds: one that always wins, one that wins half at T=9 and a quarter or none at T=90."""
    for seed in (0, 1):
        lengths(tmp_path / "runs", "a", seed, {9: 4, 90: 4})
        lengths(tmp_path / "runs", "b", seed, {9: 2, 90: seed}, updates=200)
    return tmp_path / "runs"


def test_what_acting_takes_and_holds_stands_beside_the_time_where_it_was_measured(tmp_path: Path) -> None:
    for model, ms, held in (("a", 2.0, 8000), ("b", 0.5, 600)):
        lengths(tmp_path / "runs", model, 0, {9: 4}, cost=Cost(step_ms=ms, state_bytes=held))
    told = made(tmp_path / "runs", tmp_path / "out")
    (cost,) = [sheet for sheet in told.sheets if sheet.title == "Cost"]
    assert [(line["ms a step, alone"], line["state kB"]) for line in cost.lines] == [(2.0, 8.0), (0.5, 0.6)]
    (drawn,) = (tmp_path / "out" / "figures").glob("state-*.csv")
    assert [line["state kB"] for line in lines(drawn)] == ["8.0", "0.6"]
    (page := tmp_path / "page.md").write_text("before\n<!-- numbers of state-success -->\nold\n<!-- end -->\nbehind\n")
    put(tmp_path / "out", "state-success", page)
    written = page.read_text()
    assert written.startswith("before\n") and written.endswith("\nbehind\n") and "old" not in written
    assert "| a | – | 2.00 | 8.00 |\n| b | – | 0.50 | 0.60 |\n" in written
    assert (tmp_path / "state-success.svg").read_text().startswith("<svg")
    with pytest.raises(SystemExit, match="expected one '<!-- numbers of other -->' with its '<!-- end -->'; found 0"):
        (tmp_path / "out" / "figures" / "other.csv").write_text("a\n1\n")
        put(tmp_path / "out", "other", page)


@pytest.mark.parametrize("models", [4, 5])
def test_many_models_on_one_task_are_lines(tmp_path: Path, models: int) -> None:
    for number in range(models):
        lengths(tmp_path / "runs", f"m{number}", 0, {9: min(number, 4)})
    table = made(tmp_path / "runs", tmp_path / "out").sheets[0]
    found = [cell.mean for line in table.lines for cell in line.values() if hasattr(cell, "mean")]
    assert found == [number / 4 for number in range(models)]
    if models == 4:
        assert [line["task"] for line in table.lines] == ["tmaze"]
    else:
        assert table.headings == ["settings", "seeds", "success"]
        assert [line["settings"] for line in table.lines] == [*[f"m{number}" for number in range(models)], "expert"]


def test_labels_of_another_kind_are_named(tmp_path: Path) -> None:
    soft = {"_target_": "elmur.objectives.preferences.Preferences", "temperature": 0.1}
    fair = {"_target_": "elmur.objectives.balanced.Balanced", "power": 0.5}
    kinds = (("hard", None), ("soft", soft), ("old", {"_target_": "...Filtered", "fraction": 0.1}), ("fair", fair))
    for model, objective in kinds:
        module = {"label_smoothing": 0.0} if objective is None else {"objective": objective}
        lengths(tmp_path / "runs", model, 0, {9: 4}, settings={"module": module})
    told = made(tmp_path / "runs", tmp_path / "out")
    fairly = "recorded actions, weighted by their frequency to the power -0.5 (fair)"
    says = f"not the same labels: {fairly}; recorded actions (hard, old); preferences at temperature 0.1 (soft)."
    assert [line for line in told.differing if "labels" in line] == [f"Success, tmaze: {says}"]


def test_two_models_stand_beside_each_other(runs: Path, tmp_path: Path) -> None:
    told = made(runs, tmp_path / "out")
    table, difference = (
        next(s for s in told.sheets if s.title == t) for t in ("Success: tmaze", "Success: differences")
    )
    assert [line["settings"] for line in table.lines] == ["a", "b", "expert"]
    assert (table.lines[2]["T=9"], table.lines[2]["T=90"]) == (1.0, 1.0)
    assert table.lines[1]["T=90"].mean == pytest.approx(0.125)
    assert table.lines[1]["T=90"].error == pytest.approx(0.125)  # of 0 and 0.25
    (line,) = difference.lines
    assert line["difference"] == pytest.approx(1 - (0.25 + 0.375) / 2) and line["P(above)"] == 1.0
    # All of a are won: Wilson's of 8 episodes of each length. Of b's two seeds, 0.125 apart, Student's t of 1 degree.
    below, of_seeds = 1 - 8 / (8 + 1.959964**2), 12.706205 * 0.0625
    assert line["95 %"] == (pytest.approx(0.6875 - np.hypot(below, of_seeds)), 1.0), "no share differs by more than 1"
    assert line["the first is"] == "no difference shown"
    assert told.overview[0] == "4 finished runs: 1 task x 2 models x 2 seeds."
    assert told.differing == ["Success, tmaze: not the same updates: 100 (a); 200 (b)."]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "not the same updates: 100 (a); 200 (b)" in page and page.count("<svg") == len(told.figures) == 2
    (drawn,) = (tmp_path / "out" / "figures").glob("length-*.csv")
    assert [(of["settings"], of["length"], of["success"]) for of in lines(drawn)] == [
        ("a", "9", "1.0"), ("a", "90", "1.0"), ("b", "9", "0.5"), ("b", "90", "0.125"),
    ]  # fmt: skip


def test_a_run_that_was_labelled_on_its_own_states_is_not_beside_offline_ones_unsaid(tmp_path: Path) -> None:
    rounds = [
        {"episodes": 20, "steps": 1500 + k, "collection": {"learner": {"updates": 25 * k, "expert_share": 0.5**k}}}
        for k in (1, 2)
    ]
    lengths(tmp_path / "runs", "a", 0, {9: 4}, data={"episodes": 60})
    lengths(tmp_path / "runs", "a", 0, {9: 4}, label="rounds=aggregate", data={"episodes": 100, "rounds": rounds})
    told = made(tmp_path / "runs", tmp_path / "out")
    (said,) = [sentence for sentence in told.differing if "rounds of labelling" in sentence]
    assert said == (
        "Success, tmaze: not the same rounds of labelling on its own states: none, recorded episodes alone (a); "
        "2 of 40 episodes, 3,003 steps, at updates 25, 50, expert's share 0.5, 0.25 (a (rounds=aggregate))."
    )
    assert "rounds of labelling on its own states" in (tmp_path / "out" / "report.html").read_text()


def test_ties_count_half_and_runs_are_resampled_within_their_task(tmp_path: Path) -> None:
    """Of the four pairs one is above, two are level, one below: (1 + 2 / 2) / 4."""
    for seed in (0, 1):
        lengths(tmp_path, "a", seed, {9: 2 + seed})
        lengths(tmp_path, "b", seed, {9: 3 - seed})
    a, b = gather([tmp_path]).groups
    found = compared(a, b)
    assert found is not None and (found.difference, found.probability) == (0.0, 0.5)
    assert found.says == "no difference shown"
    lengths(tmp_path, "c", 0, {9: 4})
    a, _, c = gather([tmp_path]).groups
    one_seed = compared(a, c)
    assert one_seed is not None and one_seed.difference_interval is None and "not known" in one_seed.says
    lengths(tmp_path, "d", 0, {30: 4})
    a, *_, d = gather([tmp_path]).groups
    assert compared(a, d) is None, "no length in common"


def test_what_did_not_finish_is_counted_by_how_it_ended(runs: Path) -> None:
    for name, files in {
        "begun": {"settings.json": "{}"},
        "failed": {"settings.json": "{}", "output.log": "x\nerror: no room (HYDRA_FULL_ERROR=1 shows the traceback)\n"},
        "refused": {"output.log": "error: env.id: expected another\n"},
        "other": {"notes.txt": "x"},
        "damaged": {"result.json": "{"},
    }.items():
        for file, text in files.items():
            (runs / name).mkdir(exist_ok=True)
            (runs / name / file).write_text(text)
    found = gather([runs])
    assert found.unfinished == [runs / "begun"] and found.failed == {runs / "failed": "no room"}
    assert found.refused == {runs / "refused": "env.id: expected another"}
    assert list(found.left_out) == [runs / "damaged" / "result.json"]
    said = made(runs, runs.parent / "out").overview
    assert f"1 run failed: {runs / 'failed'} (no room)." in said
    with pytest.raises(ValueError, match=r"found no result.json below it; 1 runs that have not finished"):
        gather([runs / "failed"])
    with pytest.raises(ValueError, match=r"found no result.json below it; 1 that are damaged or of another format"):
        gather([runs / "damaged"])


def test_a_setting_that_was_swept_gives_a_heat_map(tmp_path: Path) -> None:
    for trained, won in {30: {9: 4, 90: 2}, 9: {9: 3, 90: 1}}.items():
        lengths(tmp_path / "runs", "elmur", 0, won, label=f"experiment=tmaze_grid+train_length={trained}")
    found = swept(gather([tmp_path / "runs"]).groups)
    assert found is not None and found[0] == ("train_length",) and list(found[1]) == [(9.0,), (30.0,)]
    told = made(tmp_path / "runs", tmp_path / "out")
    (grid,) = [figure for figure in told.figures if figure.name.startswith("grid")]
    assert [(line["train_length"], line["variant"], line["success"]) for line in grid.lines] == [
        ("9", "T=9", 0.75), ("9", "T=90", 0.25), ("30", "T=9", 1.0), ("30", "T=90", 0.5),
    ]  # fmt: skip
    assert "elmur (train_length=9)" in {line["settings"] for line in told.sheets[0].lines}, (
        "what all have is not repeated"
    )
    beside = next(sheet for sheet in told.sheets if sheet.title == "Published numbers beside ours")
    cells = {(line["task"], line["ours"]): line["ours is"] for line in beside.lines}
    # Four episodes of four reach 1.00 (0.51 to 1), one of four 0.25 (0.05 to 0.70), which is below 0.99.
    assert cells["tmaze T=9", "elmur (train_length=30)"] == "agree"
    assert cells["tmaze T=90", "elmur (train_length=9)"] == "worse"


def test_two_settings_that_were_swept_give_a_heat_map_with_a_panel_for_each_model(tmp_path: Path) -> None:
    # Of four episodes at each of two lengths; seed 1 of one cell is worse, one cell was not run.
    won = {
        ("elmur", 1, 2): 4,
        ("elmur", 2, 2): 3,
        ("elmur", 1, 8): 2,
        ("rmt", 1, 2): 1,
        ("rmt", 2, 2): 0,
        ("rmt", 2, 8): 4,
    }
    for (model, segments, slots), good in won.items():
        label = f"experiment=gradient_{model}+slots={slots}+backprop_segments={segments}"
        lengths(tmp_path / "runs", model, 0, {9: good, 90: good}, label=label)
    lengths(tmp_path / "runs", "elmur", 1, {9: 0, 90: 4}, label="experiment=gradient_elmur+slots=2+backprop_segments=1")
    told = made(tmp_path / "runs", tmp_path / "out")
    (grid,) = [figure for figure in told.figures if figure.name.startswith("grid")]
    found = {(line["model"], line["backprop_segments"], line["slots"]): line["score"] for line in grid.lines}
    assert found == {
        ("elmur", "1", "2"): (1.0 + 0.5) / 2, ("elmur", "1", "8"): 0.5, ("elmur", "2", "2"): 0.75,
        ("elmur", "2", "8"): None, ("rmt", "1", "2"): 0.25, ("rmt", "1", "8"): None, ("rmt", "2", "2"): 0.0,
        ("rmt", "2", "8"): 1.0,
    }  # fmt: skip
    assert all(word in grid.svg for word in ("elmur", "rmt", "slots", "backprop segments"))


def test_settings_that_never_share_a_value_are_no_grid(tmp_path: Path) -> None:
    for lanes, slots in ((1, 2), (2, 4)):
        lengths(tmp_path / "runs", "elmur", 0, {9: 4}, label=f"lanes={lanes}+slots={slots}")
    assert swept(gather([tmp_path / "runs"]).groups) is None


def test_learning_curves_are_means_over_seeds(runs: Path, tmp_path: Path) -> None:
    for seed, values in enumerate(((0.0, 1.0), (0.5, 1.0))):
        (log := runs / "a" / "default" / f"seed-{seed}" / "logs" / "metrics.csv").parent.mkdir()
        log.write_text("epoch,update,eval/success,train/loss\n0,5,,1\n" + "".join(
            f"0,{10 * (i + 1)},{value},\n" for i, value in enumerate(values)
        ))  # fmt: skip
    made(runs, tmp_path / "out")
    found = lines(tmp_path / "out" / "figures" / "learning-success.csv")
    assert [(line["update"], line["success"], line["seeds"]) for line in found] == [
        ("10", "0.25", "2"), ("20", "1.0", "2"),
    ]  # fmt: skip
    assert (float(found[0]["95 % low"]), float(found[0]["95 % high"])) == (0.0, 0.5)


def test_published_numbers_are_read_whole_and_judged_by_both_intervals() -> None:
    every = [one for of in published().values() for one in of]
    cells = [one for one in every if one.table.title == "ELMUR, figure 4"]
    assert len(cells) == 77 and all(one.value.mean == 1.0 for one in cells)
    assert cells[0].interval == pytest.approx((400 / (400 + 1.959964**2), 1.0)), "Wilson's of four times 100"
    (three,) = [one for one in every if (one.table.title, one.task) == ("ELMUR, table 1", "RememberColor3-v0")]
    assert three.interval == pytest.approx((0.89 - 1.959964 * 0.07, 0.89 + 1.959964 * 0.07))
    assert verdict((0.9, 1.0), (0.7, 0.8)) == "better" and verdict((0.1, 0.2), (0.7, 0.8)) == "worse"
    assert verdict((0.1, 0.75), (0.7, 0.8)) == "agree" and verdict(None, (0.7, 0.8)) == "not known"


def test_the_experts_of_success_are_those_that_were_measured() -> None:
    known = experts()
    played = rollout(tmaze.make_vector(20, 30), TMazeExpert(), range(20))
    assert known["tmaze"] == known["tmaze-T30"] == np.mean([episode.success for episode in played])
    page = (ROOT / "docs" / "mikasa.md").read_text(encoding="utf-8")
    measured = dict(re.findall(r"^\| (\w+) \| \d+ \| ([\d.]+) \|.*\| 50 \|", page, re.MULTILINE))
    robots = {task.removesuffix("-v0"): value for task, value in known.items() if task.endswith("-v0")}
    assert robots == {task: float(value) for task, value in measured.items()} and len(robots) == 29
    files = [
        path for name in ("tmaze", "retrieval", "minigrid") for path in (ROOT / "conf").glob(f"[et]*/{name}*.yaml")
    ]
    ids = [re.search(r"\bid: ([\w-]+)", path.read_text(encoding="utf-8")) for path in files]
    assert known.keys() - {f"{task}-v0" for task in robots} == {found[1] for found in ids if found}


def test_the_command_of_a_run_is_told_whole(tmp_path: Path) -> None:
    """However much was typed: what is cut cannot be repeated."""
    typed = " ".join(["run.py", *(f"env.make.option_{number}={number}" for number in range(100))])
    lengths(tmp_path / "runs", "a", 0, {9: 4}, origin=Origin(command=typed))
    made(tmp_path / "runs", tmp_path / "out")
    (run,) = lines(tmp_path / "out" / "runs.csv")
    assert run["command"].split() == typed.split() and typed in (tmp_path / "out" / "report.html").read_text()


def test_markup_in_rows_is_text_everywhere(tmp_path: Path) -> None:
    for seed in (0, 1):
        for model in (EVIL, "b"):
            row(tmp_path / "runs" / model[-1] / str(seed), seed, model=model, task=EVIL, label=EVIL, actions=EVIL,
                versions={EVIL: EVIL})  # fmt: skip
            path = tmp_path / "runs" / model[-1] / str(seed) / "result.json"
            found = json.loads(path.read_text())
            found |= {"outcomes": {f"{EVIL}={n}": found["outcomes"]["T=9"] for n in (1, 2)}, "command": EVIL}
            path.write_text(json.dumps(found))
    told = made(tmp_path / "runs", tmp_path / "out", command=EVIL, title=EVIL)
    assert len(told.figures) > 1 and len(told.sheets) > 2
    for path in [tmp_path / "out" / "report.html", *(tmp_path / "out").rglob("*.svg")]:
        text = path.read_text()
        assert not re.search(r"<(script|img|link|iframe)|javascript:|@import|url\((?!#)", text), path
        assert set(re.findall(r'\s(?:src|href)="([^"]*)"', text.replace("xlink:href", " href"))) <= {
            *re.findall(r'="(#[^"]*|figures/[\w.+-]*|runs\.csv|report\.csv)"', text)
        }, path
    assert "&lt;script&gt;" in (tmp_path / "out" / "report.html").read_text()


def shot(page: Path, width: int, *options: str) -> np.ndarray[Any, Any]:
    """`[height, width, 3]`: what a browser shows of a page, 0 to 1."""
    from matplotlib.image import imread

    assert BROWSER is not None
    image = page.parent / f"{width}{len(options)}.png"
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *options]
    command += [f"--user-data-dir={image}.profile", f"--window-size={width},3000", f"--screenshot={image}"]
    subprocess.run([*command, page.as_uri()], check=True, capture_output=True, timeout=120)
    found: np.ndarray[Any, Any] = imread(image)[:, :, :3]
    return found


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium here")
@pytest.mark.parametrize("width", [400, 1200])
@pytest.mark.parametrize(("options", "paper"), [((), "#ffffff"), (("--force-dark-mode",), "#14171b")])
def test_a_browser_shows_the_page_in_both_colours_and_no_wider_than_it_is(
    runs: Path, tmp_path: Path, width: int, options: tuple[str, ...], paper: str
) -> None:
    made(runs, tmp_path / "out")
    seen = shot(tmp_path / "out" / "report.html", width, *options)
    background = np.array([int(paper[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    is_paper = np.abs(seen - background).max(axis=2) < 0.02
    assert seen.shape[1] == width
    assert is_paper[:, :4].all() and is_paper[:, -4:].all(), (
        "nothing reaches the edges: the page does not scroll sideways"
    )
    rows = (~is_paper).any(axis=1)
    assert rows.mean() > 0.3 and 0.01 < (~is_paper).mean() < 0.6, "there is something to read, on paper"
