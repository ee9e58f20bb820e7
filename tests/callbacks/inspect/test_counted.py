"""What the microscope counts: episodes that still play, steps and not calls, layers that share a bank."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from callbacks.inspect.attention import watched
from callbacks.inspect.controls import shown
from callbacks.inspect.interventions import (
    Lasting,
    at_segments,
    changes,
    knocked_out,
    lasting,
    patched,
    relative,
    shifted,
    twins,
)
from callbacks.inspect.microscope import by_slot, fading, line_of
from callbacks.inspect.page import TEMPLATE, bank
from callbacks.inspect.probes import Probe, alike, failures, probes
from callbacks.inspect.recording import Player, Recording
from callbacks.report.statistics import Share
from elmur.batch import SegmentBatch
from elmur.heads import head_for
from elmur.memory import LRU
from elmur.model import ELMUR, MemoryDesign
from elmur.sequence_model import Output, SequenceModel
from elmur.spec import TaskSpec
from envs import popgym, tmaze
from envs.tmaze import FLAG, HINT
from tests.callbacks.inspect.test_microscope import SEEDS, SPEC, Carrier, player, small

LENGTH = 3


@pytest.fixture(scope="module")
def corridors() -> tuple[Player, Recording]:
    """Corridors of many lengths, whose episodes end one after the other."""
    env = tmaze.make_vector(40, 12, random_corridor=True)
    play = Player(Carrier(SPEC), LENGTH, env, range(700_000, 700_040))
    return play, play()


def test_what_a_change_did_is_told_of_those_that_it_reached(corridors: tuple[Player, Recording]) -> None:
    """Episode by episode: those that had ended before cannot have failed by it."""
    play, own = corridors
    segments = at_segments(own.segments, 9)
    resets = {one.segment: one for one in knocked_out(play, own, segments) if one.kind == "reset"}
    fewest = 40
    for segment in segments:
        again = play(change=changes(play.model, segment)["reset"])
        pairs = zip(own.episodes, again.episodes, strict=True)
        outcomes = [(old.success, new.success) for old, new in pairs if old.length > segment * LENGTH]
        assert resets[segment].episodes == len(outcomes)
        assert resets[segment].success == Share.of(sum(new for _, new in outcomes), len(outcomes))
        assert resets[segment].usual == Share.of(sum(old for old, _ in outcomes), len(outcomes))
        fewest = min(fewest, len(outcomes))
    assert 0 < fewest < 10


def test_patching_needs_a_donor_that_still_plays(corridors: tuple[Player, Recording]) -> None:
    play, own = corridors
    told = {one.segment: one.episodes for one in patched(play, own, shifted(own), at_segments(own.segments, 9), 4)}
    lengths = [episode.length for episode in own.episodes]
    for segment in range(1, own.segments):
        both = sum(min(lengths[n], lengths[(n + 1) % 40]) > segment * LENGTH for n in range(40))
        assert told.get(segment, 0) == both


def test_twins_are_compared_as_long_as_both_play(corridors: tuple[Player, Recording]) -> None:
    """Of this model predictions of twins are the same but at the junction: what is told is the share that is there."""
    play, own = corridors
    other = twins(play)
    assert other is not None
    rows = lasting(play.model, own, other)
    for row in rows:
        playing = [n for n in range(40) if min(own.episodes[n].length, other.episodes[n].length) > row.steps]
        assert row.episodes == len(playing)
        apart = []
        for n in playing:
            one, its = (torch.tensor(of.predictions[row.steps][n]).softmax(0) for of in (own, other))
            apart.append(float((one - its).abs().sum()) / 2)
        assert row.prediction == pytest.approx(np.mean(apart))
        held = [of.slots()["noise"][row.segment][playing] for of in (own, other)]
        assert row.memory["noise"] == pytest.approx(relative(*held))
    assert [row.episodes for row in rows] == sorted((row.episodes for row in rows), reverse=True)
    assert rows[-1].episodes < 10


def test_slots_that_fail_are_those_of_episodes_that_play() -> None:
    """Each episode's slots as its own last segment begins; behind its end a lane is fed with what is no episode."""
    env = tmaze.make_vector(24, 12, random_corridor=True)
    own = Player(small(), LENGTH, env, SEEDS)(attention=True)
    rng = np.random.default_rng(0)  # an untrained reader neglects no slot
    own.read[0] = [rng.dirichlet([0.05] * 3, of.shape[:2]) for of in own.read[0]]
    slots, written, hardly = own.slots()["layer 0"], list[float](), list[bool]()
    each = []
    for lane, episode in enumerate(own.episodes):
        last = (episode.length - 1) // LENGTH
        if last:
            each.append(alike(slots[last][lane : lane + 1]))
        for segment in range(1, last + 1):
            weights = torch.tensor(own.write[0][segment - 1][lane, 0], dtype=torch.float64)
            written.append(float(-(weights * weights.log()).sum() / np.log(LENGTH)))
            steps = range(segment * LENGTH, min(episode.length, (segment + 1) * LENGTH))
            read = np.mean([own.read[0][step][lane].mean(0) for step in steps], axis=0)
            hardly += [bool(read[slot] < 0.1 / 3) for slot in range(min(segment, 3))]
    found = {(failure.name, failure.bank): failure.value for failure in failures(own)}
    assert len({episode.length for episode in own.episodes}) > 3
    assert found["collapse", "layer 0"] == pytest.approx(np.mean(each))
    assert found["diffuse writing", "layer 0"] == pytest.approx(np.mean(written), rel=1e-4)
    assert found["written, hardly read", "layer 0"] == pytest.approx(np.mean(hardly)) and any(hardly)


