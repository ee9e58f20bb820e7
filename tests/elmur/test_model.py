"""ELMUR as a whole: whose memory is whose, the ablations, sizes that are refused."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from elmur.baselines.transformer import Transformer
from elmur.memory import LRU, Memory, ReplaceAll
from elmur.model import ELMUR, Banks, MemoryDesign
from elmur.moe import MixtureOfExperts
from elmur.published.quirks import PublishedLRU, PublishedRelative
from tests.elmur.samples import SPEC, make_batch, make_model, noise

LENGTH = 5
design = partial(MemoryDesign, memory_size=3, memory_init_std=1.0)


def run(model: ELMUR, memory: Banks, segments: int = 3) -> tuple[list[torch.Tensor], list[Banks]]:
    """Predictions and memories of consecutive segments, in evaluation mode."""
    predictions, memories = [], []
    model.eval()
    with torch.no_grad():
        for k in range(segments):
            output, memory = model(make_batch(2, LENGTH, k * LENGTH, seed=k), memory)
            predictions.append(output.prediction)
            memories.append(memory)
    return predictions, memories


def other_slots(memory: Banks, which: int | None = None) -> Banks:
    """The same banks with other numbers in the slots (of one bank, or of all)."""
    return tuple(
        Memory(torch.randn_like(bank.slots), bank.written_at) if which in (None, depth) else bank
        for depth, bank in enumerate(memory)
    )


def gap(left: torch.Tensor, right: torch.Tensor) -> float:
    return (left - right).abs().max().item()


def test_memory_reaches_the_predictions() -> None:
    model = make_model(memory=design())
    memory = model.initial_memory(2, noise())
    assert gap(run(model, memory)[0][0], run(model, other_slots(memory))[0][0]) > 1e-4


def test_slots_are_dated_by_the_last_step_of_the_segment() -> None:
    model = make_model(memory=MemoryDesign(memory_size=2))
    _, memories = run(model, model.initial_memory(2), segments=4)
    for depth in range(2):
        seen = [memory[depth].written_at[1].tolist() for memory in memories]
        assert seen == [[4, -1], [4, 9], [14, 9], [14, 19]]


def test_each_layer_has_a_bank_of_its_own() -> None:
    model = make_model(memory=design())
    memory = model.initial_memory(2, noise())
    assert len(memory) == 2 and not torch.equal(memory[0].slots, memory[1].slots)
    after = run(model, memory, 1)[1][0]
    above, below = (run(model, other_slots(memory, which), 1)[1][0] for which in (1, 0))
    assert gap(above[0].slots, after[0].slots) == 0, "the lower layer does not see the bank of the upper one"
    assert gap(below[1].slots, after[1].slots) > 1e-6, "the upper layer sees the lower one's tokens"


@torch.no_grad()
def test_one_segment_writes_one_slot_and_leaves_the_others() -> None:
    model = make_model(memory=design(write=LRU(0.4)))
    before = model.initial_memory(2, noise())
    _, (after,) = run(model, before, 1)
    for old, new in zip(before, after, strict=True):
        assert (old.slots != new.slots).any(dim=-1).tolist() == [[True, False, False]] * 2
        assert new.slots.dtype == torch.float64 and new.written_at.dtype == torch.int64


def test_an_empty_slot_takes_the_candidate_whole_and_is_blended_later() -> None:
    """Candidates as ReplaceAll writes them, with the same weights."""
    memory = make_model(memory=design()).initial_memory(2, noise())
    candidates = run(make_model(memory=design(write=ReplaceAll())), memory, 1)[1][0]
    fresh = run(make_model(memory=design(write=LRU(0.4))), memory, 1)[1][0]
    used = tuple(Memory(bank.slots, torch.zeros_like(bank.written_at)) for bank in memory)
    candidates_of_used = run(make_model(memory=design(write=ReplaceAll())), used, 1)[1][0]
    blended = run(make_model(memory=design(write=LRU(0.4))), used, 1)[1][0]
    for depth in range(2):
        torch.testing.assert_close(fresh[depth].slots[:, 0], candidates[depth].slots[:, 0])
        expected = 0.4 * candidates_of_used[depth].slots[:, 0] + 0.6 * memory[depth].slots[:, 0]
        torch.testing.assert_close(blended[depth].slots[:, 0], expected)


def test_no_read_means_that_memory_has_no_influence() -> None:
    model = make_model(memory=design(read=False))
    memory = model.initial_memory(2, noise())
    mine, memories = run(model, memory)
    theirs, _ = run(model, other_slots(memory))
    assert max(map(gap, mine, theirs)) == 0
    assert gap(memories[0][0].slots, memory[0].slots) > 1e-4, "it is still written"
    assert not [name for name, _ in model.named_parameters() if "read" in name]


def test_no_write_means_that_memory_stays() -> None:
    model = make_model(memory=design(write=None))
    memory = model.initial_memory(2, noise())
    predictions, memories = run(model, memory)
    for after in memories:
        for old, new in zip(memory, after, strict=True):
            assert torch.equal(old.slots, new.slots) and torch.equal(old.written_at, new.written_at)
    assert gap(run(model, other_slots(memory))[0][0], predictions[0]) > 1e-4, "it is still read"
    assert not [name for name, _ in model.named_parameters() if "writ" in name or "memory" in name]


def test_no_bias_means_that_dates_have_no_influence() -> None:
    for bias_is_there in (False, True):
        model = make_model(memory=design() if bias_is_there else design(bias=None))
        memory = model.initial_memory(2, noise())
        dated = tuple(Memory(bank.slots, torch.tensor([[-1, -1, -1], [-1, 4, 2]])) for bank in memory)
        found = gap(run(model, memory)[0][0], run(model, dated)[0][0])
        assert (found > 1e-6) == bias_is_there
        assert any("bias.table" in name for name, _ in model.named_parameters()) == bias_is_there


def test_one_slot_is_enough() -> None:
    model = make_model(memory=MemoryDesign(memory_size=1, write=LRU(0.5)))
    predictions, memories = run(model, model.initial_memory(2, noise()))
    assert [memory[0].written_at.tolist() for memory in memories] == [[[4]] * 2, [[9]] * 2, [[14]] * 2]
    assert all(prediction.isfinite().all() for prediction in predictions)


def test_shared_memory_is_one_bank_that_every_layer_writes() -> None:
    model = make_model(memory=design(shared=True))
    memory = model.initial_memory(2, noise())
    assert len(memory) == 1
    _, memories = run(model, memory)
    dates = [bank.written_at[0].tolist() for (bank,) in memories]
    assert dates == [[4, 4, -1], [9, 4, 9], [14, 14, 9]], "both layers' writes go on to the next segment"


@torch.no_grad()
def test_layers_read_shared_memory_as_it_was_before_the_segment() -> None:
    """Else an upper layer would see later steps of this segment through what a lower one wrote."""
    model = make_model(memory=design(shared=True)).eval()
    memory = model.initial_memory(2, noise())
    batch, other = make_batch(2, LENGTH), make_batch(2, LENGTH)
    other.observation["state"][:, -1] += 1
    early, late = (model(b, memory)[0].prediction for b in (batch, other))
    assert gap(early[:, :-1], late[:, :-1]) < 1e-12


def test_candidates_for_all_slots_change_the_balance_loss_alone() -> None:
    experts = partial(MixtureOfExperts, num_experts=4, top_k=3, n_shared_experts=1)
    outputs = []
    for rule in (LRU, PublishedLRU):
        model = make_model(memory=design(write=rule(0.6, slots_per_write=2)), feedforward=experts)
        full = tuple(
            Memory(bank.slots, torch.full_like(bank.written_at, 0)) for bank in model.initial_memory(2, noise())
        )
        outputs.append(model(make_batch(2, LENGTH), full))
    (one, one_memory), (every, every_memory) = outputs
    assert gap(one.prediction, every.prediction) == 0
    assert gap(one_memory[1].slots, every_memory[1].slots) < 1e-12
    assert one.balance_loss is not None and every.balance_loss is not None
    assert abs(one.balance_loss.item() - every.balance_loss.item()) > 1e-6


def test_the_balance_loss_is_the_sum_over_layers_reading_and_writing() -> None:
    """One routed expert of one: every mixture adds exactly its coefficient."""
    experts = partial(MixtureOfExperts, num_experts=1, top_k=1, load_balancing_loss_coef=0.25)
    for memory, mixtures in ((design(), 4), (design(write=None), 2), (None, 2)):
        model = make_model(memory=memory, feedforward=experts)
        output, _ = model(make_batch(2, LENGTH), model.initial_memory(2))
        assert output.balance_loss is not None
        assert output.balance_loss.item() == pytest.approx(0.25 * mixtures, rel=1e-6)
        assert model.eval()(make_batch(2, LENGTH), model.initial_memory(2))[0].balance_loss is None


def test_not_writing_leaves_the_predictions_as_they_are() -> None:
    model = make_model(memory=design()).eval()
    memory = model.initial_memory(2, noise())
    written, _ = model(make_batch(2, LENGTH), memory)
    read_only, after = model(make_batch(2, LENGTH), memory, write=False)
    assert gap(written.prediction, read_only.prediction) == 0
    assert after is memory


def test_a_transformer_forgets_what_lies_before_its_window() -> None:
    torch.manual_seed(0)
    model = Transformer(SPEC, d_model=16, n_head=2, n_layer=2, dropout=0.0, dropatt=0.0).double()
    assert model.initial_memory(3) == ()
    predictions, memories = run(model, ())
    assert memories == [(), (), ()]
    alone, _ = model(make_batch(2, LENGTH, 2 * LENGTH, seed=2), ())
    assert gap(alone.prediction, predictions[2]) < 1e-12
    same = make_model(memory=None)
    same.load_state_dict(model.state_dict())
    assert gap(run(same, ())[0][1], predictions[1]) == 0
    assert not [name for name, _ in model.named_parameters() if "read" in name or "writ" in name or "memory" in name]


@pytest.mark.parametrize(("token_format", "per_step"), [("s", 1), ("sra", 3)])
def test_published_distances_begin_at_the_segments_place_counted_in_tokens(token_format: str, per_step: int) -> None:
    model = make_model(position=PublishedRelative, token_format=token_format)
    num_tokens = 2 * per_step
    codes = model.segment(torch.tensor([0, 7]), 2, torch.zeros(2, num_tokens, 16, dtype=torch.float64)).codes
    assert codes is not None
    for lane, start in enumerate((0, 7)):
        expected = [math.sin(start * per_step + num_tokens - 1 - k) for k in range(num_tokens)]  # of frequency 1
        assert codes[lane, :, 0].tolist() == pytest.approx(expected, abs=1e-6)


def test_initial_memory_is_drawn_from_its_generator_alone() -> None:
    model = make_model(memory=design())
    state = torch.get_rng_state()
    first, second, third = (model.initial_memory(2, noise(seed)) for seed in (0, 0, 1))
    assert torch.equal(first[1].slots, second[1].slots) and not torch.equal(first[1].slots, third[1].slots)
    assert torch.equal(torch.get_rng_state(), state), "the training stream is not disturbed"


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"n_head": 3}, "n_head must divide d_model; found n_head=3 and d_model=16"),
        ({"n_head": 0}, "must be 1 or more"),
        ({"n_layer": 0}, "must be 1 or more"),
        ({"d_model": 15, "n_head": 3}, "d_model must be even"),
        ({"token_format": "ss"}, "token_format must be one of"),
    ],
)
def test_sizes_that_make_no_transformer_are_refused(sizes: dict[str, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make_model(**sizes)


def test_memories_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="memory_size must be 1 or more; found 0"):
        MemoryDesign(memory_size=0)
    with pytest.raises(ValueError, match="slots_per_write=3 is more than memory_size=2"):
        MemoryDesign(memory_size=2, write=LRU(slots_per_write=3))


def test_a_memory_of_another_number_of_layers_is_refused() -> None:
    model = make_model(memory=design(), n_layer=3)
    with pytest.raises(
        ValueError, match=r"not one of this ELMUR: expected \((Memory\(\[3, 16\], \[3\]\)(, |\) per)){3}"
    ):
        model(make_batch(2, LENGTH), model.initial_memory(2)[:2])
