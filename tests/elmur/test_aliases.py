"""What files name by the words of before, in the words of today."""

from __future__ import annotations

from typing import Any

import pytest

from elmur.aliases import current, renamed
from elmur.build import build
from elmur.registry import MODELS

LRU, ALL = "elmur.memory.LRU", "elmur.memory.ReplaceAll"
QUIRKS = "elmur.published.quirks"


@pytest.mark.parametrize(
    ("before", "today"),
    [
        ("elmur.steps.Chronological", "elmur.clock.Chronological"),
        ("elmur.steps.Mirrored", f"{QUIRKS}.Mirrored"),  # moved twice
        ("elmur.clock.Mirrored", f"{QUIRKS}.Mirrored"),
        ("elmur.positional.PublishedRelative", f"{QUIRKS}.PublishedRelative"),
        ("elmur.positional.Relative", "elmur.positional.Relative"),
        ("ELMUR", "ELMUR"),
    ],
)
def test_a_name_is_followed_to_where_it_is(before: str, today: str) -> None:
    assert current(before) == today


def test_a_model_is_called_by_its_registered_name() -> None:
    assert MODELS.short_name("elmur.baselines.recurrent.GRU", "model") == "gru"
    assert MODELS.short_name("elmur.steps.Mirrored", "step rule") == "mirrored", "by a path of before too"
    assert MODELS.short_name("mypkg.nets.Mine", "model") == "mypkg.nets.Mine"


@pytest.mark.parametrize(
    ("before", "today"),
    [
        ({"_target_": LRU, "replace_empty": True, "all_candidates": False, "slots_per_write": 2}, LRU),
        ({"_target_": LRU, "replace_empty": False, "all_candidates": True, "slots_per_write": 2}, "PublishedLRU"),
        ({"_target_": LRU, "replace_empty": False, "slots_per_write": 2}, "PublishedLRU"),
        ({"_target_": LRU, "all_candidates": True, "slots_per_write": 2}, LRU),
        ({"_target_": ALL, "stamp": True}, ALL),
        ({"_target_": ALL, "stamp": False}, "PublishedReplaceAll"),
        ({"_target_": "elmur.optim.adamw", "_partial_": True, "decay_all": False}, "elmur.optim.adamw"),
        ({"_target_": "elmur.optim.adamw", "_partial_": True, "decay_all": True}, "adamw_on_all"),
    ],
    ids=str,
)
def test_a_flag_that_is_gone_chooses_what_it_switched_to(before: dict[str, Any], today: str) -> None:
    given = {"memory": [{"write": dict(before)}]}
    node = renamed(given)["memory"][0]["write"]
    assert node["_target_"] == (today if "." in today else f"{QUIRKS}.{today}")
    assert node.get("slots_per_write") == before.get("slots_per_write")
    assert type(build(node)) is not dict, "its keys are known to it"
    assert given == {"memory": [{"write": before}]}, "what was given is as it was"
