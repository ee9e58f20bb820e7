"""The real command line: runs whose training is over before its updates, or that go on after it was."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.command import DEEP, TINY, CommandLine

BARE = tuple(argument for argument in TINY if not argument.startswith("callbacks."))
EARLY = "+callbacks.early={_target_:early_stopping,patience:%d,monitor:%s}"


def row_of(folder: Path, name: str = "result.json") -> dict[str, Any]:
    row: dict[str, Any] = json.loads((folder / name).read_text())
    return row


@pytest.mark.parametrize("target", ["early_stopping", "lightning.pytorch.callbacks.EarlyStopping"])
def test_a_run_that_was_ended_early_is_judged_though_it_was_interrupted(cli: CommandLine, target: str) -> None:
    """Of 8 episodes an epoch is an update with a window of whole episodes; a loss does not fall by 1000."""
    early = EARLY.replace("early_stopping", target).replace("}", ",min_delta:1000}")
    asked = (*TINY, *DEEP, "collect.num_episodes=8", "data.backprop_segments=20", "trainer.max_steps=9")
    folder = cli.folder / target
    done = cli.run(*asked, early % (2, "train/loss"), to=folder)
    assert done.code == 0 and row_of(folder)["updates"] == 3, done.stderr
    before = row_of(folder)["outcomes"]
    (folder / "result.json").unlink()
    assert cli.run(*asked, early % (2, "train/loss"), to=folder).code == 0
    assert row_of(folder)["updates"] == 3 and row_of(folder)["outcomes"].keys() == before.keys()
    more = ("allow_mismatch=[callbacks.early.patience]", early % (4, "train/loss"))
    assert cli.run(*asked, *more, to=folder).code == 0
    assert row_of(folder)["updates"] == 5, "with more patience it goes on"


def test_a_score_of_selection_can_end_a_run(cli: CommandLine) -> None:
    """Chosen every third update; success is 1 at the most, and does not rise by 2."""
    asked = (*TINY, *DEEP, "collect.num_episodes=8", "data.backprop_segments=20", "trainer.max_steps=20")
    early = (EARLY % (2, "eval/success")).replace("}", ",mode:max,min_delta:2}")
    done = cli.run(*asked, early, to=(folder := cli.folder / "score"))
    assert done.code == 0, done.stderr
    assert row_of(folder)["updates"] == 9, "one score that is the first, and two that are no better"
    with (folder / "logs" / "metrics.csv").open() as file:
        assert [line["update"] for line in csv.DictReader(file) if line["eval/success"]] == ["3", "6", "9"]
    done = cli.run(*asked, EARLY % (2, "eval/sucess"), to=cli.folder / "misspelt")
    assert done.code == 1 and "eval/sucess` which is not available" in done.stderr


def test_a_finished_run_that_is_judged_otherwise_says_so(cli: CommandLine) -> None:
    folder = cli.folder / "otherwise"
    assert cli.run(*TINY, *DEEP, to=folder).code == 0
    other = (*TINY, *DEEP, "evaluation.num_episodes=7")
    assert cli.run(*other, "allow_mismatch=[evaluation.num_episodes]", to=folder).code == 0
    settings = json.loads((folder / "settings.json").read_text())
    episodes = [row_of(folder, name)["outcomes"]["T=9"]["episodes"] for name in ("result.json", "previous-result.json")]
    assert episodes == [7, 6] and settings["evaluation"]["num_episodes"] == 7
    done = cli.run(*TINY, *DEEP, to=folder)
    assert done.code == 1 and "evaluation.num_episodes is 7 there, 6 here" in done.stderr
    assert "finished before" in cli.run(*other, to=folder).stdout


def test_without_a_choice_what_was_trained_last_is_judged(cli: CommandLine) -> None:
    """A best checkpoint of before is kept, and not used."""
    folder = cli.folder / "chosen"
    assert cli.run(*TINY, *DEEP, to=folder).code == 0
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    asked = (*BARE, *DEEP, "callbacks=last", "trainer.max_steps=8")
    done = cli.run(*asked, "allow_mismatch=[callbacks,trainer.max_steps,module.schedule]", to=folder)
    assert done.code == 0, done.stderr
    assert row_of(folder)["updates"] == 8 and row_of(folder)["checkpoint"].endswith("last.ckpt")
    kept = torch.load(folder / "checkpoints" / "previous-best.ckpt", weights_only=True)
    assert kept["global_step"] == best["global_step"] <= 6
    assert not (folder / "checkpoints" / "best.ckpt").exists()
    again = ("stage=evaluate", f"checkpoint={folder}", "env.lengths=[9]", "evaluation.num_episodes=4")
    assert cli.run(*again, to=cli.folder / "again").code == 0
    assert row_of(cli.folder / "again")["updates"] == 8


def test_the_last_weights_are_saved_after_rounds_too(cli: CommandLine) -> None:
    """Without the callback that does; those of the part before the round are there already."""
    asked = (*BARE, *DEEP, "callbacks=last", "~callbacks.resume", "rounds=aggregate", "rounds.number=1")
    folder = cli.folder / "rounds"
    done = cli.run(*asked, "rounds.episodes=8", "trainer.max_steps=4", to=folder)
    assert done.code == 0 and row_of(folder)["updates"] == 4, done.stderr
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4


def test_a_video_of_what_was_judged_before(cli: CommandLine) -> None:
    """Once, for a run and for an evaluation of it."""
    pytest.importorskip("pygame", reason="needs what draws the cards")
    asked = ("env=gym", "env.id=Blackjack-v1", "collect.mixture=1.0", "debug=quick", "model.d_model=16")
    of_it = (*asked[:2], "stage=evaluate", f"checkpoint={cli.folder / 'played'}", "evaluation.num_episodes=2")
    for command, folder in ((asked, cli.folder / "played"), (of_it, cli.folder / "acted")):
        done = cli.run(*command, to=folder)
        assert done.code == 0 and not list(folder.glob("video.*")), done.stderr
        row = (folder / "result.json").read_bytes()
        done = cli.run(*command, "evaluation.video=1", to=folder)
        assert done.code == 0, done.stderr
        (video,) = folder.glob("video.*")
        made = video.stat().st_mtime_ns
        assert (
            f"filmed before; delete {video} to film again" in cli.run(*command, "evaluation.video=1", to=folder).stdout
        )
        assert video.stat().st_mtime_ns == made and (folder / "result.json").read_bytes() == row
