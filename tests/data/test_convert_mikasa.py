"""The published MIKASA-Robo archive, in files of exactly its layout: what comes out, and what is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.bounds import clip
from data.convert import ConvertError
from data.index import build_index
from data.shard import Shard
from elmur.spec import Discrete, TaskSpec, Vector
from envs.mikasa import TASKS, length_of
from envs.mikasa.archive import PublishedEpisodes
from envs.mikasa.sim import MikasaError
from envs.rollout import Trajectory
from tests.data.converting import converted

TASK, STEPS = "RememberColor3-v0", 60
OUTSIDE = {0: [3, 7, 59], 1: [], 2: [0]}  # file -> steps at which the oracle's mean leaves the bounds


def arrays(number: int) -> dict[str, Any]:
    """One episode as it was published: the keys, shapes and types of the suite's own collector."""
    rng = np.random.default_rng(number)
    action = rng.uniform(-1, 1, (STEPS, 8)).astype(np.float32)
    for step in OUTSIDE.get(number, []):
        action[step, [1, 4]] = 1.7, -3.0
    return {
        "rgb": rng.integers(0, 256, (STEPS, 128, 128, 6), np.uint8),
        "joints": rng.normal(size=(STEPS, 25)).astype(np.float32),
        "action": action,
        "reward": rng.random(STEPS, np.float32),
        "success": (np.arange(STEPS) > 40).astype(np.int64),
        "done": (np.arange(STEPS) == STEPS - 1).astype(np.int64),
    }


def archive(folder: Path, count: int = 3) -> Path:
    folder.mkdir()
    for number in range(count):
        np.savez(folder / f"train_data_{number}.npz", **arrays(number))
    return folder


def change(folder: Path, number: int, **others: Any) -> None:
    given = {**arrays(number), **others}
    np.savez(folder / f"train_data_{number}.npz", **{key: value for key, value in given.items() if value is not None})


@pytest.mark.parametrize("joints", [False, True])
def test_pictures_and_actions_come_out_as_published(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, joints: bool
) -> None:
    source = archive(tmp_path / "archive")
    reader = PublishedEpisodes(TASK, joints=joints)
    paths = converted(reader, source, tmp_path / "out", shard_bytes=1)
    assert len(paths) == 3 and build_index(tmp_path / "out").lengths.tolist() == [STEPS] * 3
    number = 0
    for path in paths:
        with Shard(path) as shard:
            assert sorted(shard.spec.observation) == ["base_camera", "hand_camera", *["joints"] * joints]
            for begin in shard.offsets[:-1].tolist():
                published = arrays(number)
                for step in (0, 17, 59):  # pixel by pixel, without the transposition of the reader
                    for camera, first in (("base_camera", 0), ("hand_camera", 3)):
                        shown = shard.read(f"observation/{camera}", begin + step, begin + step + 1)[0]
                        assert all((shown[c] == published["rgb"][step, :, :, first + c]).all() for c in range(3))
                action = shard.read("action", begin, begin + STEPS)
                inside = [step for step in range(STEPS) if step not in OUTSIDE[number]]
                np.testing.assert_array_equal(action[inside], published["action"][inside])
                assert all(action[step, [1, 4]].tolist() == [1.0, -1.0] for step in OUTSIDE[number])
                np.testing.assert_array_equal(shard.read("reward", begin, begin + STEPS), published["reward"])
                assert shard.read("loss_mask", begin, begin + STEPS).all()
                number += 1
    counts = [Shard(path).attribute("provenance")["clipped_actions"] for path in paths]
    assert counts == [len(OUTSIDE[number]) for number in range(3)]
    assert "4 of 180 actions (2.2 %) lay outside the bounds and were clipped to them" in caplog.text


