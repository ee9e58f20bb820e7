"""What stands beside each other: every group once, on one scale, in what rows differ, and what is left out said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from callbacks.report.gather import gather
from callbacks.report.protocol import differing
from callbacks.report.published import beside_ours
from callbacks.report.report import Report, compiled
from callbacks.report.row import Row, read_row
from callbacks.report.scores import compared, scores
from callbacks.report.sheets import Sheet
from tests.callbacks.report.test_suite import outcome

EASY = "popgym-RepeatFirstEasy-v0"


def write(root: Path, task: str, model: str, seed: int, returns: list[float], **about: Any) -> None:
    path = root / task / model / str(about.get("label", "default")) / str(seed) / "result.json"
    about = {"metric": "return", "label": "default", **about}
    Row(task=task, model=model, seed=seed, outcomes={"all": outcome(returns)}, **about).write(path)


def sheet(told: Report, title: str) -> Sheet:
    (found,) = [one for one in told.sheets if one.title == title]
    return found


def test_rows_of_a_suite_and_others_of_one_model_are_all_there(tmp_path: Path) -> None:
    for model in ("elmur", "gru"):
        for seed in (0, 1):
            write(tmp_path, EASY, model, seed, [0.5 + 0.1 * seed], suite="popgym48")
    for seed in (0, 1):
        write(tmp_path, "CartPole-v1", "elmur", seed, [480.0 + seed])
    told = compiled(gather([tmp_path]))
    (cart,) = sheet(told, "Return: elmur").lines
    assert (cart["task"], cart["return"], cart["seeds"]) == ("CartPole-v1", 480.5, 2)
    (easy,) = sheet(told, "Return in popgym48: tasks by models").lines
    assert (easy["elmur"].mean, easy["gru"].mean) == pytest.approx((0.55, 0.55))
    assert not [said for said in told.overview if "no run of" in said]
    titles = [one.title for one in (*told.sheets, *told.details)]
    names = [one.name for one in told.figures]
    assert len(set(titles)) == len(titles) and len(set(names)) == len(names)


def test_all_returns_of_a_task_are_on_one_scale(tmp_path: Path) -> None:
    """Rows of before know no reference; those of the newest row, 0 and 100, are for all."""
    for seed in (0, 1):
        write(tmp_path, "Mine-v0", "elmur", seed, [90.0 + seed], finished="2026-01-01")
        reference = {"random": 0.0, "expert": 50.0 + 50.0 * seed}
        write(tmp_path, "Mine-v0", "gru", seed, [97.0 + seed], reference=reference, finished=f"2026-01-0{2 + seed}")
    elmur, gru = (groups := gather([tmp_path]).groups)
    assert (scores(elmur), scores(gru)) == ({"Mine-v0": [0.9, 0.91]}, {"Mine-v0": [0.97, 0.98]})
    found = compared(elmur, gru)
    assert found is not None and found.difference == pytest.approx(-0.07)
    told = compiled(gather([tmp_path]))
    lines = [line for one in told.details for line in one.lines]
    assert [(line["normalised"], line["expert"]) for line in lines] == [(0.905, 100.0), (0.975, 100.0)]
    assert differing(groups) == [
        "Return, Mine-v0: not the same returns of random play and of the expert, of which those of the newest row "
        "count: unknown (elmur); 0 and 50 (gru); 0 and 100 (gru)."
    ]


CONVERTED = {"converted": "a.hdf5", "reader": "minari", "left_out": []}
HOW = {"env": {"call": "x", "time_limit": 30}, "expert": "envs.tmaze.TMazeExpert", "seed": 0, "noise": 0.0}


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ({"collection": CONVERTED}, {"collection": CONVERTED}, "60 episodes, converted from a.hdf5, digest {}"),
        ({"collection": None}, {"collection": None}, "60 episodes, digest {}"),
        ({"collection": HOW}, {"collection": HOW}, ""),
        ({"steps": 8, "collection": HOW}, {"steps": 8, "collection": {**HOW, "expert": "my.Own"}}, "of {}, time"),
        ({"collection": HOW}, None, "unknown (gru)"),
    ],
)  # fmt: skip
def test_other_data_are_told(tmp_path: Path, first: Any, second: Any, says: str) -> None:
    for model, digest, data in (("elmur", "aa", first), ("gru", "bb", second)):
        about = {} if data is None else {"data": {"episodes": 60, "digest": digest, **data}}
        write(tmp_path, "t", model, 0, [1.0], **about)
    said = "".join(differing(gather([tmp_path]).groups))
    assert ("not the same training data" in said) == bool(says)
    own = ("TMazeExpert", "Own") if "of {}" in says else ("aa", "bb")
    assert all(says.format(of) in said for of in own)


@pytest.mark.parametrize("collection", [None, CONVERTED])
def test_rows_of_other_files_are_no_seeds_of_one_another(tmp_path: Path, collection: Any) -> None:
    settings = {"env": {"id": "t"}}
    for seed in (0, 1, 2):
        data = {"episodes": 60, "digest": f"d{seed // 2}", "collection": collection}
        write(tmp_path, "t", "elmur", seed, [1.0], data=data, settings=settings)
    assert sorted(len(group.rows) for group in gather([tmp_path]).groups) == [1, 2]


def test_unequal_seeds_do_not_weigh_tasks(tmp_path: Path) -> None:
    """Five seeds of 0.9 and two of 0.3 are a mean of 0.6 over the two tasks, as in the differences table."""
    for task, model, seeds, value in (("a", "x", 5, 0.9), ("b", "x", 2, 0.3), ("a", "y", 2, 0.8), ("b", "y", 2, 0.3)):
        for seed in range(seeds):
            write(tmp_path, task, model, seed, [value + 0.01 * seed])
    told = compiled(gather([tmp_path]))
    x, y = sheet(told, "Return: over all tasks").lines
    means = (0.92 + 0.305) / 2, (0.805 + 0.305) / 2
    assert (x["mean"], y["mean"]) == pytest.approx(means)
    assert x["95 %"][0] < means[0] < x["95 %"][1]
    assert x["interquartile mean"] is None and y["interquartile mean"] == pytest.approx((0.31 + 0.8) / 2)
    (line,) = sheet(told, "Return: differences").lines
    assert line["difference"] == pytest.approx(means[0] - means[1])


def test_the_interval_of_a_difference_is_welchs(tmp_path: Path) -> None:
    seeds = {"x": [0.9, 0.8, 0.85], "y": [0.3, 0.5, 0.45, 0.2]}
    for model, values in seeds.items():
        for seed, value in enumerate(values):
            write(tmp_path, "a", model, seed, [value])
    found = compared(*gather([tmp_path]).groups)
    welch = stats.ttest_ind(seeds["x"], seeds["y"], equal_var=False).confidence_interval(0.95)
    assert found is not None and found.difference_interval == pytest.approx((welch.low, welch.high))
    assert found.says == "higher"
    for model in seeds:  # a second task on which nothing varies: half the difference, half the interval
        for seed in (0, 1):
            write(tmp_path, "b", model, seed, [0.5])
    both = compared(*gather([tmp_path]).groups)
    assert both is not None and both.difference_interval == pytest.approx((welch.low / 2, welch.high / 2))


def test_more_than_eight_are_compared_with_the_best_that_has_all_tasks_and_seeds(tmp_path: Path) -> None:
    for number in range(8):
        for task, value in (("easy", 0.9), ("hard", 0.5)):
            for seed in (0, 1):
                write(tmp_path, task, f"m{number}", seed, [value - 0.01 * number - 0.001 * seed])
    write(tmp_path, "easy", "tried", 0, [0.96])
    told = compiled(gather([tmp_path]))
    lines = sheet(told, "Return: differences").lines
    assert {line["of"] for line in lines} == {"m0"} and len(lines) == 8
    assert not [said for said in told.overview if "no differences" in said]


def test_that_no_differences_are_shown_is_said(tmp_path: Path) -> None:
    for model in ("x", "y"):
        write(tmp_path, "a", model, 0, [0.5, 0.6])
    told = compiled(gather([tmp_path]))
    assert not [one for one in told.sheets if "differences" in one.title]
    assert "Return: no differences are shown, since no two have several seeds of one task." in told.overview


def test_episodes_that_could_not_be_played_are_said(tmp_path: Path) -> None:
    for seed, why in enumerate(("simulator died", "simulator died", "")):
        write(tmp_path, "a", "x", seed, [0.5, 0.6])
        path = tmp_path / "a" / "x" / "default" / str(seed) / "result.json"
        found = json.loads(path.read_text())
        found["outcomes"]["all"]["env_errors"] = dict.fromkeys(map(str, range(5, 8)), why) if why else {}
        path.write_text(json.dumps(found))
    said = compiled(gather([tmp_path])).overview
    assert "6 of 10 episodes of 2 rows could not be played (simulator died) and are in no figure." in said


def test_what_a_figure_leaves_out_is_said(tmp_path: Path) -> None:
    for number in range(9):
        for task in ("a", "b", "c"):
            write(tmp_path, task, f"m{number}", 0, [0.5, 0.6])
    (log := tmp_path / "a" / "m0" / "default" / "0" / "logs" / "metrics.csv").parent.mkdir()
    log.write_text("update,eval/return\n5,0.5\n")
    told = compiled(gather([tmp_path]))
    notes = {one.name: one.note for one in told.figures}
    for name in ("tasks-return", "profile-return", "learning-return"):
        assert notes[name] == "The first 8 of 9 groups."
    assert notes["cost-return"].endswith("The first 8 of 9 groups are named.")
    (learning,) = [one for one in told.figures if one.name == "learning-return"]
    assert learning.lines[0]["95 %"] == (None, None), "one seed tells nothing of others"
    assert "<svg" in learning.svg


def test_tasks_beyond_those_that_lengths_are_drawn_of_are_said(tmp_path: Path) -> None:
    for number in range(25):
        played = {f"T={length}": outcome([0.5]) for length in (9, 30)}
        Row(task=f"t{number}", model="x", seed=0, outcomes=played, label="default", metric="return").write(
            tmp_path / str(number) / "result.json"
        )
    (figure,) = [one for one in compiled(gather([tmp_path])).figures if one.name == "length-return"]
    assert figure.note == "The first 24 of 25 tasks."


def test_what_was_ablated_is_not_judged_by_the_main_number(tmp_path: Path) -> None:
    """RememberColor3's 0.89 of table 1 is of the whole method; table 3 has the ablated ones."""
    task = "RememberColor3-v0"
    for label, updates in (("default", 5), ("experiment=ablation_shared", 7), ("experiment=ablation_no_read", 7)):
        write(tmp_path, task, "elmur", 0, [1.0], label=label, metric="success", updates=updates)
    found = beside_ours(gather([tmp_path]).groups)
    assert found is not None
    lines = {(line["ours"], line["published"], line["table"]) for line in found.lines}
    assert ("elmur", "ELMUR", "ELMUR, table 1") in lines
    assert {line for line in lines if "ablation" in line[0]} == {
        ("elmur (experiment=ablation_shared)", "ELMUR", "ELMUR, table 3")
    }


