"""What is found of a half-done evaluation is used as it was kept, and not at all where it is anything else."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.evaluation.halfway import Halfway
from envs.rollout import KEPT, Episode

PLAYED = [Episode(3, 9, 1.0, {"success": True}), Episode(4, 7, -0.5, {"success": False}, error="it crashed")]


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The file of an evaluation of which one wave was played."""
    halfway = Halfway(path := tmp_path / "evaluation-0.partial", "this one")
    assert halfway.wave("T=9", 0, lambda: PLAYED, exact=False) == PLAYED
    return path


def never() -> list[Episode]:
    raise AssertionError("it was played before")


def test_a_wave_that_was_played_is_not_played_again(kept: Path) -> None:
    assert Halfway(kept, "this one").wave("T=9", 0, never, exact=False) == PLAYED
    assert Halfway(kept, "another").wave("T=9", 0, lambda: PLAYED[:1], exact=False) == PLAYED[:1]


def test_a_full_disk_names_the_file(kept: Path) -> None:
    """The limit on the size of a file stands for the disk."""
    before, limits = kept.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        with pytest.raises(OSError, match=f"could not write {kept}: File too large"):
            Halfway(kept, "another").wave("T=9", 0, lambda: PLAYED * 10_000, exact=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert kept.read_bytes() == before


def test_a_wave_that_was_lost_whole_is_played_again(kept: Path) -> None:
    """An evaluation that ended because nothing could be played is repeated by the same command."""
    lost = [Episode(5, 0, 0.0, {}, error="no display")]
    halfway = Halfway(kept, "this one")
    assert halfway.wave("T=9", 1, lambda: lost, exact=False) == lost
    halfway.wave("T=9", 2, lambda: PLAYED, exact=False)
    halfway = Halfway(kept, "this one")
    assert halfway.wave("T=9", 1, lambda: PLAYED[:1], exact=False) == PLAYED[:1]
    assert halfway.wave("T=9", 0, never, exact=False) == halfway.wave("T=9", 2, never, exact=False) == PLAYED


def test_what_another_process_has_played_is_on_disk_before_its_file_is_gone(kept: Path) -> None:
    """Half a wave and a whole one: of both, one copy is there at any time."""
    state = {name: torch.zeros(2) for name in (*KEPT, "observation", "policy", "env")} | {"count": 7}
    half: dict[str, Any] = {"played": {}, "wave": {"key": "T=9#1", "state": state}}
    whole: dict[str, Any] = {"played": {"T=9#2": []}, "wave": None}
    for number, content in enumerate([half, whole]):
        theirs = kept.with_name(f"evaluation-0-{number}.partial")
        torch.save({"identity": "this one", "spent": {"T=9": 0.5}, **content}, theirs)
        before = Halfway(kept, "this one")
        before.join(before.apart(number))
        assert not theirs.exists()
    found = torch.load(kept, weights_only=True)
    assert found["wave"]["key"] == "T=9#1" and found["wave"]["state"]["count"] == 7
    assert set(found["played"]) == {"T=9#0", "T=9#2"} and found["spent"]["T=9"] >= 1.0


WRONG: dict[str, Callable[[dict[str, Any]], object]] = {
    "no waves": lambda found: found.pop("played"),
    "no dictionary": lambda found: found.update(played=[1]),
    "no episodes": lambda found: found["played"].update({"T=9#0": 5}),
    "an unknown part": lambda found: found["played"]["T=9#0"][0].update(x=1),
    "a part lost": lambda found: found["played"]["T=9#0"][0].pop("length"),
    "a text for a number": lambda found: found["played"]["T=9#0"][0].update(episode_return="much"),
    "a text for a metric": lambda found: found["played"]["T=9#0"][0]["metrics"].update(success="yes"),
    "a number for a reason": lambda found: found["played"]["T=9#0"][1].update(error=7),
    "steps": lambda found: found["played"]["T=9#0"][0].update(steps=[1]),
    "no seconds": lambda found: found.update(spent=None),
    "a wave without state": lambda found: found.update(wave={"key": "T=9#1"}),
    "a state of another kind": lambda found: found.update(wave={"key": "T=9#1", "state": {"count": 3}}),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_half_done_evaluation_is_named_and_begun_anew(
    kept: Path, caplog: pytest.LogCaptureFixture, wrong: str
) -> None:
    found = torch.load(kept, weights_only=True)
    WRONG[wrong](found)
    torch.save(found, kept)
    assert Halfway(kept, "this one").wave("T=9", 0, lambda: PLAYED[:1], exact=False) == PLAYED[:1]
    assert f"{kept}: expected a half-done evaluation, found another content" in caplog.text
