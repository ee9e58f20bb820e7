"""The published POPGym archive, in files of exactly its layout: what comes out, and what is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("popgym", reason="needs POPGym: pip install -e '.[popgym]'")

from data.collect import collect
from data.convert import ConvertError
from data.index import build_index
from data.readers import ReadError
from data.shard import Shard
from envs.experts.popgym import expert_for
from envs.observers import Noise, Recorder
from envs.popgym import make_vector
from envs.popgym.archive import PublishedEpisodes
from envs.rollout import rollout
from tests.data.converting import converted

# One task for every kind of space; the shape of one observation and of one action in the archive.
KINDS = {
    "popgym-AutoencodeEasy-v0": ((2,), ()),
    "popgym-RepeatFirstEasy-v0": ((1,), ()),
    "popgym-BattleshipEasy-v0": ((1,), (2,)),
    "popgym-PositionOnlyPendulumHard-v0": ((1, 2), (1,)),
    "popgym-PositionOnlyCartPoleEasy-v0": ((1, 2), ()),
}


def archive(folder: Path, task: str, count: int = 3) -> list[Any]:
    """Files as the publication wrote them, of episodes that our adapter shows; gives those episodes."""
    folder.mkdir(parents=True, exist_ok=True)
    env = make_vector(count, task)
    episodes = [
        e.steps for e in rollout(env, expert_for(task), list(range(count)), observers=[Recorder()], max_steps=300)
    ]
    seen, done = KINDS[task]
    for number, steps in enumerate(episodes):
        assert steps is not None
        length, action = len(steps.reward), steps.action
        if done == (2,):
            action = np.stack(np.divmod(action, 8), axis=1)
        np.savez(
            folder / f"train_data_{number}.npz",
            obs=steps.observation["observation"].reshape(length, *seen), action=action.reshape(length, *done),
            reward=steps.reward, done=np.arange(length) == length - 1,
        )  # fmt: skip
    return episodes


@pytest.mark.parametrize("task", KINDS)
def test_what_comes_out_is_what_the_adapter_shows(tmp_path: Path, task: str) -> None:
    episodes = archive(tmp_path / task, task)
    paths = converted(PublishedEpisodes(task), tmp_path / task, tmp_path / "out", shard_bytes=1)
    assert len(paths) == 3 and build_index(tmp_path / "out").lengths.tolist() == [len(e.reward) for e in episodes]
    number = 0
    for path in paths:
        with Shard(path) as shard:
            assert shard.attribute("provenance")["versions"]["popgym"] == "1.0.6"
            for begin, end in zip(shard.offsets[:-1].tolist(), shard.offsets[1:].tolist(), strict=True):
                steps = episodes[number]
                for part, values in steps.observation.items():
                    np.testing.assert_array_equal(shard.read(f"observation/{part}", begin, end), values, part)
                for key in ("action", "reward", "loss_mask"):
                    np.testing.assert_array_equal(shard.read(key, begin, end), getattr(steps, key), key)
                number += 1


@pytest.mark.parametrize("short", [
    "RepeatFirst", "MultiarmedBandit", "PositionOnlyPendulum", "PositionOnlyCartPole", "Battleship", "Concentration",
    "MineSweeper", "LabyrinthEscape", "LabyrinthExplore",
])  # fmt: skip
def test_what_the_clock_has_cut_is_no_end(short: str) -> None:
    """The archive says of every last step that it is one; POPGym itself says which are an end and which are cut."""
    task = f"popgym-{short}Easy-v0"
    env, decoder = make_vector(10, task), PublishedEpisodes(task)
    found = set()
    for share in (0.0, 0.15, 1.0):
        watching = [Recorder(), Noise(share, np.random.default_rng(0))]
        for episode in rollout(env, expert_for(task), range(10), observers=watching):
            steps, length = episode.steps, episode.length
            assert steps is not None
            board = {"Battleship": 8, "MineSweeper": 4}.get(short)
            action = np.stack(np.divmod(steps.action, board), axis=1) if board else steps.action
            arrays = {"obs": steps.observation["observation"], "action": action, "reward": steps.reward}
            read = decoder.read({**arrays, "done": np.arange(length) == length - 1})
            assert (read.terminated, read.truncated) == (steps.terminated, not steps.terminated)
            found.add((length == env.spec.horizon, steps.terminated))
    assert (True, short in ("RepeatFirst", "MineSweeper")) in found


def test_training_uses_what_was_converted_and_is_warned_of_its_version(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = "popgym-RepeatFirstEasy-v0"
    archive(tmp_path / task, task)
    paths = converted(PublishedEpisodes(task), tmp_path / task, tmp_path / "out")

    def make_env(num_envs: int) -> Any:
        return make_vector(num_envs, task)

    served = collect(make_env, expert_for(task), tmp_path / "out", 3000, 0, depends_on={"popgym": "it changed"})
    assert served.paths == paths and served.episodes is None, "all that there are, however many"
    assert "was made with popgym 1.0.6, 1.0.7 is installed (it changed)" in caplog.text
    assert converted(PublishedEpisodes(task), tmp_path / task, tmp_path / "out") == paths, "again"
    archive(tmp_path / "other", task, 2)
    with pytest.raises(ConvertError, match=r"holds other data than those of .*env\.dataset=NAME"):
        converted(PublishedEpisodes(task), tmp_path / "other", tmp_path / "out")


def test_every_bad_file_is_named_and_nothing_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = "popgym-RepeatFirstEasy-v0"
    folder = tmp_path / task
    archive(folder, task, 12)

    def change(number: int, **arrays: Any) -> None:
        path = folder / f"train_data_{number}.npz"
        with np.load(path) as file:
            np.savez(path, **{k: v for k, v in {**file, **arrays}.items() if v is not None})

    whole = (folder / "train_data_0.npz").read_bytes()
    (folder / "train_data_0.npz").write_bytes(whole[: len(whole) // 2])
    (folder / "train_data_1.npz").write_bytes(b"")
    change(2, action=None)
    change(3, obs=np.array([{"a": 1}], object))  # a pickle inside
    change(4, action=np.full(51, 4))
    change(5, reward=np.full(51, np.nan))
    change(6, obs=np.zeros((51, 2)))
    change(7, done=np.ones(51))
    change(8, obs=np.full((51, 1), 0.5))
    np.save(folder / "bare.npy", np.zeros(3))
    (folder / "bare.npy").rename(folder / "train_data_9.npz")
    with pytest.raises(ConvertError) as caught:
        converted(PublishedEpisodes(task), folder, tmp_path / "out")
    text = str(caught.value)
    assert text.startswith(f"{folder}: 10 of 12 episodes are bad: train_data_0.npz: not a whole npz file")
    for words in (
        "train_data_1.npz: not a whole", "train_data_2.npz: no array action; there are obs", "train_data_3.npz: not a",
        "train_data_4.npz: action: found 4 in episode 0, step 0, expected integers from 0 to",
        "train_data_5.npz: reward: found nan",
        "train_data_6.npz: obs: expected 51 steps of 1 numbers", "train_data_7.npz: done: expected the end",
        "train_data_8.npz: obs: expected whole numbers, found 0.5", "train_data_9.npz: not a whole npz",
    ):  # fmt: skip
        assert words in text, words
    assert not list((tmp_path / "out").glob("*.h5"))
    (path,) = converted(PublishedEpisodes(task), folder, tmp_path / "out", "skip")
    with Shard(path) as shard:
        assert len(shard.offsets) == 3 and len(shard.attribute("provenance")["left_out"]) == 10
    assert "10 of 12 episodes are bad" in caplog.text
    (tmp_path / "empty").mkdir()
    for nothing in ("empty", "nowhere"):
        with pytest.raises(ReadError, match=r"expected .*train_data_<number>\.npz, found none"):
            converted(PublishedEpisodes(task), tmp_path / nothing, tmp_path / "out")
