"""Preferences in shards: written, checked, read where asked, and collected with all that a collection promises."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from data.collect import CollectionError, collect
from data.collection import shard_name
from data.dataset import WindowDataset
from data.index import build_index
from data.shard import Shard, ShardError, write_shard
from elmur.spec import TaskSpec
from envs.labelling import Learner
from envs.rollout import RandomPolicy
from tests.data.test_collect import SPEC, Count, Parity, contents, gather

Make = Callable[..., Any]
LENGTHS = [9, 4, 13]


@pytest.fixture
def episodes(plain_spec: TaskSpec, episode: Make) -> list[Any]:
    """Three episodes of a task of four actions, with preferences; some of them ties, some zeros."""
    found = [episode(plain_spec, length, length) for length in LENGTHS]
    rng = np.random.default_rng(5)
    for one in found:
        worth = rng.integers(0, 3, (len(one.reward), 4)) + np.eye(4)[one.action]
        one.preference = worth / worth.sum(axis=1, keepdims=True)
    return found


def written(folder: Path, spec: TaskSpec, episodes: list[Any], **options: Any) -> Path:
    write_shard(folder / shard_name(0), spec, episodes, {}, **options)
    return folder / shard_name(0)


def test_they_come_back_and_ties_stay_ties(tmp_path: Path, plain_spec: TaskSpec, episodes: list[Any]) -> None:
    path = written(tmp_path, plain_spec, episodes, optional=["preference"])
    expected = np.concatenate([one.preference for one in episodes])
    with Shard(path) as shard:
        shard.verify()
        found = shard.read("preference", 0, sum(LENGTHS))
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, expected, atol=5e-4)
    assert ((found[:, :, None] == found[:, None]) == (expected[:, :, None] == expected[:, None])).all()


def test_shards_without_them_are_those_of_before(tmp_path: Path, plain_spec: TaskSpec, episodes: list[Any]) -> None:
    keys = []
    for name, optional in (("plain", []), ("more", ["preference"])):
        with h5py.File(written(tmp_path / name, plain_spec, episodes, optional=optional)) as file:
            keys.append((int(file.attrs["version"]), set(file.keys()), set(file.attrs)))
    of_before = {"observation", "action", "reward", "loss_mask", "terminated", "truncated", "seed", "offsets"}
    told = {"version", "format", "spec", "statistics", "normalise", "provenance", "sums"}
    assert keys == [(1, of_before, told), (2, of_before | {"preference"}, told | {"optional"})]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ([0.5, 0.5, 0.5, 0.0], "expected shares of 1, none below 0"),
        ([1.5, -0.5, 0.0, 0.0], "expected shares of 1, none below 0"),
        ([np.nan, 0.5, 0.5, 0.0], "expected finite numbers"),
        ([0.0, 0.0, 0.0, 0.0], "expected shares of 1, none below 0"),
    ],
)
def test_what_is_no_distribution_is_refused(
    tmp_path: Path, plain_spec: TaskSpec, episodes: list[Any], row: list[float], says: str
) -> None:
    path = written(tmp_path / "good", plain_spec, episodes, optional=["preference"])
    episodes[1].preference[2] = row
    with pytest.raises(ShardError, match=f"preference: found .* in episode 1, step 2, {says}"):
        written(tmp_path / "bad", plain_spec, episodes, optional=["preference"])
    with h5py.File(path, "a") as file:
        file["preference"][11] = row
    with Shard(path) as shard, pytest.raises(ShardError, match=rf"preference: .* row 11 \(episode 1, step 2\).*{says}"):
        shard.verify()


def test_they_are_among_choices(tmp_path: Path, spec: TaskSpec, episode: Make) -> None:
    with pytest.raises(ValueError, match="preferences are among choices; found the action Vector"):
        written(tmp_path, spec, [episode(spec, 3)], optional=["preference"])


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_windows_hold_them_where_asked(
    tmp_path: Path, plain_spec: TaskSpec, episodes: list[Any], cache_bytes: int
) -> None:
    written(tmp_path, plain_spec, episodes, optional=["preference"])
    index, plan = build_index(tmp_path), np.array([[0, 8], [2, 0], [-1, 0]])
    assert index.common == {"preference"}
    batch = WindowDataset(index, 8, cache_bytes, preferences=True)[plan]
    assert batch.preference is not None and batch.preference.shape == (3, 8, 4)
    expected = np.zeros((3, 8, 4), np.float16)
    expected[0, :1], expected[1] = episodes[0].preference[8:], episodes[2].preference[:8]
    assert torch.equal(batch.preference, torch.from_numpy(expected))
    parts = [segment.preference for segment in batch.to("cpu").split(3)]
    assert torch.equal(torch.cat([part for part in parts if part is not None], 1), batch.preference)
    plain = WindowDataset(index, 8, cache_bytes)[plan]
    assert plain.preference is None and torch.equal(plain.action, batch.action)


def test_a_folder_has_them_where_all_of_its_shards_do(
    tmp_path: Path, plain_spec: TaskSpec, episodes: list[Any]
) -> None:
    written(tmp_path, plain_spec, episodes, optional=["preference"])
    write_shard(tmp_path / shard_name(1), plain_spec, episodes, {})
    index = build_index(tmp_path)
    assert index.optional == {"preference"} and not index.common
    assert WindowDataset(index, 8)[np.array([[0, 0], [4, 0]])].preference is None
    own = build_index(written(tmp_path / "own", plain_spec, episodes, optional=["preference"]).parent)
    both, less = own.joined(own), own.joined(index)
    assert both.common == {"preference"} and not less.common
    batch = WindowDataset(both, 8, preferences=True)[np.array([[0, 0], [3, 0]])]
    assert batch.preference is not None and torch.equal(batch.preference[0], batch.preference[1])


class Torn(Parity):
    """Holds action 2 half as good as its answer, and the other parity as good where three steps were made."""

    def act(self, observation: dict[str, np.ndarray], is_first: np.ndarray) -> np.ndarray:
        self.steps = observation["state"][:, 1].astype(np.int64)
        return super().act(observation, is_first)

    def preferences(self) -> np.ndarray:
        worth = np.zeros((len(self.steps), 3), np.float32)
        worth[np.arange(len(self.steps)), self.steps % 2] = 1.0
        worth[self.steps == 3, :2] = 1.0
        worth[:, 2] = 0.5
        return worth / worth.sum(axis=1, keepdims=True)


def gathered(root: Path, **changes: Any) -> list[Path]:
    options: dict[str, Any] = {"num_episodes": 25, "seed": 3, "num_envs": 4, "shard_episodes": 10, "progress": False}
    collect(partial(Count, longest=7), Torn(), root, **{"preferences": True, **options, **changes})
    return sorted(root.glob("*.h5"))


@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_what_the_expert_held_is_recorded_also_where_noise_acted(tmp_path: Path, noise: float) -> None:
    for path in gathered(tmp_path, noise=noise):
        with Shard(path) as shard:
            rows = int(shard.offsets[-1])
            held, steps = shard.read("preference", 0, rows), shard.read("observation/state", 0, rows)[:, 1]
        for row, step in zip(held, steps.tolist(), strict=True):
            expected = [0.4, 0.4, 0.2] if step == 3 else [[2 / 3, 0, 1 / 3], [0, 2 / 3, 1 / 3]][int(step) % 2]
            np.testing.assert_allclose(row, expected, atol=5e-4)


def test_a_learner_acts_and_what_the_expert_held_there_is_recorded(tmp_path: Path) -> None:
    learner = Learner(RandomPolicy(SPEC), 0.0, {"who": "random play"})
    (path, *_) = gathered(tmp_path, num_episodes=10, learner=learner)
    with Shard(path) as shard:
        rows = int(shard.offsets[-1])
        held, action, label = (shard.read(key, 0, rows) for key in ("preference", "action", "label"))
        steps = shard.read("observation/state", 0, rows)[:, 1]
        assert shard.read("loss_mask", 0, rows).all()
    assert (label == steps % 2).all() and (action != label).any()
    assert (held[np.arange(rows), label] == held.max(axis=1)).all()
    assert ((held == held.max(axis=1, keepdims=True)).sum(axis=1) == np.where(steps == 3, 2, 1)).all()


def test_a_collection_with_them_serves_one_without_and_not_the_other_way_round(tmp_path: Path) -> None:
    plain = contents(gathered(tmp_path / "plain", preferences=False))
    more = gathered(tmp_path / "more")
    times = [path.stat().st_mtime_ns for path in more]
    gathered(tmp_path / "more", preferences=False)
    assert [path.stat().st_mtime_ns for path in more] == times
    for path, expected in zip(more, plain, strict=True):
        with Shard(path) as shard:
            keys = [key for key in shard.columns if key != "preference"]
            rows = int(shard.offsets[-1])
            assert [shard.offsets.tolist(), *(shard.read(key, 0, rows).tolist() for key in keys)] == expected
    assert build_index(tmp_path / "more").digest == build_index(tmp_path / "plain").digest
    with pytest.raises(CollectionError, match=r"plain was collected in another way .*preferences was None, now True"):
        gathered(tmp_path / "plain")


def test_ties_are_drawn_where_asked_and_others_are_not(tmp_path: Path) -> None:
    actions = []
    for name, changes in (("first", {}), ("drawn", {"draw_ties": True}), ("again", {"draw_ties": True, "num_envs": 3})):
        found = []
        for path in gathered(tmp_path / name, num_episodes=60, **changes):
            with Shard(path) as shard:
                rows = int(shard.offsets[-1])
                assert shard.read("loss_mask", 0, rows).all(), "whichever it did is the expert's own"
                found.append((shard.read("action", 0, rows), shard.read("observation/state", 0, rows)[:, 1]))
        actions.append([np.concatenate(part) for part in zip(*found, strict=True)])
    (first, steps), (drawn, _), (again, _) = actions
    assert (drawn == again).all() and (first == steps % 2).all()
    assert (first == drawn)[steps != 3].all() and 0.2 < (first == drawn)[steps == 3].mean() < 0.8


@pytest.mark.parametrize("key", ["preferences", "draw_ties"])
def test_an_expert_that_says_only_what_it_does_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(CollectionError, match="expected an expert that says what it holds of every action, found Par"):
        gather(tmp_path / "a", **{key: True})
    with pytest.raises(CollectionError, match=r"expected collect.mixture=0.0, found 0.5; random play prefers nothing"):
        gathered(tmp_path / "a", mixture=0.5, **{key: True})
    assert not list(tmp_path.glob("a/*.h5"))
