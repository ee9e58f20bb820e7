"""One folder of shards and several hands: two collections at once, files put in, replaced, or not to be written."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.faults.killed import SMALL, Faulty, differences

pytestmark = pytest.mark.faults
SHARDS = ("collect.shard_episodes=20",)  # three of them

# What another process does between the collection and the index.
BEFORE_INDEXING = """
import data.datamodule as datamodule, data.dataset, os, shutil, subprocess, sys
from pathlib import Path
real = datamodule.build_index
def build_index(root, **options):
    before(root)
    found = real(root, **options)
    after(root)
    return found
before = after = lambda root: None
datamodule.build_index = build_index
"""


def folder_of(runs: Faulty, place: str) -> Path:
    (found,) = (runs.folder / place).iterdir()
    return found


def test_a_larger_collection_started_at_the_same_time(runs: Faulty) -> None:
    """It adds its shards when the smaller one has collected, and has not yet looked for what it collected."""
    alone = runs.folder / "alone"
    assert runs.run(*SMALL, *SHARDS, f"shards={runs.folder}/one", to=alone) == 0, runs.said
    larger = [*SMALL, *SHARDS, "collect.num_episodes=120", f"shards={runs.folder}/two", "stage=collect"]
    fault = f"""{BEFORE_INDEXING}
def before(root):
    command = [sys.executable, "run.py", *{larger!r}, "hydra.run.dir={runs.folder}/collect"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert len(list(root.glob("*.h5"))) == 6
"""
    beside = runs.folder / "beside"
    assert runs.run(*SMALL, *SHARDS, f"shards={runs.folder}/two", to=beside, fault=fault) == 0, runs.said
    assert differences(alone, beside) == []
    assert runs.run(*SMALL, *SHARDS, f"shards={runs.folder}/two", to=runs.folder / "later") == 0, runs.said
    assert differences(alone, runs.folder / "later") == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_is_replaced_before_it_is_read(runs: Faulty, workers: int) -> None:
    assert runs.run(*SMALL, *SHARDS, f"shards={runs.folder}/other", "stage=collect", "collect.noise=0.5") == 0, (
        runs.said
    )
    other = folder_of(runs, "other") / "shard-00001.h5"
    fault = f"""{BEFORE_INDEXING}
def after(root):
    shutil.copy({str(other)!r}, root / "new")
    os.replace(root / "new", root / "shard-00001.h5")
"""
    command = (*SMALL, *SHARDS, f"shards={runs.folder}/replaced-{workers}", f"data.num_workers={workers}")
    assert runs.run(*command, to=runs.folder / f"replaced-run-{workers}", fault=fault) == 1, runs.said
    assert "shard-00001.h5, provenance: found other episodes than before" in runs.said
    assert "give the command again" in runs.said and "Traceback" not in runs.said
    assert runs.run(*command, to=runs.folder / f"replaced-run-{workers}") == 1, "it is of another collection, too"
    assert "shard-00001.h5, provenance: found a shard of another collection (noise was 0.5, here 0.0)" in runs.said


def test_shards_that_are_copied_into_a_collection(runs: Faulty) -> None:
    command = (*SMALL, *SHARDS, f"shards={runs.folder}/mixed")
    assert runs.run(*command, "stage=collect") == 0, runs.said
    folder = folder_of(runs, "mixed")
    shutil.copy(folder / "shard-00000.h5", folder / "shard-00007.h5")
    assert runs.run(*command, to=runs.folder / "mixed-run") == 1
    assert "1 shards that are not of its collection (shard-00007.h5)" in runs.said and "Traceback" not in runs.said
    (folder / "shard-00007.h5").replace(folder / "shard-00002.h5")  # under a name that the collection knows
    assert runs.run(*command, to=runs.folder / "mixed-run") == 1
    assert "shard-00002.h5, provenance: found the episodes from 0, those from 40 belong there" in runs.said


def test_a_complete_folder_that_is_read_only(runs: Faulty, straight: Path) -> None:
    """As data on a cluster's shared disk are; a file system of one's own, for root may write everywhere."""
    source, target = runs.folder / "shards", runs.folder / "read-only"
    target.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", target], capture_output=True).returncode:
        pytest.skip("may not mount a file system here")
    try:
        shutil.copytree(source, target, dirs_exist_ok=True)
        for lock in target.rglob(".collecting"):
            lock.unlink()
        subprocess.run(["mount", "-o", "remount,ro", target], check=True)
        assert runs.run(*SMALL, f"shards={target}", to=runs.folder / "from-read-only") == 0, runs.said
        assert differences(straight, runs.folder / "from-read-only") == []
        assert runs.run(*SMALL, "collect.num_episodes=90", f"shards={target}", to=runs.folder / "more") == 1
        assert "Traceback" not in runs.said and str(target) in runs.said
        subprocess.run(["mount", "-o", "remount,rw", target], check=True)
        for record in target.rglob("collection.json"):
            record.unlink()  # shards from elsewhere
        subprocess.run(["mount", "-o", "remount,ro", target], check=True)
        assert runs.run(*SMALL, f"shards={target}", to=runs.folder / "from-elsewhere") == 0, runs.said
        assert differences(straight, runs.folder / "from-elsewhere") == []
    finally:
        subprocess.run(["umount", "--lazy", target], check=True)


def test_validation_that_would_not_be_is_said(runs: Faulty) -> None:
    assert runs.run(*SMALL, "data.validation_fraction=0.005", to=runs.folder / "none") == 1
    assert "validation_fraction=0.005 of the 60 episodes" in runs.said and "use 0.017 or more" in runs.said
    short = (*SMALL, "data.validation_fraction=0.2", "trainer.max_steps=3")
    assert runs.run(*short, to=runs.folder / "short") == 0, runs.said
    assert "no validation: training ends after 3 updates" in runs.said
    assert runs.run(*short, "+trainer.val_check_interval=3", to=runs.folder / "early") == 0, runs.said
    assert "no validation" not in runs.said
    assert "validation/loss" in (runs.folder / "early" / "logs" / "metrics.csv").read_text().splitlines()[0]
    assert os.path.exists(runs.folder / "early" / "result.json")
