"""Lanes: every window once, in a row's order, the same for any cut of the work."""

from __future__ import annotations

from collections import Counter
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.sampler import LaneSampler

lengths_of = st.lists(st.integers(1, 40), min_size=1, max_size=60)


def batches(sampler: LaneSampler) -> list[list[list[int]]]:
    return [batch.tolist() for batch in sampler]


@settings(max_examples=500, deadline=None)
@given(
    lengths=lengths_of,
    lanes=st.integers(1, 9),
    window=st.integers(1, 12),
    seed=st.integers(0, 9),
    shuffle=st.booleans(),
)
def test_every_window_once_and_in_order(lengths: list[int], lanes: int, window: int, seed: int, shuffle: bool) -> None:
    sampler = LaneSampler(lengths, lanes, window, seed, shuffle=shuffle)
    sizes = set()
    for epoch in (0, 1, 5):
        sampler.set_epoch(epoch)
        plan = batches(sampler)
        sizes.add(len(plan))
        expected = Counter((e, start) for e, length in enumerate(lengths) for start in range(0, length, window))
        assert Counter((e, start) for batch in plan for e, start in batch if e >= 0) == expected
        for lane in range(lanes):
            rows = [batch[lane] for batch in plan]
            busy = [row for row in rows if row[0] >= 0]
            assert rows[len(busy) :] == [[-1, 0]] * (len(rows) - len(busy))  # a lane runs out once, at the end
            for (episode, start), (after, begin) in pairwise(busy):
                if start + window < lengths[episode]:
                    assert (after, begin) == (episode, start + window)
                else:
                    assert begin == 0
    assert sizes == {len(sampler)}


@settings(max_examples=200, deadline=None)
@given(lengths=lengths_of, lanes=st.integers(1, 9))
def test_lanes_are_as_even_as_a_greedy_deal_makes_them(lengths: list[int], lanes: int) -> None:
    loads = [0] * lanes
    for count in sorted(lengths, reverse=True):
        loads[loads.index(min(loads))] += count
    sampler = LaneSampler(lengths, lanes, 1, seed=3)
    assert len(sampler) == max(loads)
    busy = np.array(batches(sampler))[..., 0] >= 0
    assert busy.sum(axis=0).tolist() == loads


@settings(max_examples=200, deadline=None)
@given(lengths=lengths_of, world=st.sampled_from([1, 2, 3, 4, 6, 12]), seed=st.integers(0, 5))
def test_ranks_share_the_same_batches(lengths: list[int], world: int, seed: int) -> None:
    whole = batches(LaneSampler(lengths, 12, 7, seed))
    parts = [batches(LaneSampler(lengths, 12, 7, seed, rank, world)) for rank in range(world)]
    assert [list(chain.from_iterable(part[i] for part in parts)) for i in range(len(whole))] == whole


@settings(max_examples=200, deadline=None)
@given(lengths=lengths_of, epoch=st.integers(0, 3), data=st.data())
def test_resume_at_any_batch(lengths: list[int], epoch: int, data: st.DataObject) -> None:
    straight = LaneSampler(lengths, 4, 5, seed=1)
    straight.set_epoch(epoch)
    whole = batches(straight)
    at = data.draw(st.integers(0, len(whole)))
    resumed = LaneSampler(lengths, 4, 5, seed=1)
    resumed.load_state_dict({"epoch": epoch, "batch": at})
    iterator = iter(resumed)  # Lightning makes the iterator first ...
    resumed.set_epoch(epoch)  # ... and tells the epoch then
    assert [batch.tolist() for batch in iterator] == whole[at:]
    assert resumed.state_dict() == {"epoch": epoch, "batch": at}
    resumed.set_epoch(epoch + 1)
    straight.set_epoch(epoch + 1)
    assert batches(resumed) == batches(straight)


def test_order_depends_on_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[list[list[int]]]:
        sampler = LaneSampler([5] * 64, 8, 5, seed)
        sampler.set_epoch(epoch)
        return batches(sampler)

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def test_which_episodes_share_a_batch_is_random() -> None:
    """64 episodes in 8 batches of 8: two given ones meet in 7 of 63 epochs."""
    sampler = LaneSampler([5] * 64, 8, 5, seed=0)
    met = 0
    for epoch in range(900):
        together = sampler.plan(epoch)[..., 0]
        met += int(np.argwhere(together == 0)[0][0] == np.argwhere(together == 1)[0][0])
    assert 70 <= met <= 130  # 100 expected, deviation 9.4


def test_an_episode_visits_every_lane_and_place_also_when_lengths_differ() -> None:
    sampler = LaneSampler([3, 1, 2, 3, 1, 2, 2, 2], 2, 1, seed=0)
    first = {tuple(sampler.plan(epoch)[0, :, 0].tolist()) for epoch in range(200)}
    assert {episode for row in first for episode in row} == set(range(8))


def test_more_lanes_than_episodes_are_masked() -> None:
    plan = np.array(batches(LaneSampler([4, 2], 3, 2, seed=0)))
    assert (plan[:, 2] == [-1, 0]).all()
    assert len(plan) == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"lengths": []}, "lengths"),
        ({"lengths": [3, 0]}, "lengths"),
        ({"lanes": 0}, "lanes=0"),
        ({"lanes": 6, "world_size": 4}, "lanes=6 cannot be shared by 4 processes; use a multiple of 4"),
        ({"window_length": 0}, "window_length: expected 1 step or more, found 0"),
        ({"rank": 2, "world_size": 2}, "rank"),
        ({"seed": -1}, "seed"),
    ],
)
def test_refusals(arguments: dict[str, int], says: str) -> None:
    given: dict[str, object] = {"lengths": [3], "lanes": 4, "window_length": 2, "seed": 0, **arguments}
    with pytest.raises(ValueError, match=says):
        LaneSampler(**given)  # type: ignore[arg-type]


def test_position_outside_the_epoch() -> None:
    with pytest.raises(ValueError, match="batch 9 is outside an epoch of 2 batches"):
        LaneSampler([4], 1, 2, seed=0).load_state_dict({"epoch": 0, "batch": 9})
