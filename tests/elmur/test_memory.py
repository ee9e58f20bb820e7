"""The memory bank: LRU writing against a loop over lanes and slots."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elmur.memory import LRU, NEVER, Memory, ReplaceAll, WriteRule, blend_into, least_recently_used, never
from elmur.published.quirks import PublishedLRU, PublishedReplaceAll
from tests.elmur.samples import noise

Bank = tuple[list[list[float]], list[int]]  # one lane's slots and dates


def write_by_loop(bank: Bank, candidates: list[list[float]], step: int, blend: float, replace_empty: bool) -> Bank:
    """Slots of one lane after a write: the oldest slot takes candidate[its index], then the next oldest, ...

    candidates: one per slot of the bank; how many are used is the length of what `oldest` gives.
    """
    slots, dates = [list(slot) for slot in bank[0]], list(bank[1])
    for j in oldest(bank[1], len(candidates)):
        share = 1.0 if replace_empty and dates[j] < 0 else blend
        fresh = candidates[oldest(bank[1], len(candidates)).index(j)]
        slots[j] = [share * new + (1.0 - share) * old for new, old in zip(fresh, slots[j], strict=True)]
        dates[j] = step
    return slots, dates


def oldest(dates: list[int], count: int) -> list[int]:
    """Slots in the order of their dates; of equal ones the first."""
    left, found = list(range(len(dates))), []
    for _ in range(count):
        best = left[0]
        for j in left:
            if dates[j] < dates[best]:
                best = j
        left.remove(best)
        found.append(best)
    return found


@st.composite
def written_bank(draw: st.DrawFn) -> tuple[Memory, int]:
    """A bank of up to 3 lanes and 5 slots with any dates, and how many slots to write."""
    lanes, slots = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    dates = draw(st.lists(st.integers(-1, 6), min_size=lanes * slots, max_size=lanes * slots))
    values = torch.randn(lanes, slots, 2, generator=noise(draw(st.integers(0, 99))), dtype=torch.float64)
    return Memory(values, torch.tensor(dates).view(lanes, slots)), draw(st.integers(1, slots))


@settings(deadline=None, derandomize=True, max_examples=150)
@given(written_bank(), st.floats(0, 1), st.booleans())
def test_lru_is_the_loop(bank: tuple[Memory, int], blend: float, published: bool) -> None:
    memory, count = bank
    lanes, size, width = memory.slots.shape
    before = Memory(memory.slots.clone(), memory.written_at.clone())
    rule = (PublishedLRU if published else LRU)(blend, count)
    every = torch.randn(lanes, size, width, generator=noise(7), dtype=torch.float64)  # one candidate per slot
    plan = rule.plan(memory, torch.zeros(lanes, 3, dtype=torch.int64), torch.arange(lanes) + 10)
    assert plan.sees is None and (plan.index is None) == published
    candidate = every if plan.index is None else every.gather(1, plan.index.unsqueeze(-1).expand(-1, -1, width))
    after = rule.commit(memory, candidate, plan)
    for b in range(lanes):
        dates = before.written_at[b].tolist()
        fresh = [every[b, j].tolist() for j in oldest(dates, count)]
        slots, dates = write_by_loop((before.slots[b].tolist(), dates), fresh, 10 + b, blend, not published)
        assert after.written_at[b].tolist() == dates
        torch.testing.assert_close(after.slots[b], torch.tensor(slots, dtype=torch.float64), rtol=0, atol=1e-12)
    assert torch.equal(memory.slots, before.slots), "a pure function: what came in is as it was"
    assert torch.equal(memory.written_at, before.written_at)


def steady(size: int) -> Memory:
    """One lane of `size` slots that hold 100, 200, ..., never written."""
    return Memory(100.0 * torch.arange(1.0, size + 1).view(1, size, 1), torch.full((1, size), NEVER))


def write(memory: Memory, rule: LRU, value: float, step: int) -> Memory:
    plan = rule.plan(memory, torch.tensor([[step]]), torch.tensor([step]))
    written = memory.slots.shape[1] if plan.index is None else plan.index.shape[1]
    return rule.commit(memory, torch.full((1, written, 1), value), plan)


def test_slots_take_turns() -> None:
    memory, seen = steady(3), []
    for k, step in enumerate((5, 11, 17, 23, 29)):
        memory = write(memory, LRU(), float(k), step)
        seen.append(memory.written_at[0].tolist())
    assert seen == [[5, -1, -1], [5, 11, -1], [5, 11, 17], [23, 11, 17], [23, 29, 17]]
    assert memory.slots.flatten().tolist() == [3, 4, 2]


def test_an_empty_slot_is_replaced_and_a_full_one_blended() -> None:
    rule = LRU(lru_blend_alpha=0.25)
    memory = write(write(steady(2), rule, 8.0, 0), rule, 16.0, 1)
    assert memory.slots.flatten().tolist() == [8, 16]
    memory = write(memory, rule, 0.0, 2)
    assert memory.slots.flatten().tolist() == [6, 16], "0.25 * 0 + 0.75 * 8"


def test_published_blends_into_an_empty_slot_too() -> None:
    memory = write(steady(2), PublishedLRU(lru_blend_alpha=0.25), 8.0, 0)
    assert memory.slots.flatten().tolist() == [0.25 * 8 + 0.75 * 100, 200]


@pytest.mark.parametrize(("blend", "expected"), [(1.0, [7, 200]), (0.0, [100, 200]), (0.5, [53.5, 200])])
def test_blend_of_one_replaces_and_of_zero_keeps(blend: float, expected: list[float]) -> None:
    full = Memory(steady(2).slots, torch.tensor([[3, 4]]))
    after = write(full, LRU(blend), 7.0, 9)
    assert after.slots.flatten().tolist() == expected
    assert after.written_at.tolist() == [[9, 4]]


def test_one_slot_is_written_every_time() -> None:
    memory = steady(1)
    for k in range(3):
        memory = write(memory, LRU(lru_blend_alpha=0.5), float(k), k)
    assert memory.slots.item() == 0.5 * 2 + 0.5 * (0.5 * 1 + 0.5 * 0)
    assert memory.written_at.item() == 2


def test_several_slots_per_write() -> None:
    rule = LRU(slots_per_write=2)
    memory = write(steady(3), rule, 1.0, 4)
    assert memory.written_at.tolist() == [[4, 4, -1]]
    assert write(memory, rule, 2.0, 9).written_at.tolist() == [[9, 4, 9]]


def test_slots_of_one_write_can_have_dates_of_their_own() -> None:
    rule = LRU(slots_per_write=2, divide_segment=True)
    memory = steady(3)
    for first in (0, 2, 4):
        plan = rule.plan(memory, torch.tensor([[first, first + 1]]), torch.tensor([first + 1]))
        assert plan.sees is not None and plan.sees.tolist() == [[True, False], [False, True]]
        memory = rule.commit(memory, torch.tensor([[[float(first)], [first + 1.0]]]), plan)
    assert memory.slots.flatten().tolist() == [3, 4, 5], "the three newest steps, oldest replaced first"
    assert memory.written_at.tolist() == [[3, 4, 5]]


def test_the_published_write_has_no_shares() -> None:
    with pytest.raises(ValueError, match=r"divide_segment: .* the published code has candidates for all"):
        PublishedLRU(divide_segment=True)


def test_least_recently_used_ties_go_to_the_lowest_index() -> None:
    dates = torch.tensor([[4, 2, 2, -1, -1], [7, 7, 7, 7, 7]])
    assert least_recently_used(dates, 3).tolist() == [[3, 4, 1], [0, 1, 2]]


def test_lanes_choose_for_themselves() -> None:
    memory = Memory(torch.zeros(2, 2, 1), torch.tensor([[0, 5], [5, 0]]))
    index = least_recently_used(memory.written_at, 1)
    after = blend_into(memory, torch.ones(2, 1, 1), index, torch.tensor([[8], [9]]), torch.ones(2, 1))
    assert after.slots.flatten().tolist() == [1, 0, 0, 1]
    assert after.written_at.tolist() == [[8, 5], [5, 9]]


@pytest.mark.parametrize(
    ("rule", "dates"), [(ReplaceAll(), [[6, 6], [7, 7]]), (PublishedReplaceAll(), [[-1, -1], [-1, -1]])]
)
def test_replace_all(rule: WriteRule, dates: list[list[int]]) -> None:
    candidate, memory = torch.randn(2, 2, 3, generator=noise()), Memory.initial(2, 2, 3, 1.0, noise())
    plan = rule.plan(memory, torch.tensor([[5, 6], [6, 7]]), torch.tensor([6, 7]))
    assert plan.index is None and plan.sees is None
    after = rule.commit(memory, candidate, plan)
    assert torch.equal(after.slots, candidate)
    assert after.written_at.tolist() == dates


def test_a_new_bank_is_seeded_noise_and_empty() -> None:
    bank = Memory.initial(64, 8, 16, 0.1, noise(3))
    assert torch.equal(bank.slots, Memory.initial(64, 8, 16, 0.1, noise(3)).slots)
    assert not torch.equal(bank.slots, Memory.initial(64, 8, 16, 0.1, noise(4)).slots)
    assert bank.slots.std().item() == pytest.approx(0.1, rel=0.05)
    assert (bank.written_at == NEVER).all() and bank.written_at.dtype == torch.int64
    assert Memory.initial(2, 3, 4, 0.0, None).slots.count_nonzero() == 0


def test_never_is_no_rule() -> None:
    none: Callable[[], WriteRule | None] = never
    assert none() is None


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_a_blend_outside_0_to_1_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"lru_blend_alpha must lie in 0\.\.1"):
        LRU(alpha)


def test_writing_no_slot_is_refused() -> None:
    with pytest.raises(ValueError, match="slots_per_write must be 1 or more"):
        LRU(slots_per_write=0)


def test_the_same_tokens_are_not_copied_into_several_slots() -> None:
    with pytest.raises(ValueError, match="set divide_segment=true, or slots_per_write=1"):
        LRU(slots_per_write=2, copies=True)
    assert LRU(copies=True).copies and LRU(slots_per_write=2, divide_segment=True, copies=True).divide_segment
