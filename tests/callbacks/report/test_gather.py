"""What is reported together: seeds of one computation, each once; what is bad is named and left out, whatever it is."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from callbacks.evaluation.outcomes import Outcome
from callbacks.report.gather import gather
from callbacks.report.protocol import overview
from callbacks.report.report import report
from callbacks.report.row import Origin, Row, read_row
from envs.rollout import Episode

SETTINGS = {
    "seed": 0, "run_dir": "a", "shards": "a", "model": {"_target_": "elmur.model.ELMUR", "d_model": 16, "n_layer": 1},
    "data": {"seed": 0, "lanes": 8, "root": "${shards}/x"}, "trainer": {"accelerator": "cpu", "max_steps": 6},
    "module": {"seed": 0}, "env": {"id": "tmaze", "reference": None},
}  # fmt: skip


def outcome(won: list[bool]) -> Outcome:
    return Outcome.of([Episode(i, 9, float(met), {"success": met}) for i, met in enumerate(won)], 0.25)


def row(folder: Path, seed: int = 0, won: list[bool] | None = None, **about: Any) -> Path:
    """A row in a folder; keys of settings by dotted names with __."""
    settings = json.loads(json.dumps(SETTINGS).replace('"seed": 0', f'"seed": {seed}'))
    for name in [name for name in about if "__" in name]:
        *sections, key = name.split("__")
        holder = settings
        for section in sections:
            holder = holder[section]
        holder[key] = about.pop(name)
        if holder[key] is None:
            del holder[key]
    about = {"label": "default", "settings": settings, "task": "tmaze", "model": "elmur", **about}
    made = Row(seed=seed, outcomes={"T=9": outcome([True, False, True] if won is None else won)}, **about)
    made.write(folder / "result.json")
    return folder / "result.json"


def labels(root: Path, **given: Any) -> dict[str, list[int | None]]:
    return {group.label: [row.seed for row in group.rows] for group in gather([root], **given).groups}


def test_runs_that_computed_other_things_are_no_seeds_of_one_another(tmp_path: Path) -> None:
    """Folders by hand, the names of which say nothing; of before, when rows had no label."""
    row(tmp_path / "R" / "a", label=None)
    row(tmp_path / "R" / "b", label=None, model__d_model=32)
    row(tmp_path / "R" / "c", seed=1, label=None)
    row(tmp_path / "R" / "d", seed=1, label=None, trainer__accelerator="cuda")
    assert labels(tmp_path) == {"R+d_model=16": [0, 1], "R+d_model=32": [0]}


def test_what_was_typed_names_a_group_and_does_not_make_one(tmp_path: Path) -> None:
    row(tmp_path / "a" / "seed-0")
    row(tmp_path / "b" / "seed-1", seed=1, label="d_model=16")  # which is the default
    row(tmp_path / "c" / "seed-0", label="d_model=32", model__d_model=32)
    assert labels(tmp_path) == {"default": [0, 1], "d_model=32": [0]}


def test_unlike_data_are_told_apart(tmp_path: Path) -> None:
    row(tmp_path / "a", data={"episodes": 60, "digest": "1"})
    row(tmp_path / "b", seed=1, data={"episodes": 60, "digest": "2"})  # the same, collected elsewhere
    row(tmp_path / "c", seed=2, data={"episodes": 1000})
    assert labels(tmp_path) == {"episodes=60": [0, 1], "episodes=1000": [2]}


def test_checkpoints_of_one_run_are_told_apart(tmp_path: Path) -> None:
    for seed in (0, 1):
        for name in ("best", "last"):
            row(tmp_path / f"{seed}{name}", seed, stage="evaluate", checkpoint=f"/runs/{seed}/checkpoints/{name}.ckpt")
    assert labels(tmp_path) == {"checkpoint=best.ckpt": [0, 1], "checkpoint=last.ckpt": [0, 1]}


def test_a_task_with_other_settings_stays_beside_the_others_of_its_suite(tmp_path: Path) -> None:
    for number, task in enumerate(("popgym-RepeatFirstEasy-v0", "popgym-RepeatFirstHard-v0")):
        about: dict[str, Any] = {"task": task, "suite": "popgym48", "metric": "return"}
        row(tmp_path / task / "0", model__n_layer=number, **about)
        row(tmp_path / task / "1", seed=1, model__n_layer=number, **about)
    assert labels(tmp_path) == {"default": [0, 1, 0, 1]}, "tuned for each task"
    row(tmp_path / "more", seed=2, model__n_layer=5, **about)
    assert labels(tmp_path) == {"default": [0, 1], "n_layer=1": [0, 1], "n_layer=5": [2]}


def test_a_key_that_was_unknown_then_and_has_its_default_is_no_difference(tmp_path: Path) -> None:
    def usual() -> dict[str, Any]:
        return {"trainer": {"swa": False}}

    old, new = (Origin(code=code) for code in ("old", "new"))
    row(tmp_path / "a", origin=old)
    row(tmp_path / "b", seed=1, origin=new, trainer__swa=False)
    assert labels(tmp_path, defaults=usual) == {"default": [0, 1]}
    row(tmp_path / "c", seed=2, origin=new, trainer__swa=True)
    assert labels(tmp_path, defaults=usual) == {"swa=false": [0, 1], "swa=true": [2]}
    row(tmp_path / "d", seed=3, origin=new)  # of the code that knows it: taken out
    assert labels(tmp_path, defaults=usual) == {"swa=false": [0, 1], "swa=true": [2], "no_swa": [3]}


def test_a_key_of_another_class_is_not_what_a_row_did_not_know(tmp_path: Path) -> None:
    """The default writer has learned a new key; another writer, which has no such key, is what it was."""

    def usual() -> dict[str, Any]:
        return {"model": {"_target_": "elmur.model.ELMUR", "write": {"_target_": "elmur.LRU", "copies": False}}}

    def write(name: str, **more: Any) -> dict[str, Any]:
        return {"_target_": f"elmur.{name}", **more}

    old, new = (Origin(code=code) for code in ("old", "new"))
    row(tmp_path / "a", origin=old, label="all", model__write=write("ReplaceAll"))
    row(tmp_path / "b", seed=1, origin=new, label="all", model__write=write("ReplaceAll"))
    row(tmp_path / "c", origin=old, label="lru", model__write=write("LRU"))
    row(tmp_path / "d", seed=1, origin=new, label="lru", model__write=write("LRU", copies=False))
    assert labels(tmp_path, defaults=usual) == {"all": [0, 1], "lru": [0, 1]}


def test_a_copy_counts_once_and_other_outcomes_of_a_seed_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    row(tmp_path / "a" / "b" / "c", label=None)
    shutil.copytree(tmp_path / "a", tmp_path / "copy" / "of" / "it")
    row(tmp_path / "d", won=[False] * 3, label=None)
    assert list(labels(tmp_path).values()) == [[0]]
    text = caplog.text
    assert f"{tmp_path / 'copy/of/it/b/c/result.json'} is a copy of {tmp_path / 'a/b/c/result.json'}" in text
    assert f"{tmp_path / 'd/result.json'} has the settings and the seed of" in text and "other outcomes" in text


def cells(folder: Path) -> list[dict[str, str]]:
    """The lines of the tables that have every variant of every task."""
    with (folder / "report.csv").open() as file:
        return [line for line in csv.DictReader(file) if line["variant"]]


def test_intervals_respect_seeds(tmp_path: Path) -> None:
    """One seed wins 100 of 100 and one none: 95 % of what such seeds do lies between 0 and 1."""
    for seed in (0, 1):
        row(tmp_path / "runs" / str(seed), seed, [seed == 0] * 100)
    report(tmp_path / "runs", tmp_path / "report", Console(file=io.StringIO()))
    (line,) = cells(tmp_path / "report")
    assert [line[key] for key in ("seeds", "episodes", "success", "95 % low", "95 % high", "worst seed")] == [
        "2", "200", "0.5", "0.0", "1.0", "0.0",
    ]  # fmt: skip


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a nest, down to the first of a list."""
    if path:
        yield path
    for key, value in node.items() if isinstance(node, dict) else enumerate(node[:1]) if isinstance(node, list) else ():
        yield from places(value, (*path, key))


