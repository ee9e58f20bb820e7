"""SegmentBatch: cutting a window into segments loses nothing and dates every piece."""

from __future__ import annotations

import pytest
import torch

from elmur.batch import SegmentBatch
from tests.elmur.samples import make_batch


@pytest.mark.parametrize(("steps", "length", "sizes"), [(6, 2, [2, 2, 2]), (7, 3, [3, 3, 1]), (4, 4, [4]), (3, 9, [3])])
def test_split_cuts_in_order_and_loses_nothing(steps: int, length: int, sizes: list[int]) -> None:
    window = make_batch(2, steps, start=[0, 5])
    window.mask = window.mask.clone()
    window.mask[1, -1] = False
    pieces = list(window.split(length))
    assert [piece.num_steps for piece in pieces] == sizes
    for step in range(steps):
        piece, at = pieces[step // length], step % length
        assert torch.equal(piece.observation["state"][:, at], window.observation["state"][:, step])
        assert torch.equal(piece.action[:, at], window.action[:, step])
        assert torch.equal(piece.return_to_go[:, at], window.return_to_go[:, step])
        assert torch.equal(piece.mask[:, at], window.mask[:, step])
        assert torch.equal(piece.loss_mask[:, at], window.loss_mask[:, step])
        assert (piece.start + at).tolist() == [step, 5 + step]


def test_only_the_first_piece_begins_and_only_the_last_ends_an_episode() -> None:
    window = make_batch(2, 6)
    window.is_first, window.is_last = torch.tensor([True, False]), torch.tensor([True, True])
    pieces = list(window.split(2))
    assert [piece.is_first.tolist() for piece in pieces] == [[True, False], [False, False], [False, False]]
    assert [piece.is_last.tolist() for piece in pieces] == [[False, False], [False, False], [True, True]]


def test_a_window_of_one_segment_keeps_both_flags() -> None:
    window = make_batch(1, 3)
    window.is_first, window.is_last = torch.tensor([True]), torch.tensor([True])
    (piece,) = window.split(3)
    assert piece.is_first.item() and piece.is_last.item()


def test_splitting_leaves_the_window_as_it_was() -> None:
    window = make_batch(2, 6, start=3)
    list(window.split(2))
    assert window.start.tolist() == [3, 3] and window.num_steps == 6


def test_to_moves_every_tensor() -> None:
    window = make_batch(2, 3).to("meta")
    tensors = [window.action, window.return_to_go, window.mask, window.loss_mask, window.is_first, window.is_last]
    assert {t.device.type for t in [*tensors, window.start, window.observation["state"]]} == {"meta"}


@pytest.mark.parametrize("action", [torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3, 5)])
def test_of_a_few_steps(action: torch.Tensor) -> None:
    batch = SegmentBatch.of({"state": torch.zeros(2, 3, 4)}, action)
    assert (batch.batch_size, batch.num_steps) == (2, 3)
    assert all(flag.all() for flag in (batch.mask, batch.loss_mask, batch.is_first, batch.is_last))
    assert batch.start.tolist() == [0, 0] and batch.return_to_go.tolist() == [[0.0] * 3] * 2
