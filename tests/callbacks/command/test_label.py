"""Names of run folders: what was set in few words, one name for one setting, another for another."""

from __future__ import annotations

from typing import Any

import pytest

from callbacks.command.label import LONGEST, folder_name, run_label, search_name, what_was_set

CONFIG: dict[str, Any] = {
    "model": {"d_model": 64, "dropout": 0.1},
    "module": {"optimizer": {"lr": 1e-3}, "schedule": {"warmup": 0.1}},
    "callbacks": {"selection": {"_target_": "callbacks.selection.RolloutSelection", "every": 3},
                  "resume": {"_target_": "callbacks.checkpoint.ResumePoint", "every": 3}},
    "recipe": {"lr": 1e-3}, "data": {"num_workers": 0, "lanes": 8}, "trainer": {"devices": 1}, "env": {"lengths": [9]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], "default"),
        (["seed=3", "model=gru", "task=x", "shards=/a", "hydra/launcher=local", "hydra.run.dir=x"], "default"),
        (["logger=wandb", "trainer.devices=2", "data.num_workers=4", "evaluation.video=3", "stage=train"], "default"),
        (["callbacks.resume.every=9"], "default"),
        (["model.d_model=128"], "d_model=128"),
        (["+model.d_model=128"], "d_model=128"),
        (["module.optimizer.lr=0.001"], "optimizer.lr=1e-3"),
        (["recipe.lr=1e-3"], "recipe.lr=1e-3"),
        (["model.dropout=0.10"], "dropout=0.1"),
        (["model.d_model=128", "data.lanes=4"], "d_model=128+lanes=4"),
        (["data.lanes=4", "model.d_model=128"], "d_model=128+lanes=4"),
        (["model/position=rope"], "position=rope"),
        (["env.lengths=[9, 30]"], "lengths=9,30"),
        (["~callbacks.selection"], "no_selection"),
        (["callbacks.selection.every=9"], "selection.every=9"),
    ],
)
def test_what_was_set_in_few_words(overrides: list[str], expected: str) -> None:
    assert run_label(overrides, CONFIG) == expected


def test_what_is_long_or_odd_is_cut_readably_and_stays_one_of_its_own() -> None:
    names = [folder_name(text) for text in ("a/b", "a b", "a_b", "x" * 90, "x" * 91)]
    assert len(set(names)) == 5 and names[2] == "a_b"
    assert names[0].startswith("a_b~") and names[3].startswith("xxxx") and all(len(name) <= LONGEST for name in names)


def test_a_title_says_all_that_a_folder_has_no_room_for() -> None:
    typed = [f"model.{letter * 20}={number}" for number, letter in enumerate("abcdef")]
    whole = "+".join(f"{letter * 20}={number}" for number, letter in enumerate("abcdef"))
    assert what_was_set(typed, CONFIG) == whole
    assert run_label(typed, CONFIG) == folder_name(whole) and len(folder_name(whole)) <= LONGEST < len(whole)


@pytest.mark.parametrize(
    ("typed", "shown"),
    [("1e-5", "1e-5"), ("0.00001", "1e-5"), ("0.5", "0.5"), ("2.0", "2"), ("1e3", "1e3"), ("'x'", "x"), ("8", "8")],
)
def test_a_number_has_one_spelling(typed: str, shown: str) -> None:
    assert run_label([f"model.dropout={typed}"], CONFIG) == f"dropout={shown}"


def test_a_search_is_named_by_all_that_was_typed() -> None:
    asked = ["task=tmaze_t90", "module.optimizer.lr=interval(1e-4,1e-2)", "seed=1"]
    name = search_name(asked)
    assert search_name(["hydra/sweeper=optuna", *reversed(asked), "hydra.sweeper.n_trials=9"]) == name
    keys = ("task=tmaze_t30", "env=retrieval", "model=gru", "sweep=all", "seed=2", "shards=other", "~callbacks.memory")
    others = {search_name([*asked[1:], key]) for key in keys}
    assert len({name, *others, search_name(asked[:2])}) == len(keys) + 2


def test_what_another_stage_reads_or_a_logger_has_renames_no_folder() -> None:
    """A finished run is found by its name, whatever sections come to the configuration later."""
    later = {"inspect": {"d_model": 1}, "export": {"dropout": 1}, "logger": {"wandb": {"dropout": 2}}}
    for typed, name in {"model.d_model=128": "d_model=128", "model.dropout=0.2": "dropout=0.2"}.items():
        assert run_label([typed], {**CONFIG, **later}) == run_label([typed], CONFIG) == name
