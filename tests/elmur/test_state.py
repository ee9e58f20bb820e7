"""Functions over a state: nests of tuples, lists, dictionaries and dataclasses of tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from elmur.memory import Memory
from elmur.state import detach, join_lanes, map_state, reset, take_lanes


@dataclass
class Bag:
    inner: list[torch.Tensor]
    memory: Memory
    label: str
    nothing: None = None


def nest(offset: float) -> tuple[Any, ...]:
    """A nest of every kind for three lanes; lane b of every tensor holds `10 b + offset`."""
    lane = 10.0 * torch.arange(3.0) + offset
    memory = Memory(lane.view(3, 1, 1).expand(3, 2, 4), lane.long().view(3, 1).expand(3, 2))
    return lane, Bag([lane.view(3, 1), lane.bool()], memory, "label"), {"more": lane}


def lanes_of(state: Any) -> list[list[float]]:
    """Per tensor of the nest, the number in each lane."""
    found: list[torch.Tensor] = []
    map_state(lambda tensor: found.append(tensor) or tensor, state)  # type: ignore[func-returns-value]
    return [[float(lane.flatten()[0]) for lane in tensor] for tensor in found]


def test_map_state_visits_every_tensor_and_keeps_the_rest() -> None:
    state = map_state(lambda a, b: (a + b).to(a.dtype), nest(0), nest(1))
    assert isinstance(state, tuple) and isinstance(state[1], Bag) and isinstance(state[1].inner, list)
    assert state[1].label == "label" and state[1].nothing is None
    assert state[0].tolist() == [1, 21, 41]
    assert state[1].inner[0].flatten().tolist() == [1, 21, 41]
    assert state[1].memory.written_at[:, 1].tolist() == [1, 21, 41]
    assert state[2]["more"].tolist() == [1, 21, 41]


def test_nests_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        map_state(torch.add, (torch.ones(1), torch.ones(1)), (torch.ones(1),))


def test_reset_takes_the_fresh_state_where_an_episode_begins() -> None:
    mixed = reset(nest(1), nest(2), torch.tensor([True, False, True]))
    assert lanes_of(mixed) == [[2, 11, 22], [2, 11, 22], [1, 1, 1], [2, 11, 22], [2, 11, 22], [2, 11, 22]]


def test_reset_cuts_the_gradient_of_the_old_lane_only() -> None:
    old = torch.ones(2, 3, requires_grad=True)
    (mixed,) = reset((old * 2,), (torch.zeros(2, 3),), torch.tensor([True, False]))
    mixed.sum().backward()
    assert old.grad is not None
    assert old.grad.tolist() == [[0, 0, 0], [2, 2, 2]]


def test_reset_is_not_disturbed_by_nan_in_the_lane_left_behind() -> None:
    old = torch.tensor([[float("nan")], [3.0]])
    (mixed,) = reset((old,), (torch.zeros(2, 1),), torch.tensor([True, False]))
    assert mixed.tolist() == [[0.0], [3.0]]


def test_detach_cuts_the_graph_and_keeps_the_values() -> None:
    slots = torch.randn(2, 3, 4, requires_grad=True)
    state = (Memory(slots * 2, torch.zeros(2, 3, dtype=torch.int64)),)
    assert state[0].slots.requires_grad and not detach(state)[0].slots.requires_grad
    assert torch.equal(detach(state)[0].slots, slots * 2)


def test_take_lanes_picks_in_the_order_given_and_shares_what_has_one_row() -> None:
    state = (torch.arange(3.0), torch.ones(1, 5))
    taken = take_lanes(state, torch.tensor([2, 0, 2]))
    assert taken[0].tolist() == [2, 0, 2]
    assert taken[1].shape == (1, 5)


def test_join_lanes_undoes_take_lanes() -> None:
    whole = nest(3)
    parts = [take_lanes(whole, torch.tensor(lanes)) for lanes in ([0, 1], [2])]
    assert lanes_of(join_lanes(parts)) == lanes_of(whole)
