"""A folder of shards as one table, its statistics, and folders that are not fit for use."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import data.folder as folder_module
from data.collection import Collection, Served, shard_name
from data.index import build_index
from data.shard import Shard, ShardError, write_shard
from elmur.spec import TaskSpec, Vector

Make = Callable[..., Any]


def fill(root: Path, spec: TaskSpec, make: Make, lengths: list[list[int]], **options: Any) -> list[Any]:
    """Shards of episodes with these lengths; gives the episodes."""
    every = []
    for number, inside in enumerate(lengths):
        episodes = [make(spec, length, 10 * number + i) for i, length in enumerate(inside)]
        write_shard(root / shard_name(number), spec, episodes, {}, **options)
        every += episodes
    return every


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    with Shard(path) as shard:
        chunk = shard.open()["reward"].id.get_chunk_info(0)
    content[chunk.byte_offset] ^= 1
    path.write_bytes(content)


def test_table(tmp_path: Path, plain_spec: TaskSpec, episode: Make) -> None:
    fill(tmp_path, plain_spec, episode, [[3, 1], [4], [2, 2, 2]])
    index = build_index(tmp_path)
    assert index.spec == plain_spec
    assert [path.name for path in index.paths] == ["shard-00000.h5", "shard-00001.h5", "shard-00002.h5"]
    assert index.lengths.tolist() == [3, 1, 4, 2, 2, 2]
    assert index.shard.tolist() == [0, 0, 1, 2, 2, 2]
    assert index.offset.tolist() == [0, 3, 0, 0, 2, 4]
    some = index.subset(np.array([5, 2]))
    assert (some.lengths.tolist(), some.shard.tolist(), some.offset.tolist()) == ([2, 4], [2, 1], [4, 0])


def test_statistics_are_those_of_all_rows(tmp_path: Path, spec: TaskSpec, episode: Make) -> None:
    episodes = fill(tmp_path, spec, episode, [[30, 1], [7], [100]], normalise=["state"])
    rows = np.concatenate([e.observation["state"] for e in episodes]).astype(np.float64)
    found = build_index(tmp_path).spec.observation["state"]
    assert isinstance(found, Vector)
    np.testing.assert_allclose(found.mean or (), rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.std or (), rows.std(axis=0), rtol=1e-12)


def test_no_statistics_unless_asked_and_constant_parts_keep_their_scale(
    tmp_path: Path, plain_spec: TaskSpec, episode: Make
) -> None:
    fill(tmp_path / "without", plain_spec, episode, [[5]])
    assert build_index(tmp_path / "without").spec == plain_spec
    constant = episode(plain_spec, 5)
    constant.observation["state"][:, 0] = 3.0
    write_shard(tmp_path / "with" / shard_name(0), plain_spec, [constant], {}, normalise=["state"])
    part = build_index(tmp_path / "with").spec.observation["state"]
    assert isinstance(part, Vector) and part.mean and part.std
    assert part.mean[0] == 3.0 and part.std[0] == 1.0 and part.std[1] != 1.0


def test_shards_that_disagree_on_normalising(tmp_path: Path, plain_spec: TaskSpec, episode: Make) -> None:
    fill(tmp_path, plain_spec, episode, [[5]])
    write_shard(tmp_path / shard_name(1), plain_spec, [episode(plain_spec, 3)], {}, normalise=["state"])
    with pytest.raises(ShardError, match=r"shard-00001.h5, normalise: found \['state'\], expected \[\]"):
        build_index(tmp_path)


def test_another_task_in_the_folder(tmp_path: Path, plain_spec: TaskSpec, episode: Make) -> None:
    fill(tmp_path, plain_spec, episode, [[5]])
    write_shard(tmp_path / shard_name(1), replace(plain_spec, name="else"), [episode(plain_spec, 3)], {})
    for on_bad_shard in ("fail", "skip"):
        with pytest.raises(ShardError, match=r"shard-00001.h5, spec: found task 'else', expected task 'plain'"):
            build_index(tmp_path, on_bad_shard=on_bad_shard)


def test_empty_and_missing_folder(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(
            ShardError, match=f"{root}, folder: found no shards, .* collect the data or correct the path"
        ):
            build_index(root)


def test_half_written_folder(tmp_path: Path, plain_spec: TaskSpec, episode: Make) -> None:
    (tmp_path / ".shard-00001.h5.99-ab.partial").write_bytes(b"half")
    says = r"1 half-written files \(.shard-00001.h5.99-ab.partial\).*run the collection again"
    for on_bad_shard in ("fail", "skip"):
        with pytest.raises(ShardError, match=says):
            build_index(tmp_path, on_bad_shard=on_bad_shard)
    fill(tmp_path, plain_spec, episode, [[5]])
    with pytest.raises(ShardError, match=says):
        build_index(tmp_path)
    assert len(build_index(tmp_path, on_bad_shard="skip")) == 1


def test_unfinished_collection(tmp_path: Path, plain_spec: TaskSpec, episode: Make) -> None:
    fill(tmp_path, plain_spec, episode, [[5], [5]])
    Collection({}, 4).write(tmp_path)
    with pytest.raises(
        ShardError, match=r"2 of 4 shards \(no shard-00002.h5, shard-00003.h5\).*run the collection again"
    ):
        build_index(tmp_path)
    (tmp_path / "collection.json").write_text("{")
    with pytest.raises(ShardError, match=r"collection.json, record: found an unreadable file"):
        build_index(tmp_path)


def test_shards_that_the_record_does_not_speak_of(tmp_path: Path, plain_spec: TaskSpec, episode: Make) -> None:
    fill(tmp_path, plain_spec, episode, [[5], [5], [6]])
    Collection({}, 2).write(tmp_path)
    for on_bad_shard in ("fail", "skip"):
        with pytest.raises(ShardError, match=r"1 shards that are not of its collection \(shard-00002.h5\).*move them"):
            build_index(tmp_path, on_bad_shard=on_bad_shard)


def test_some_shards_of_a_folder_that_is_still_written(tmp_path: Path, plain_spec: TaskSpec, episode: Make) -> None:
    fill(tmp_path, plain_spec, episode, [[5], [6]])
    Collection({}, 4).write(tmp_path)
    (tmp_path / ".shard-00003.h5.99-ab.partial").write_bytes(b"half")
    assert build_index(tmp_path, served=Served([tmp_path / shard_name(1)])).lengths.tolist() == [6]
    with pytest.raises(ShardError, match=r"1 of 2 shards \(no shard-00002.h5\)"):
        build_index(tmp_path, served=Served([tmp_path / shard_name(1), tmp_path / shard_name(2)]))


def test_damaged_shard_fails_or_is_skipped(
    tmp_path: Path, plain_spec: TaskSpec, episode: Make, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, plain_spec, episode, [[5], [6], [7]])
    damage(tmp_path / shard_name(1))
    with pytest.raises(ShardError, match=r"shard-00001.h5, reward: found damaged bytes in rows 0 to 5"):
        build_index(tmp_path)
    with caplog.at_level(logging.WARNING):
        index = build_index(tmp_path, on_bad_shard="skip")
    assert index.lengths.tolist() == [5, 7]
    assert [path.name for path in index.skipped] == [shard_name(1)]
    assert "1 of 3 shards" in caplog.text and "shard-00001.h5, reward" in caplog.text
    assert build_index(tmp_path, verify=False).lengths.tolist() == [5, 6, 7]
    for number in (0, 2):
        damage(tmp_path / shard_name(number))
    with pytest.raises(ShardError, match="3 shards, all damaged"):
        build_index(tmp_path, on_bad_shard="skip")
    with pytest.raises(ValueError, match="on_bad_shard must be 'fail' or 'skip'; found 'maybe'"):
        build_index(tmp_path, on_bad_shard="maybe")  # type: ignore[arg-type]


def test_every_byte_is_read_once(
    tmp_path: Path, plain_spec: TaskSpec, episode: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, plain_spec, episode, [[5], [6]])
    read: list[str] = []
    original = Shard.verify

    def verify(shard: Shard) -> None:
        read.append(shard.path.name)
        original(shard)

    monkeypatch.setattr(Shard, "verify", verify)
    build_index(tmp_path)
    build_index(tmp_path)
    assert read == [shard_name(0), shard_name(1)]
    write_shard(tmp_path / shard_name(1), plain_spec, [episode(plain_spec, 6)], {})
    build_index(tmp_path)
    assert read[2:] == [shard_name(1)]
    assert folder_module._verified


def earning(spec: TaskSpec, make: Make, returns: list[list[float]], root: Path) -> None:
    """Shards of episodes of 2 steps with these returns, the first of them ended in a terminal state."""
    for number, inside in enumerate(returns):
        episodes = []
        for i, total in enumerate(inside):
            episode = make(spec, 2, seed=i)
            episode.reward = np.array([total - 1, 1], np.float32)
            episode.terminated, episode.truncated = i == 0, i != 0
            episodes.append(episode)
        write_shard(root / shard_name(number), spec, episodes, {})


def test_the_best_episodes_by_return(
    tmp_path: Path, plain_spec: TaskSpec, episode: Make, caplog: pytest.LogCaptureFixture
) -> None:
    earning(plain_spec, episode, [[1.0, 5.0, 3.0], [5.0, 2.0], [3.0, 5.0, 0.0]], tmp_path)
    index = build_index(tmp_path)
    assert index.returns().tolist() == [1, 5, 3, 5, 2, 3, 5, 0]
    assert index.terminated().tolist() == [True, False, False, True, False, True, False, False]
    with caplog.at_level(logging.INFO):
        assert index.best(0.5).tolist() == [1, 2, 3, 6], "of the two threes the earlier"
    assert "the best 4 of 8 episodes: returns of 3 or more; 1 of 2 with just that" in caplog.text
    assert index.best(0.25).tolist() == [1, 3], "of three fives the first two"
    assert index.best(0.01).tolist() == [1] and index.best(1.0).tolist() == list(range(8))
    some = index.subset(np.array([7, 4, 0]))
    assert some.returns().tolist() == [0, 2, 1] and some.terminated().tolist() == [False, False, True]
    assert some.best(0.3).tolist() == [1]


def test_no_episode_is_better_than_another(tmp_path: Path, plain_spec: TaskSpec, episode: Make) -> None:
    earning(plain_spec, episode, [[1.0, 1.0], [1.0]], tmp_path)
    with pytest.raises(ValueError, match=r"all 3 episodes have the return 1, so that none .*module=imitation"):
        build_index(tmp_path).best(0.5)