@pytest.mark.parametrize("token_format", ["s", "sa", "sra"])
def test_reading_is_told_once_a_step_for_every_token_format(token_format: str) -> None:
    """As whole segments tell it of the tokens that predict; the last action is read with and predicts nothing."""
    torch.manual_seed(0)
    design = MemoryDesign(memory_size=3, memory_init_std=1.0, write=LRU(0.5))
    model = ELMUR(SPEC, 16, 2, 2, 0.0, 0.0, token_format=token_format, memory=design).eval()
    own = player(model)(attention=True)
    steps = len(own.predictions)
    assert len(own.read[0]) == len(own.read[1]) == steps == 12
    kept = [episode.steps for episode in own.episodes if episode.steps is not None]
    per_step, at = len(token_format), {"s": 0, "sa": 0, "sra": 1}[token_format]  # whose order is return, state, action
    received = np.stack([np.cumsum(steps.reward) - steps.reward for steps in kept])
    for segment in range(own.segments):
        whole: dict[tuple[str, int], Tensor] = {}
        batch = shown(kept, np.arange(segment * LENGTH, (segment + 1) * LENGTH), segment * LENGTH)
        batch.return_to_go = torch.from_numpy(1 - received[:, segment * LENGTH : (segment + 1) * LENGTH]).float()

        def tell(what: str, layer: int, weights: Tensor, to: dict[tuple[str, int], Tensor] = whole) -> None:
            to[what, layer] = weights

        with watched(model, tell), torch.inference_mode():
            model(batch, own.memories[segment])
        for step in range(LENGTH):
            told = own.read[0][segment * LENGTH + step]
            torch.testing.assert_close(torch.from_numpy(told), whole["read", 0][:, :, step * per_step + at])


@pytest.mark.parametrize("size", [4, 3, 8])
def test_a_shared_bank_is_told_of_all_its_layers(size: int) -> None:
    """What was written is what changed, by two layers one after the other; what is read, by the heads of both."""
    model = small(memory_size=size, shared=True)
    own = player(model)(attention=True)
    slots, dates = own.slots()["layer 0"], own.written_at()["layer 0"]
    told = own.writing(0)
    assert told is not None and list(own.slots()) == ["layer 0"]
    for segment in range(own.segments - 1):
        changed = (slots[segment + 1] != slots[segment]).any(-1)
        for lane in range(len(SEEDS)):
            assert sorted(told[1][segment][lane]) == np.flatnonzero(changed[lane]).tolist()
            assert own.index[0][segment][lane, 0] == dates[segment][lane].argmin(), "the first of the oldest"
    page = bank(own, "layer 0", 0, 0, own.segments)
    assert np.shape(page["write"]) == (own.segments - 1, 2, LENGTH) and np.shape(page["written"])[1] == 2
    heads = np.mean([[weights[0] for weights in own.read[layer]] for layer in (0, 1)], axis=(0, 2))
    np.testing.assert_allclose(page["read"], heads, atol=1e-4)


class Waits(Carrier):
    """Waits a step at the junction where the hint is negative, so that one of two twins plays longer."""

    def forward(
        self, batch: SegmentBatch, memory: Any, write: bool = True, write_grad: bool = True
    ) -> tuple[Output, Any]:
        out, after = super().forward(batch, memory, write, write_grad)
        state = batch.observation["state"]
        held = memory["sum"] + state[..., HINT].cumsum(1)
        step = batch.start[:, None] + torch.arange(state.shape[1])
        out.prediction[..., 0] += 5.0 * ((held <= 0) & (state[..., FLAG] == 1) & (step < 11))
        return out, after


