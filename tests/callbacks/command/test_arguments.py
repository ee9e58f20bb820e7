"""What is typed, as Hydra's own grammar then reads it: paths come through as they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from callbacks.command.arguments import expanded
from callbacks.errors import UsageError


def read(argument: str) -> object:
    """The value that Hydra takes from an argument."""
    return OverridesParser.create().parse_override(argument).value()


@pytest.mark.parametrize(
    "path", ["ck/epoch=1-step=6.ckpt", "José", "a (2)", "v=1", "it's", "a,b", "plain/best.ckpt", "{y}", "a b", "a\\b"]
)
@pytest.mark.parametrize("key", ["checkpoint", "source", "shards", "hydra.run.dir", "+resume"])
def test_a_path_is_what_was_typed(path: str, key: str) -> None:
    assert read(expanded([f"{key}={path}"])[0]) == path


def test_the_home_folder() -> None:
    assert read(expanded(["checkpoint=~/x.ckpt"])[0]) == os.path.expanduser("~/x.ckpt")


@pytest.mark.parametrize("argument", ["model.d_model=8", "shards=${oc.env:HOME}", "checkpoint=null", "--config-dir"])
def test_what_is_no_path_or_refers_to_another_stays(argument: str) -> None:
    assert expanded([argument]) == [argument]


def test_several_values_of_a_sweep_stay_several() -> None:
    assert expanded(["-m", "checkpoint=a=1.ckpt,b.ckpt"])[1] == "checkpoint='a=1.ckpt',b.ckpt"
    assert expanded(["-m", "source=glob(*)"])[1] == "source=glob(*)"


@pytest.mark.parametrize("spelling", ["resume=R", "+resume=R", "++resume=R", "resume='R'"])
def test_every_spelling_of_resume_goes_on_in_the_folder(spelling: str) -> None:
    assert expanded([spelling])[1:] == ["hydra.run.dir=R"]


@pytest.mark.parametrize("others", [["-m"], ["--multirun"], ["sweep=popgym48"], ["hydra.mode=MULTIRUN"]])
def test_several_runs_do_not_go_on_at_once(others: list[str]) -> None:
    with pytest.raises(UsageError, match="resume= goes on with one run"):
        expanded([*others, "++resume=R"])


def test_an_evaluation_has_a_folder_of_its_own_below_the_run(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints" / "best.ckpt"
    (tmp_path / "settings.json").touch()
    asked = ["stage=evaluate", f"checkpoint={checkpoint}", "env.lengths=[9]"]
    assert read(expanded(asked)[-1]) == f"{tmp_path}/evaluations/best+lengths=9"
    for place in ("task=tmaze_t30", "task=tmaze_t90", "env=retrieval"):
        assert read(expanded([*asked[:2], place])[-1]) == f"{tmp_path}/evaluations/best+{place}"
    assert expanded([*asked, "hydra.run.dir=x"])[-1] == "hydra.run.dir=x"
    elsewhere = read(expanded(["stage=evaluate", "checkpoint=alone/best.ckpt"])[-1])
    assert elsewhere == "outputs/alone/evaluations/best", "a checkpoint without its run"
