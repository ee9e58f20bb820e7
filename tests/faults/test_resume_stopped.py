"""kill -9 around the moment at which early stopping ends a training: the same command ends with the very same bits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.killed import SMALL, Faulty, differences, in_acting, in_training_step, in_write, metrics

pytestmark = pytest.mark.faults
EPOCH = 5  # updates: one episode a lane, of 30 steps, in windows of 6
# A loss that is to fall by 10 at each look: the first epoch improves on nothing, the second does not improve.
STOPPED = (
    *SMALL, "collect.num_episodes=8", "data.backprop_segments=3",
    "callbacks.resume.every_n_updates=5", "callbacks.selection.every_n_updates=4",
    "+callbacks.early={_target_:early_stopping,monitor:train/loss,patience:2,min_delta:10}",
)  # fmt: skip
MOMENTS = {  # a rename counts twice
    "after the first look": in_training_step(EPOCH),
    "the checkpoint of an epoch's last update is there, nobody has looked": in_write("last.ckpt", 1, "after"),
    "the checkpoint of the last update is there, nobody has looked": in_write("last.ckpt", 5, "after"),
    "training has ended, its end is saved": in_write("last.ckpt", 7, "after"),
    "in the last choice": in_acting(3, call=4),
    "in the report": in_acting(20, call=5),
}


@pytest.fixture(scope="module")
def stopped(runs: Faulty) -> Path:
    folder = runs.folder / "stopped"
    assert runs.run(*STOPPED, to=folder) == 0, runs.said
    assert {row["epoch"] for row in metrics(folder)} == {"0", "1", "2"}
    assert metrics(folder)[-1]["update"] == str(3 * EPOCH), "one look that improves, and two that do not"
    return folder


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_an_exact_moment(runs: Faulty, stopped: Path, moment: str) -> None:
    folder = runs.folder / str(list(MOMENTS).index(moment))
    assert runs.run(*STOPPED, to=folder, fault=MOMENTS[moment]) == -9, runs.said
    assert not (folder / "result.json").exists()
    assert runs.run(*STOPPED, to=folder) == 0, runs.said
    found = [each for each in differences(stopped, folder) if ".stopped_epoch" not in each]
    assert found == [], "but for the epochs, of which Lightning counts one more after the end of one"