def test_a_twin_that_ends_a_segment_earlier_gives_nothing_there() -> None:
    play = Player(Waits(SPEC), 11, tmaze.make_vector(1, 12), [700_000])
    own, other = play(), twins(play)
    assert other is not None and (own.segments, other.segments) == (2, 1)
    assert not list(patched(play, own, other, [1], 4)) and not lasting(play.model, own, other)
    assert list(knocked_out(play, own, [1]))


class Last(SequenceModel):
    """Holds the last four cards, each as a unit vector; for RepeatPrevious."""

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__()
        self.spec, self.head, self.unused = spec, head_for(spec, 2), nn.Parameter(torch.zeros(1))

    def initial_memory(self, batch_size: int, generator: torch.Generator | None = None) -> Any:
        return {"last": torch.zeros(batch_size, 1, 20)}

    def forward(
        self, batch: SegmentBatch, memory: Any, write: bool = True, write_grad: bool = True
    ) -> tuple[Output, Any]:
        cards = nn.functional.one_hot(batch.observation["observation"][..., 0] + 1, 5).float()
        held = torch.cat([memory["last"].view(-1, 4, 5), cards], 1)
        return Output(30.0 * held[:, 1:-3, 1:]), {"last": held[:, -4:].reshape(len(cards), 1, 20)}


def test_a_field_that_changes_is_asked_as_memory_has_seen_it() -> None:
    """A memory of the last four cards has each of them, and not the one that the next segment shows first."""
    env = popgym.make_vector(60, "popgym-RepeatPreviousEasy-v0")
    own = Player(Last(env.spec), 13, env, range(700_000, 700_060))()
    assert [episode.episode_return for episode in own.episodes] == pytest.approx([1.0] * 60)
    found = list(probes(own))
    assert {(probe.segment, probe.item) for probe in found} == {(s, i) for s in (1, 2, 3) for i in range(4)}
    assert all(probe.accuracy.value == 1.0 for probe in found)


def test_the_interval_of_several_items_is_over_episodes() -> None:
    """Three items of which one tells all: as much is known as of one item, however many there are."""
    rng = np.random.default_rng(3)
    hits = rng.random((2, 40)) < np.array([[0.5], [0.8]])
    each = [Probe("cards", item, "layer 0", 1, hits, ~hits, 0.3) for item in range(3)]
    line = line_of("cards", 1, "layer 0", each)
    assert line["accuracy"] == Share.mean(hits[1].astype(float))
    assert line["control"] == Share.mean((~hits[0]).astype(float))
    assert by_slot(each, 2)["slot 0"] == Share.mean(hits[0].astype(float))
    low, high = line["accuracy"].interval
    spread = 1.96 * np.sqrt(hits[1].mean() * (1 - hits[1].mean()) / 40)
    assert (high - low) / 2 == pytest.approx(spread, abs=0.03)


def test_the_change_of_a_slot_is_a_share() -> None:
    """Of how far it went and what it was: nearly 1 where noise is replaced, and less where slots are blended."""
    own = player(small(memory_init_std=0.001, memory_size=2))()
    slots, change = own.slots()["layer 0"][:, 0], np.array(bank(own, "layer 0", 0, 0, own.segments)["change"])
    for segment, slot in ((1, 0), (2, 1), (3, 0)):
        went, before = (float(np.linalg.norm(of)) for of in (
            slots[segment][slot] - slots[segment - 1][slot], slots[segment - 1][slot]))  # fmt: skip
        assert change[segment][slot] == pytest.approx(went / (went + before), abs=1e-4)
    assert change[1, 0] > 0.99 and 0.05 < change[3, 0] < 0.9 and not change[0].any() and not change[1, 1]


def test_a_difference_that_comes_later_fades_from_there() -> None:
    def said(*values: float) -> str:
        rows = [Lasting(n, 26 * n, 9, {"b": v}, 0.0, 0.0, None) for n, v in enumerate(values, start=1)]
        return fading("b", values, rows)

    assert said(0.0, 0.8, 0.5, 0.4) == "b: apart from step 52 on, half after 104 steps, a hundredth never in 104 steps."
    assert said(0.8, 0.4, 0.008) == "b: half after 52 steps, a hundredth after 78 steps."
    assert said(0.0, 0.0) == "b: twins are never apart."


def test_the_page_takes_episodes_of_any_length() -> None:
    """A call with an argument for each of 130,000 cells ends a browser's script."""
    assert "Math.max(..." not in TEMPLATE.read_text()
