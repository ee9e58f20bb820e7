"""Folders in which a command may go on: a run's own, and none that holds more than it."""

from __future__ import annotations

from pathlib import Path

import pytest

from callbacks.command.resume import check_folder, check_folders
from callbacks.errors import UsageError
from tests.server import ROOT


@pytest.mark.parametrize("folder", [ROOT, ROOT.parent, Path("/")])
def test_a_folder_that_holds_this_project_is_no_place_for_a_run(folder: Path) -> None:
    with pytest.raises(UsageError, match=f"^hydra.run.dir={folder}: this folder holds more than a run; give another"):
        check_folders(["stage=doctor", f"hydra.run.dir={folder}"])


def test_a_folder_above_the_present_one_is_no_place_for_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here := tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(here)
    with pytest.raises(UsageError, match="holds more than a run"):
        check_folders(["hydra.run.dir=.."])
    check_folders(["hydra.run.dir=."])  # where there is nothing
    check_folders(["hydra.run.dir=../c"])


def test_nothing_is_to_be_deleted_in_a_folder_of_others(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/hostname")
    with pytest.raises(UsageError, match=f"found a link or a pipe; {tmp_path} is no run's, give another hydra.run.dir"):
        check_folder(tmp_path)
    (tmp_path / "settings.json").touch()
    with pytest.raises(UsageError, match="found a link or a pipe; delete it"):
        check_folder(tmp_path)
