"""The threads of a sweep's runs, and the folders that a report reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from joblib import cpu_count

from callbacks.command.arguments import expanded, folders
from callbacks.command.local import THREADS, Runs


@pytest.mark.parametrize("name", THREADS)
def test_one_variable_says_the_threads_of_every_library(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Torch asks MKL first: with OMP_NUM_THREADS=1 alone it had as many threads as there are cores."""
    for other in THREADS:
        monkeypatch.delenv(other, raising=False)
    assert Runs(1)._threads == str(cpu_count())
    monkeypatch.setenv(name, "3")
    assert Runs(1)._threads == "3"


def test_a_report_reads_several_folders(tmp_path: Path) -> None:
    assert folders("a:b/c") == [Path("a"), Path("b/c")]
    (tmp_path / "a:b").mkdir()
    assert folders(str(tmp_path / "a:b")) == [tmp_path / "a:b"]


def test_a_report_on_a_sweep_is_one_command() -> None:
    found = expanded(["stage=report", "-m", "sweep=popgym48"])
    assert found[:3] == ["stage=report", "sweep=popgym48", "hydra.mode=RUN"]
    assert found[3] == "hydra.run.dir=outputs/reports/popgym48"
