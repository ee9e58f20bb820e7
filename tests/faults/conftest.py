"""Commands that are killed, and the run that nothing happens to: what it left is what every other one must leave."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.killed import SMALL, Faulty, faulty


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    with faulty(tmp_path_factory.mktemp("runs")) as commands:
        yield commands


@pytest.fixture(scope="module")
def straight(runs: Faulty) -> Path:
    folder = runs.folder / "straight"
    assert runs.run(*SMALL, to=folder) == 0, runs.said
    return folder
