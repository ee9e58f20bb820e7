"""A batch holds exactly what the episodes hold, and padding elsewhere."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import data.dataset as dataset_module
from data.collection import shard_name
from data.dataset import WindowDataset
from data.index import Index, build_index
from data.shard import Shard, ShardError, write_shard
from elmur.spec import TaskSpec

Make = Callable[..., Any]
LENGTHS = [[3, 11], [40], [1, 7, 8]]
WINDOW = 8


@pytest.fixture
def episodes(tmp_path: Path, spec: TaskSpec, episode: Make) -> list[Any]:
    found = []
    for number, lengths in enumerate(LENGTHS):
        inside = [episode(spec, length, 10 * number + length) for length in lengths]
        write_shard(tmp_path / shard_name(number), spec, inside, {})
        found += inside
    return found


@pytest.fixture
def index(tmp_path: Path, episodes: list[Any]) -> Index:
    return build_index(tmp_path)


PLAN = [[1, 8], [-1, 0], [2, 16], [3, 0], [5, 0], [0, 0], [2, 32], [1, 0], [4, 0]]


@pytest.mark.parametrize("cache_bytes", [0, 1500, 1 << 20])
def test_batch_equals_the_episodes(index: Index, episodes: list[Any], cache_bytes: int) -> None:
    batch = WindowDataset(index, WINDOW, cache_bytes)[np.array(PLAN)]
    assert batch.action.shape == (9, WINDOW, 2)
    assert batch.observation["front"].dtype == torch.uint8
    assert batch.observation["token"].dtype == torch.int64
    for row, (number, start) in enumerate(PLAN):
        original = episodes[number]
        length = len(original.reward) if number >= 0 else 0
        assert bool(batch.is_first[row]) == (number >= 0 and start == 0)
        assert bool(batch.is_last[row]) == (start + WINDOW >= length)
        assert int(batch.start[row]) == start
        for t in range(WINDOW):
            real = start + t < length
            assert bool(batch.mask[row, t]) == real
            assert bool(batch.loss_mask[row, t]) == (real and bool(original.loss_mask[start + t]))
            for name, part in batch.observation.items():
                expected = original.observation[name][start + t] if real else 0 * original.observation[name][0]
                np.testing.assert_array_equal(part[row, t].numpy(), expected)
            np.testing.assert_array_equal(batch.action[row, t].numpy(), original.action[start + t] if real else [0, 0])
            rest = float(np.sum(original.reward[start + t :].astype(np.float64))) if real else 0.0
            assert float(batch.return_to_go[row, t]) == pytest.approx(rest, abs=1e-5)


def test_cache_changes_nothing(index: Index) -> None:
    plan = np.array(PLAN)
    one, other = WindowDataset(index, 5, 0)[plan], WindowDataset(index, 5)[plan]
    assert torch.equal(one.return_to_go, other.return_to_go)
    assert all(torch.equal(part, other.observation[name]) for name, part in one.observation.items())


def test_cache_is_bounded(index: Index) -> None:
    dataset = WindowDataset(index, WINDOW, 1500)
    dataset[np.array(PLAN)]
    held = 0
    for arrays in dataset._arrays.values():
        held += sum(rows.nbytes for rows in arrays.values() if isinstance(rows, np.ndarray))
    assert 0 < held <= 1500


def test_few_files_are_open(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_module, "OPEN_FILES", 1)
    dataset = WindowDataset(index, WINDOW, 0)
    for _ in range(2):
        dataset[np.array(PLAN)]
        assert sum(shard._file is not None for shard in dataset._files._shards.values()) == 1


def test_discrete_actions_have_no_axis(tmp_path: Path, plain_spec: TaskSpec, episode: Make) -> None:
    original = episode(plain_spec, 4)
    write_shard(tmp_path / "a.h5", plain_spec, [original], {})
    batch = WindowDataset(build_index(tmp_path), 3)[np.array([[0, 0], [0, 3]])]
    assert batch.action.tolist() == [original.action[:3].tolist(), [original.action[3], 0, 0]]


def test_plan_outside_an_episode(index: Index) -> None:
    dataset = WindowDataset(index, WINDOW)
    with pytest.raises(IndexError, match=r"\[0, 3\] lies outside its episode"):
        dataset[np.array([[1, 0], [0, 3]])]
    with pytest.raises(ValueError, match="window_length"):
        WindowDataset(index, 0)


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_a_shard_replaced_after_indexing_is_refused(
    tmp_path: Path, plain_spec: TaskSpec, episode: Make, cache_bytes: int
) -> None:
    """Also by one whose episodes are as long, and also where it is opened again."""
    for name in ("a.h5", "b.h5"):
        write_shard(tmp_path / name, plain_spec, [episode(plain_spec, 4, i) for i in range(2)], {"made": name})
    dataset = WindowDataset(build_index(tmp_path), 3, cache_bytes)
    write_shard(tmp_path / "b.h5", plain_spec, [episode(plain_spec, 4, i + 5) for i in range(2)], {"made": "again"})
    assert dataset[np.array([[0, 0]])].mask.all()
    with pytest.raises(ShardError, match=r"b.h5, provenance: found other episodes than before.*give the command"):
        dataset[np.array([[2, 0]])]


def test_damage_after_indexing_is_named(index: Index) -> None:
    with Shard(index.paths[1]) as shard:
        chunk = shard.open()["observation/front"].id.get_chunk_info(1)
    content = bytearray(index.paths[1].read_bytes())
    content[chunk.byte_offset + 5] ^= 1
    index.paths[1].write_bytes(content)
    dataset = WindowDataset(index, WINDOW)
    dataset[np.array([[2, 0]])]  # its chunk is whole
    with pytest.raises(
        ShardError,
        match=r"shard-00001.h5, observation/front: found damaged bytes in rows 16 to .* \(episode 0, steps 16 to",
    ):
        dataset[np.array([[2, 16]])]


def test_a_copy_for_a_worker_has_handles_of_its_own(index: Index) -> None:
    dataset = WindowDataset(index, WINDOW)
    batch = dataset[np.array(PLAN)]
    copy = pickle.loads(pickle.dumps(dataset))
    assert not copy._arrays and not copy._files._shards
    assert torch.equal(copy[np.array(PLAN)].return_to_go, batch.return_to_go)
    for shard in dataset._files._shards.values():
        assert shard._pid in (os.getpid(), -1)


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_transitions_add_rewards_ends_and_the_step_after(index: Index, episodes: list[Any], cache_bytes: int) -> None:
    plain = WindowDataset(index, WINDOW, cache_bytes)[np.array(PLAN)]
    batch = WindowDataset(index, WINDOW, cache_bytes, transitions=True)[np.array(PLAN)]
    came = batch.outcome
    assert plain.outcome is None and came is not None
    for name in ("action", "return_to_go", "mask", "loss_mask", "is_first", "is_last", "start"):
        assert torch.equal(getattr(batch, name), getattr(plain, name)), name
    assert all(torch.equal(part, plain.observation[name]) for name, part in batch.observation.items())
    ended = 0
    for row, (number, start) in enumerate(PLAN):
        length = len(episodes[number].reward) if number >= 0 else 0
        behind = start + WINDOW
        rewards = np.zeros(WINDOW, np.float32)
        if number >= 0:
            here = episodes[number].reward[start:behind]
            rewards[: len(here)] = here
        np.testing.assert_array_equal(came.reward[row].numpy(), rewards)
        ends = number >= 0 and behind >= length
        assert bool(came.terminated[row]) == (ends and episodes[number].terminated)
        ended += bool(came.terminated[row])
        assert bool(came.after.mask[row, 0]) == (number >= 0 and behind < length)
        assert int(came.after.start[row]) == behind or number < 0
        if number >= 0 and behind < length:
            for name, part in came.after.observation.items():
                np.testing.assert_array_equal(part[row, 0].numpy(), episodes[number].observation[name][behind])
    assert 0 < ended < len(PLAN), "some end so, some do not"
    on = batch.to("cpu").outcome
    assert on is not None and torch.equal(on.after.start, came.after.start)


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_a_label_stands_beside_the_action_and_is_the_action_where_the_expert_acted(
    tmp_path: Path, plain_spec: TaskSpec, episode: Make, cache_bytes: int
) -> None:
    """One folder of the expert's episodes, one of another policy's that the expert labelled: 3 more, modulo 4."""
    own, others = [episode(plain_spec, 9, 1)], [episode(plain_spec, 5, 2), episode(plain_spec, 11, 3)]
    for one in others:
        one.label = (one.action + 3) % 4
    write_shard(tmp_path / "own" / shard_name(0), plain_spec, own, {})
    write_shard(tmp_path / "others" / shard_name(0), plain_spec, others, {}, optional=["label"])
    alone, more = build_index(tmp_path / "own"), build_index(tmp_path / "others")
    both = alone.joined(more)
    assert not alone.optional and both.optional == {"label"} and both.lengths.tolist() == [9, 5, 11]
    assert both.digest not in (alone.digest, more.digest)
    batch = WindowDataset(both, WINDOW, cache_bytes)[np.array([[0, 0], [1, 0], [2, 8]])]
    for row, (one, start) in enumerate([(own[0], 0), (others[0], 0), (others[1], 8)]):
        done = torch.from_numpy(one.action[start : start + WINDOW])
        assert batch.action[row, : len(done)].equal(done)
        assert batch.target[row, : len(done)].equal(done if row == 0 else (done + 3) % 4)
    assert batch.label is not None and batch.target.equal(batch.label)
    first, second = batch.split(5)
    assert torch.cat([first.target, second.target], 1).equal(batch.label)
    plain = WindowDataset(alone, WINDOW, cache_bytes)[np.array([[0, 0]])]
    assert plain.label is None and plain.target.equal(plain.action)
