"""MemoryBias: one number per head and distance, the far ones shared."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from elmur.memory_bias import MemoryBias, no_bias


@pytest.mark.parametrize("reach", [1, 3, 8])
def test_every_pair_finds_its_distance(reach: int) -> None:
    bias = MemoryBias(n_head=2, max_seq_len=reach)
    queries, keys = torch.tensor([[0, 5, 900], [7, 8, 9]]), torch.tensor([[-1, 4], [9, 1000]])
    found = bias(queries, keys)
    assert found.shape == (2, 2, 3, 2)
    for lane in range(2):
        for i, query in enumerate(queries[lane].tolist()):
            for j, key in enumerate(keys[lane].tolist()):
                row = min(max(query - key, -(reach - 1)), reach - 1) + reach - 1
                assert torch.equal(found[lane, :, i, j], bias.table.weight[row])


def test_distances_have_a_sign() -> None:
    bias = MemoryBias(n_head=1, max_seq_len=4)
    one, two = torch.tensor([[1]]), torch.tensor([[2]])
    assert bias(one, two).item() != bias(two, one).item()
    assert bias(one, two).item() == bias(one + 500, two + 500).item(), "only the difference counts"


def test_beyond_its_reach_all_distances_are_one() -> None:
    bias = MemoryBias(n_head=2, max_seq_len=8)
    near, far = bias(torch.tensor([[7]]), torch.tensor([[0]])), bias(torch.tensor([[10**6]]), torch.tensor([[0]]))
    assert torch.equal(near, far)
    assert not torch.equal(near, bias(torch.tensor([[6]]), torch.tensor([[0]])))


def test_table_has_a_row_per_distance_and_the_spread_asked_for() -> None:
    bias = MemoryBias(n_head=4, max_seq_len=1024, init_std=0.5)
    assert bias.table.weight.shape == (2047, 4), "the published table"
    assert bias.table.weight.std().item() == pytest.approx(0.5, rel=0.05)


def test_gain_changes_how_fast_entries_grow_and_not_where_they_begin() -> None:
    bias = MemoryBias(n_head=2, init_std=0.5, gain=10.0)
    found = bias(torch.tensor([[3]]), torch.tensor([[1]]))
    assert torch.equal(found.flatten(), 10.0 * bias.table.weight[1023 + 2])
    assert (10.0 * bias.table.weight).std().item() == pytest.approx(0.5, rel=0.05)


def test_no_bias_is_none() -> None:
    none: Callable[..., torch.Tensor | None] = no_bias
    assert none(torch.zeros(1, 2), torch.zeros(1, 3)) is None


def test_no_reach_is_refused() -> None:
    with pytest.raises(ValueError, match="max_seq_len must be 1 or more"):
        MemoryBias(2, max_seq_len=0)