WRONG: dict[str, Callable[[Any], Any]] = {
    "none": lambda value: None, "text": lambda value: "x", "empty": lambda value: "", "number": lambda value: 7,
    "true": lambda value: True, "list": lambda value: [],
    "longer": lambda value: [value, value], "dict": lambda value: {},
    "nan": lambda value: math.nan, "infinite": lambda value: -math.inf, "negative": lambda value: -1.5,
    "huge": lambda value: 10**400, "large": lambda value: 1e308, "markup": lambda value: "[/red]\x1b[2J=1|<b>",
    "deep": lambda value: [[[{"a": [value]}]]],
}  # fmt: skip


@pytest.mark.filterwarnings("error")
def test_a_row_that_is_bad_in_any_way_does_not_end_the_report(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each key of a row, and of an outcome, missing or of each wrong kind; rows of a suite as well as others."""
    reference = {"random": 0.0, "expert": 1.0}
    easy: dict[str, Any] = {
        "task": "popgym-RepeatFirstEasy-v0",
        "suite": "popgym48",
        "metric": "return",
        "reference": reference,
    }
    sources = [row(tmp_path / "good" / "a"), row(tmp_path / "good" / "b", **easy)]
    tried = left_out = 0
    for source in sources:
        good = json.loads(source.read_text())
        for path in places({key: value for key, value in good.items() if key not in ("settings", "versions")}):
            for name, change in [("missing", None), *WRONG.items()]:
                bad = json.loads(source.read_text())
                holder = bad
                for key in path[:-1]:
                    holder = holder[key]
                if change is None:
                    del holder[path[-1]]
                else:
                    holder[path[-1]] = change(holder[path[-1]])
                tried += 1
                (file := tmp_path / "bad" / f"{tried}" / "result.json").parent.mkdir(parents=True)
                file.write_text(json.dumps({**bad, "seed": tried} if path != ("seed",) else bad))
                try:
                    read_row(file)
                except ValueError as error:
                    left_out += 1
                    assert str(error).startswith(f"{file}: expected a result row"), (path, name, error)
    assert tried > 1000 and left_out > tried / 2
    shutil.copytree(tmp_path / "good", tmp_path / "bad" / "good")
    report(tmp_path / "bad", tmp_path / "report", Console(file=(shown := io.StringIO()), width=200))
    assert sum(record.message.startswith("left out: ") for record in caplog.records) >= left_out
    assert "\x1b" not in shown.getvalue()
    assert any(line["task"] == "tmaze" and line["table"].startswith("Success") for line in cells(tmp_path / "report"))


@pytest.mark.slow
def test_ten_thousand_rows_take_seconds(tmp_path: Path) -> None:
    """A hundred tasks, ten settings, ten seeds."""
    text = row(tmp_path / "x").read_text().replace('"tmaze"', '"TASK"').replace('"default"', '"d=SETTING"')
    text = text.replace('"seed": 0', '"seed": SEED').replace('"d_model": 16', '"d_model": SETTING')
    for number in range(10_000):
        task, setting, seed = number // 100, number // 10 % 10, number % 10
        folder = tmp_path / "runs" / str(task) / str(setting) / str(seed)
        folder.mkdir(parents=True)
        here = text.replace("TASK", f"task{task}").replace("SETTING", str(setting)).replace("SEED", str(seed))
        (folder / "result.json").write_text(here)
    begin = time.process_time()
    report(tmp_path / "runs", tmp_path / "report", Console(file=io.StringIO(), width=200))
    assert time.process_time() - begin < 60  # seconds; it takes 15
    assert [line["seeds"] for line in cells(tmp_path / "report")] == ["10"] * 1000


def test_a_run_on_trajectories_alone_is_neither_a_row_nor_unfinished(tmp_path: Path) -> None:
    alone = tmp_path / "runs" / "alone"
    alone.mkdir(parents=True)
    for name in ("settings.json", "validation.json"):
        (alone / name).write_text("{}")
    with pytest.raises(ValueError, match=r"no result\.json below it; 1 runs on trajectories alone, each"):
        gather([tmp_path])
    row(tmp_path / "runs" / "acted")
    found = gather([tmp_path])
    assert (found.validated, found.unfinished, len(found.groups)) == ([alone], [], 1)
    assert any("on trajectories alone, judged by validation since nobody acted" in said for said in overview(found))