def test_every_bad_file_is_named_and_nothing_written(tmp_path: Path) -> None:
    source = archive(tmp_path / "archive", 13)
    good = arrays(0)
    whole = (source / "train_data_0.npz").read_bytes()
    (source / "train_data_0.npz").write_bytes(whole[: len(whole) // 2])
    change(source, 1, joints=None)
    change(source, 2, rgb=good["rgb"].transpose(0, 3, 1, 2))
    change(source, 3, rgb=good["rgb"] / np.float32(255))
    change(source, 4, action=good["action"][:, :7])
    change(source, 5, action=np.where(np.arange(STEPS)[:, None] == 9, np.inf, good["action"]))
    change(source, 6, reward=np.full(STEPS, np.nan))
    change(source, 7, success=np.array([{"a": 1}] * STEPS, object))  # a pickle inside
    change(source, 8, **{key: value[:40] for key, value in good.items()})
    change(source, 9, done=np.ones(STEPS, np.int64))
    flipped = bytearray((source / "train_data_10.npz").read_bytes())
    flipped[len(flipped) // 2] ^= 0xFF
    (source / "train_data_10.npz").write_bytes(flipped)
    with pytest.raises(ConvertError) as caught:
        converted(PublishedEpisodes(TASK), source, tmp_path / "out")
    said = str(caught.value)
    assert said.startswith(f"{source}: 11 of 13 episodes are bad: train_data_0.npz: not a whole npz file")
    for words in (
        "train_data_1.npz: no array joints; there are rgb", "train_data_2.npz: rgb: expected uint8 [60, 128, 128, 6]",
        "train_data_3.npz: rgb: expected uint8 [60, 128, 128, 6], found float32",
        "train_data_4.npz: action: expected float [60, 8], found float32 [60, 7]",
        "train_data_5.npz: action: found [inf", "train_data_6.npz: reward: expected finite",
        "train_data_7.npz: not a whole npz file of numbers", "train_data_8.npz: rgb: expected uint8 [60,",
        "train_data_9.npz: done: expected the end of the episode last, found it at step 0", "train_data_10.npz",
    ):  # fmt: skip
        assert words in said, words
    assert not list((tmp_path / "out").glob("*.h5"))
    (path,) = converted(PublishedEpisodes(TASK), source, tmp_path / "out", "skip")
    with Shard(path) as shard:
        assert len(shard.offsets) == 3 and len(shard.attribute("provenance")["left_out"]) == 11


def test_numbers_cannot_be_made_from_pictures() -> None:
    with pytest.raises(MikasaError, match=r"holds pictures, not observation=vector; add observation=rgb"):
        PublishedEpisodes(TASK, observation="vector")
    with pytest.raises(MikasaError, match="no task 'RememberColor4-v0'"):
        PublishedEpisodes("RememberColor4-v0")


def test_lengths_are_the_suites() -> None:
    lengths = [length_of(task) for task in TASKS]
    assert {n: lengths.count(n) for n in set(lengths)} == {60: 9, 90: 3 + 6 + 4, 120: 9, 180: 1}


def test_only_finite_actions_of_bounded_tasks_are_clipped() -> None:
    def episode(values: list[float]) -> Trajectory:
        action = np.array(values, np.float32)[:, None]
        nothing = np.zeros(len(values), np.float32)
        return Trajectory({}, action, nothing, False, True, nothing == 0)

    bounded = TaskSpec("bounded", {"x": Vector(1)}, Vector(1, (-1.0,), (2.0,)))
    found = episode([-1.5, -1.0, 2.0, 2.5, np.nan, np.inf])
    assert clip(bounded, [found]) == 2
    np.testing.assert_array_equal(found.action[:, 0], [-1.0, -1.0, 2.0, 2.0, np.nan, np.inf])
    free = episode([9.0])
    assert clip(TaskSpec("free", {"x": Vector(1)}, Vector(1)), [free]) == 0 and free.action[0, 0] == 9.0
    choice = Trajectory({}, np.array([5]), np.zeros(1, np.float32), False, True, np.ones(1, np.bool_))
    assert clip(TaskSpec("choice", {"x": Vector(1)}, Discrete((3,))), [choice]) == 0
