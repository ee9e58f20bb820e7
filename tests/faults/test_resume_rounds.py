"""kill -9 inside rounds of labelling, between them and around them: the same command ends with the very same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data.shard import Shard
from tests.faults.killed import SMALL, Faulty, differences, in_acting, in_training_step, in_write

pytestmark = pytest.mark.faults
# Ten updates, a round, five, a round, five. Checkpoints every third update, a choice of the best every sixth.
ROUNDS = (
    *SMALL, "collect.shard_episodes=5", "rounds=aggregate", "rounds.number=2", "rounds.updates=5", "rounds.episodes=12",
    "rounds.expert_share=0.5",
)  # fmt: skip
MOMENTS = {
    "in the last batch before a round": in_training_step(9),
    "while the checkpoint before a round is written": in_write("next.ckpt", 4, "half"),
    "a checkpoint is finished, the round has not begun": in_write("last.ckpt", 4, "after"),
    "before a shard of the first round": in_write("shard-00001.h5", 1, "before"),
    "after a shard of the first round": in_write("shard-00001.h5", 1, "after"),
    "the first round is labelled, nothing is trained": in_training_step(10),
    "in the first round's updates, before a checkpoint": in_training_step(11),
    "in the first round's updates": in_training_step(13),
    "in the second round": in_write("shard-00002.h5", 2, "before"),
    "the second round is labelled, nothing is trained": in_training_step(15),
    "in the second round's updates": in_training_step(17),
    "while the best checkpoint is chosen after a round": in_acting(3, call=2),
    "in the report": in_acting(20, call=5),
}


@pytest.fixture(scope="module")
def rounds(runs: Faulty) -> Path:
    folder = runs.folder / "straight"
    assert runs.run(*ROUNDS, to=folder) == 0, runs.said
    return folder


def arrays(folder: Path) -> dict[str, Any]:
    """What the shards of all rounds hold."""
    found: dict[str, Any] = {}
    for path in sorted((folder / "rounds").rglob("*.h5")):
        with Shard(path) as shard:
            rows = int(shard.offsets[-1])
            name = f"{path.parent.name}/{path.name}"
            found |= {f"{name} {key}": shard.read(key, 0, rows).tolist() for key in shard.columns}
    return found


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_an_exact_moment(runs: Faulty, rounds: Path, moment: str) -> None:
    folder = runs.folder / str(list(MOMENTS).index(moment))
    assert runs.run(*ROUNDS, to=folder, fault=MOMENTS[moment]) == -9, runs.said
    assert not (folder / "result.json").exists()
    assert runs.run(*ROUNDS, to=folder) == 0, runs.said
    assert differences(rounds, folder) == []
    assert arrays(folder) == arrays(rounds) and len({name.split()[0] for name in arrays(rounds)}) == 6


def test_resume_by_its_folder(runs: Faulty, rounds: Path) -> None:
    folder = runs.folder / "by-folder"
    assert runs.run(*ROUNDS, to=folder, fault=in_write("shard-00001.h5", 1, "after")) == -9, runs.said
    assert runs.run(f"resume={folder}") == 0, runs.said
    assert differences(rounds, folder) == []
