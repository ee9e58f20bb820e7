"""kill -9 at exact moments of training and at random ones: the same command ends with the very same bits."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from tests.faults.killed import (
    SMALL,
    Faulty,
    differences,
    in_acting,
    in_row,
    in_training_step,
    in_write,
    kill,
    slower,
    wait_for,
)

pytestmark = pytest.mark.faults
TRIES = int(os.environ.get("ELMUR_TRIES", "1"))


MOMENTS = {
    "before the first checkpoint": in_training_step(1),
    "in the batch after a checkpoint": in_training_step(3),
    "between checkpoints": in_training_step(8),
    "at the end of an epoch": in_training_step(14),
    "in the first batch of an epoch": in_training_step(15),
    "in the second batch of an epoch": in_training_step(16),
    "in the last batch": in_training_step(19),
    "half of a checkpoint is written": in_write("next.ckpt", 3, "half"),
    "half of the first checkpoint is written": in_write("next.ckpt", 1, "half"),
    "a checkpoint is written and not yet named": in_write("next.ckpt", 3, "before"),
    "the new checkpoint is there beside the old": in_write("next.ckpt", 3, "after"),
    "the last one has become the previous": in_write("previous.ckpt", 2, "after"),
    "before the new one becomes the last": in_write("last.ckpt", 3, "before"),
    "a checkpoint is finished": in_write("last.ckpt", 3, "after"),
    "half of the best checkpoint is written": in_write("best.ckpt", 2, "half"),
    "the best checkpoint is finished, the last is not": in_write("best.ckpt", 2, "after"),
    "before a row of the log": in_row(9, torn=False),
    "in a row of the log": in_row(13, torn=True),
    "while the best checkpoint is chosen": in_acting(5, call=2),
    "in the report": in_acting(20, call=5),
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_an_exact_moment(runs: Faulty, straight: Path, moment: str, workers: int) -> None:
    if workers and list(MOMENTS).index(moment) % 2 and TRIES == 1:
        pytest.skip("every other moment with workers, for time")
    folder = runs.folder / f"{list(MOMENTS).index(moment)}-{workers}"
    command = (*SMALL, f"data.num_workers={workers}")
    assert runs.run(*command, to=folder, fault=MOMENTS[moment]) == -9, runs.said
    assert not (folder / "result.json").exists()
    assert runs.run(*command, to=folder) == 0, runs.said
    assert differences(straight, folder) == []
    assert not list((folder / "checkpoints").glob(".*")), "half-written files are swept"


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_again_and_again_at_random(runs: Faulty, straight: Path, workers: int) -> None:
    """Kills at random times, each after the one before, and resumed with `resume=FOLDER` in the end."""
    draw, folder, ended = random.Random(workers), runs.folder / f"random{workers}", []
    command = (*SMALL, f"data.num_workers={workers}")
    for _ in range(5 * TRIES):
        pid = runs.start(*command, to=folder, fault=slower(0.4))
        wait_for(folder / "settings.json")
        time.sleep(draw.uniform(0.2, 2.2))
        kill(pid)
        ended.append(runs.end())
    assert ended.count(-9) >= 3
    assert runs.run(f"resume={folder}") == 0, runs.said
    assert differences(straight, folder) == []


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(
    runs: Faulty, straight: Path, damage: str
) -> None:
    folder = runs.folder / damage
    assert runs.run(*SMALL, to=folder, fault=in_training_step(10)) == -9
    last = folder / "checkpoints" / "last.ckpt"
    good = last.read_bytes()
    half = len(good) // 2
    flipped = good[:half] + bytes([good[half] ^ 0xFF]) + good[half + 1 :]
    last.write_bytes({"truncated": good[:half], "flipped": flipped, "empty": b""}[damage])
    # Killed once more before there is a new one: the good one must not have been given up for the damaged one.
    assert runs.run(*SMALL, to=folder, fault=in_write("next.ckpt", 1, "half")) == -9
    assert str(last) in runs.said and "previous.ckpt" in runs.said, runs.said
    assert runs.run(*SMALL, to=folder) == 0, runs.said
    assert differences(straight, folder) == []


def test_resume_takes_no_other_settings(runs: Faulty, straight: Path) -> None:
    assert runs.run(f"resume={straight}", "model.dropout=0.5") == 1
    assert "takes its settings from that folder; leave model.dropout=0.5 out" in runs.said
    assert runs.run(f"resume={runs.folder}/nothing") == 1
    assert "there is no training run in that folder" in runs.said
    assert runs.run(f"resume={straight}") == 0 and "finished before" in runs.said