def test_every_way_in_which_ours_came_about_is_told(tmp_path: Path) -> None:
    for label, updates in (("default", 5), ("lanes=8", 5), ("d_model=16", 7)):
        write(tmp_path, "RememberColor3-v0", "elmur", 0, [1.0], label=label, metric="success", updates=updates)
    found = beside_ours(gather([tmp_path]).groups)
    assert found is not None
    (note,) = [one for one in found.notes if "table 1," in one]
    assert "Ours: 7 updates, the last checkpoint" in note and "(elmur (d_model=16)); 5 updates" in note
    assert note.endswith("(elmur, elmur (lanes=8)).")


@pytest.mark.parametrize("rounds", [[{}], 3, [3], [{"episodes": 1, "steps": 2, "collection": "x"}], {"a": 1},
                                    [{"episodes": 1, "steps": 2, "collection": {"learner": 3}}]])  # fmt: skip
def test_a_row_with_damaged_rounds_is_left_out(tmp_path: Path, rounds: Any) -> None:
    write(tmp_path, "a", "x", 0, [1.0])
    write(tmp_path, "a", "y", 0, [1.0], data={"episodes": 3, "rounds": rounds})
    found = gather([tmp_path])
    assert len(found.left_out) == 1 and "ounds" in str(found.left_out) and compiled(found).sheets


@pytest.mark.parametrize("sign", ["\ud800", "\x01", "\u202e"])
def test_a_metric_that_cannot_be_shown_is_named(tmp_path: Path, sign: str) -> None:
    write(tmp_path, "a", "x", 0, [1.0])
    write(tmp_path, "a", "y", 0, [1.0])
    path = tmp_path / "a" / "y" / "default" / "0" / "result.json"
    found = json.loads(path.read_text())
    found["outcomes"]["all"]["values"] = {f"m{sign}": [1.0]}
    path.write_text(json.dumps({**found, "metric": f"m{sign}"}))
    with pytest.raises(ValueError, match=r"printable names of metrics in outcomes.all"):
        read_row(path)
