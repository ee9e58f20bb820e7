"""What makes a run another one, and what does not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from callbacks.command.identity import can_change, changed, essence, portable
from callbacks.command.resume import resumed
from callbacks.command.settings import SECTIONS, Settings
from callbacks.errors import UsageError

TREE: dict[str, Any] = {
    "seed": 0, "shards": "s", "logger": {"_target_": "x"}, "model": {"d_model": 8, "dropout": 0.1},
    "trainer": {"max_steps": 3, "devices": 1, "log_every_n_steps": 10}, "data": {"lanes": 4, "num_workers": 0},
    "callbacks": {"progress": {"_target_": "callbacks.progress.UpdateProgress"}, "best": {"_target_": "selection"}},
    "evaluation": {"video": 0, "num_episodes": 5}, "recipe": {"lr": 1.0},
}  # fmt: skip


def test_where_and_how_it_is_shown_does_not_count() -> None:
    assert essence(TREE) == {
        "seed": 0, "model.d_model": 8, "model.dropout": 0.1, "trainer.max_steps": 3, "data.lanes": 4,
        "callbacks.best._target_": "selection", "evaluation.num_episodes": 5,
    }  # fmt: skip


def test_a_key_that_was_not_known_then_and_has_its_default_is_equal() -> None:
    old, new = essence(TREE), essence(TREE) | {"trainer.gradient_clip_val": 1.0}
    assert changed(old, new, lambda: {"trainer": {"gradient_clip_val": 1.0}}) == {}
    found = changed(old, new, lambda: {"trainer": {"gradient_clip_val": None}})
    assert found == {"trainer.gradient_clip_val": "trainer.gradient_clip_val is None there, 1.0 here"}


def test_a_key_that_is_gone_is_a_difference() -> None:
    assert list(changed(essence(TREE) | {"callbacks.best.every": 3}, essence(TREE))) == ["callbacks.best.every"]


@pytest.mark.parametrize(
    ("key", "free"),
    [
        ("module.optimizer.lr", True), ("trainer.max_steps", True), ("model.dropout", True), ("code", True),
        ("model.memory.write.lru_blend_alpha", True), ("evaluation.num_episodes", True), ("data.lanes", False),
        ("model.d_model", False), ("seed", False), ("data.seed", False), ("module.context_length", False),
        ("env.id", False), ("module.optimizer.decay_all", False),
    ],
)  # fmt: skip
def test_only_what_can_act_in_the_middle_of_a_run_may_be_allowed(key: str, free: bool) -> None:
    assert can_change(key) == free


def test_only_paths_are_kept_as_names_of_places() -> None:
    """A folder of shards that is called as the env is does not take the env's name with it."""
    sections: dict[str, Any] = {name: {} for name in SECTIONS}
    sections |= {"env": {"id": "tmaze", "name": "tmaze"}, "data": {"root": "tmaze/tmaze-T30"}}
    settings = Settings(stage="train", seed=0, run_dir="out", shards="tmaze", model_name="gru", **sections)
    kept = portable(settings)
    assert kept["env"] == {"id": "tmaze", "name": "tmaze"} and kept["data"]["root"] == "${shards}/tmaze-T30"
    assert kept["shards"] == "tmaze" and "run_dir" not in kept


def test_a_run_goes_on_where_it_is(tmp_path: Any) -> None:
    with pytest.raises(UsageError, match="a run goes on in its own folder"):
        resumed({"resume": str(tmp_path), "run_dir": str(tmp_path / "elsewhere")}, [])


@pytest.mark.parametrize("path", ["/etc", "${run_dir}/../up", "${shards}x", "logs"])
def test_a_settings_file_names_no_path_outside_the_run(tmp_path: Any, path: str) -> None:
    settings = {**{key: {} for key in SECTIONS}, "shards": "s", "callbacks": {"m": {"folder": path}}}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(UsageError, match=r"callbacks.m.folder: expected a path in .*run_dir.* found"):
        resumed({"resume": str(tmp_path), "run_dir": str(tmp_path), "shards": "s"}, ["resume=x"])
