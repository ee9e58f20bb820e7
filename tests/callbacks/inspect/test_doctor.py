"""The doctor: what it says of episodes and slots, and of the published configurations, whose facts are known."""

from __future__ import annotations

import json
import re
from functools import partial
from typing import Any

import pytest
import torch

from callbacks.inspect.costs import Size
from callbacks.inspect.doctor import Patient, findings
from callbacks.inspect.examine import examine
from callbacks.inspect.gradients import gradients, knobs, others, write_path
from callbacks.inspect.regime import Carried, Finding, Regime
from callbacks.inspect.slots import Slots
from elmur.memory import LRU, NEVER, ReplaceAll, WriteRule
from elmur.model import ELMUR, MemoryDesign
from elmur.module import SequenceModule
from elmur.published.quirks import PublishedLRU
from envs import tmaze
from envs.hidden import Demand
from tests.command import CommandLine
from tests.elmur.samples import SPEC, make_batch
from tests.elmur.test_models import MODELS


@pytest.mark.parametrize(
    ("rule", "size", "segments", "expected"),
    [
        # (first segment that overwrites, blending acts, slots of a write, slots that hold something at the last read)
        (LRU(0.8), 2, 15, (2, True, 1, 2)),
        (LRU(0.8), 2, 3, (None, False, 1, 2)),  # two writes are read, one for each slot
        (LRU(0.8), 2, 4, (2, True, 1, 2)),
        (PublishedLRU(0.8), 2, 3, (None, True, 1, 2)),  # which blends into empty slots too
        (LRU(1.0, slots_per_write=4), 6, 3, (1, True, 4, 6)),
        (LRU(1.0), 256, 3, (None, False, 1, 2)),
        (ReplaceAll(), 3, 4, (1, False, 3, 3)),
    ],
)
def test_what_a_rule_does_with_its_slots(rule: WriteRule, size: int, segments: int, expected: tuple[Any, ...]) -> None:
    design = MemoryDesign(memory_size=size, write=rule)
    found = Slots.of(Carried(design), Regime(context_length=5, backprop_segments=1, horizon=5 * segments), segments)
    assert (found.first_rewrite, found.blends, found.per_write, found.written) == expected


def said(regime: Regime, about: str, **design: Any) -> list[Finding]:
    return [finding for finding in examine(regime, Carried(MemoryDesign(**design))) if finding.about == about]


def test_the_formula_of_the_published_maze() -> None:
    """H(1 %) = M L ln(0.01) / ln(1 - 0.79): 59 steps, as it was published."""
    regime = Regime(context_length=10, backprop_segments=1, horizon=30, longest=9600)
    assert "a horizon of 59 steps" in str(said(regime, "blending", memory_size=2, write=LRU(0.79))[-1])


@pytest.mark.parametrize(
    ("window", "horizon", "warns"),
    [(1, 30, True), (3, 30, True), (6, 60, False), (2, 60, False), (1, 60, True)],
)
def test_rewriting_that_no_loss_sees(window: int, horizon: int, warns: bool) -> None:
    """With two slots the third write meets one that holds something; it must be read in the same window."""
    regime = Regime(context_length=10, backprop_segments=window, horizon=horizon, longest=900)
    assert bool(said(regime, "rewriting", memory_size=2)) is warns


def test_what_is_held_against_what_fits() -> None:
    for steps, size, length, word in (
        (60, 4, 10, "a slot has to hold 13"),
        (60, 52, 10, "one for each"),
        (5, 4, 60, "can be solved without memory"),
        (5, 4, 10, "the first 5 steps of each later one need the memory"),  # 10 to 14, say
    ):
        regime = Regime(length, 6, 60, demand=Demand(52, "cards", steps))
        (finding,) = said(regime, "capacity", memory_size=size)
        assert word in finding.sentence


SEGMENTED = ("elmur", "transformer", "trxl", "gtrxl", "rmt", "rate")


@pytest.mark.parametrize("name", [name for name in MODELS if name != "diffusion_policy"])
def test_one_segment_is_all_of_attention_and_nothing_to_a_state(name: str) -> None:
    """Whose answer at a step of that one segment depends on what it carried from the step before."""
    carried = Carried.of(MODELS[name](spec=SPEC))
    assert carried.by_step == (name not in SEGMENTED), name
    assert carried.state == (name not in ("transformer", "mlp")), name
    regime = Regime(105, 1, 103, 103, Demand(52, "cards", 103))
    text = " ".join(finding.sentence for finding in examine(regime, carried))
    assert ("attention sees all of it" in text) == ("without memory" in text) == (not carried.by_step), text
    assert ("the gradient goes through all of it" in text) == carried.by_step
    assert ("the state is its memory" in text) == (carried.by_step and carried.state)


def test_memory_that_is_first_read_in_acting() -> None:
    """Trained on one segment of 30 steps, in a corridor of 900 it reads 29 times what it wrote."""
    regime = Regime.of(partial(tmaze.make_vector, time_limit=30), {"T=900": {"time_limit": 900}}, 30, 30, 1)
    assert regime.demand == Demand(1, "hint", 899), "that of what is acted in"
    warned = [finding for finding in examine(regime, Carried(MemoryDesign())) if finding.warns]
    assert {finding.about for finding in warned} == {"segments", "rewriting"}
    assert "900 steps, 30 segments: memory is read there, which is never trained" in warned[0].sentence
    assert not [f for f in examine(Regime(30, 1, 30, 9), Carried(MemoryDesign())) if f.warns]


@pytest.mark.parametrize(("window", "horizon", "size", "length"), [(1, 60, 2, 10), (1, 30, 2, 10), (15, 30, 2, 10),
                         (3, 40, 2, 10), (1, 400, 6, 90), (2, 31, 9, 5), (1, 8, 6, 2), (4, 100, 1, 100)])  # fmt: skip
def test_what_is_advised_is_enough_and_no_less_is(window: int, horizon: int, size: int, length: int) -> None:
    """Followed, nothing is left to say; one segment less in a window, or one step more in a segment, and it is."""

    def warning(length: int, window: int) -> list[Finding]:
        return said(Regime(length, window, horizon, 100 * horizon), "rewriting", memory_size=size)

    (finding,) = warning(length, window)
    numbers = {what: int(number) for what, number in re.findall(r"(windows|segments) of (\d+)", finding.sentence)}
    followed = {"length": numbers.get("segments", length), "window": numbers.get("windows", window)}
    assert numbers and not warning(**followed)
    if "segments" in numbers:
        others = {*range(1, min(horizon, 30)), *range(30, horizon, 17)}
        assert all(warning(followed["length"] + 1, other) for other in others)
        assert not any(warning(shorter, followed["window"]) for shorter in range(1, followed["length"]))
    else:
        assert all(warning(length, other) for other in range(2, followed["window"]))


def test_no_advice_where_episodes_are_too_short_and_none_for_what_never_changes() -> None:
    (finding,) = said(Regime(10, 1, 30, 9000), "rewriting", memory_size=78)
    assert "It would take longer episodes in training, or fewer slots" in finding.sentence
    rule = LRU(0.8, slots_per_write=8, divide_segment=True)  # which segments of 5 steps could not feed
    (finding,) = said(Regime(10, 2, 16, 900), "rewriting", memory_size=16, write=rule)
    assert "or fewer slots" in finding.sentence
    assert not said(Regime(10, 1, 60, 900), "rewriting", memory_size=2, write=LRU(0.0))


@pytest.mark.parametrize(("size", "layers"), [(8, 4), (8, 3), (5, 2), (3, 4)])
def test_a_shared_bank_is_written_by_every_layer(size: int, layers: int) -> None:
    """What is said of an episode of three segments is what the slots of a model hold when the third begins."""
    torch.manual_seed(0)
    model = ELMUR(SPEC, 16, layers, 2, 0.0, 0.0, memory=MemoryDesign(memory_size=size, shared=True)).eval()
    memory, held = model.initial_memory(2, torch.Generator().manual_seed(0)), []
    for _ in range(3):
        held.append(int((memory[0].written_at != NEVER).sum(1)[0]))
        _, memory = model(make_batch(2, 10, dtype=torch.float32), memory)
    carried = Carried.of(model)
    found = Slots.of(carried, regime := Regime(10, 3, 30, 30), 3)
    assert (found.per_write, found.written) == (held[1], held[2])
    first, *rest = (finding for finding in examine(regime, carried) if finding.about == "writes")
    assert first.sentence.startswith(f"{size} slots for all {layers} layers, of which a segment writes {held[1]}:")
    assert [finding.sentence.split()[0] for finding in rest] == [str(size - held[2])] * (held[2] < size)


def test_blending_begins_where_a_slot_is_written_twice() -> None:
    """Slots 0 and 1, then 2 and 0: the third segment reads the first that was blended."""
    for rule, size, segment in ((LRU(0.8, 2), 3, 3), (LRU(0.8), 2, 4), (LRU(0.8, 2), 4, 4)):
        (finding, *_) = said(Regime(5, 2, 10, 10), "blending", memory_size=size, write=rule)
        assert f"is read from segment {segment} on" in finding.sentence


def test_slots_that_are_not_written_are_noise_or_hidden() -> None:
    regime = Regime(context_length=10, backprop_segments=3, horizon=30)
    noise, hidden = "tokens read noise there", "they are not read"
    for read_unwritten, joint, word in ((True, False, noise), (False, False, hidden), (True, True, hidden)):
        design = {"read_unwritten": read_unwritten, "joint": joint}
        _, surplus = said(regime, "writes", memory_size=5, **design)
        assert surplus.sentence.startswith("3 of 5 slots are never written") and word in surplus.sentence
        (none,) = said(regime, "writes", write=None, **design)
        assert ("noise" in none.sentence) is (word is noise)


def module_of(seed: int = 0, **model: Any) -> SequenceModule:
    torch.manual_seed(seed)
    made = SequenceModule(lambda spec: ELMUR(spec, 16, 2, 2, 0.1, 0.1, **model), context_length=4)
    made.build_model(SPEC)
    return made


def test_looking_at_gradients_leaves_everything_as_it_was() -> None:
    module, batch = module_of(), make_batch(3, 12, dtype=torch.float32)
    noise = torch.Generator().manual_seed(1)
    window = module.run_window(batch, "train", noise)
    window.loss.backward()
    before = {n: (p.detach().clone(), p.grad.clone()) for n, p in module.named_parameters() if p.grad is not None}
    carry, state = module._carry["train"], torch.get_rng_state()
    found = gradients(module.eval(), [batch])
    assert module._carry == {"train": carry} and torch.equal(state, torch.get_rng_state()) and not module.training
    for name, parameter in module.named_parameters():
        if name in before:
            assert torch.equal(parameter, before[name][0]) and torch.equal(parameter.grad, before[name][1])  # type: ignore[arg-type]
    assert found.keys() == dict(module.named_parameters()).keys()
    assert len(write_path(module.model)) > 10


def test_a_knob_that_is_not_used_is_found_and_one_that_is_used_is_not() -> None:
    def learner(sections: Any) -> SequenceModule:
        return module_of(memory=MemoryDesign(memory_size=8, memory_init_std=sections["model"]["std"],
                                             write=LRU(sections["model"]["blend"])))  # fmt: skip

    sections = {"model": {"std": 0.1, "blend": 0.5}}
    assert {k.key: k.acts for k in knobs(sections, learner, [make_batch(3, 12, dtype=torch.float32)])} == {
        "model.std": True, "model.blend": False,  # three segments write to three of eight slots, once
    }  # fmt: skip


@pytest.mark.parametrize(
    ("looked_at", "horizon", "said"),
    [
        (2, 24, "gradients of the first 2 windows of an episode of 6 are the same"),
        (6, 24, "gradients of a whole episode are the same"),
        (2, 8, "gradients of a whole episode are the same"),
        (2, None, "gradients of the first 2 windows of an episode are the same"),
    ],
)
def test_what_acts_later_in_an_episode_is_not_called_idle(looked_at: int, horizon: int | None, said: str) -> None:
    """Three slots, of which segments 0 to 2 write one each: lambda acts from the fourth write on."""

    def learner(sections: Any) -> SequenceModule:
        return module_of(memory=MemoryDesign(memory_size=3, write=LRU(sections["model"]["lru_blend_alpha"])))

    batch = make_batch(3, 24, dtype=torch.float32)
    batch.is_first[:], batch.start[:] = True, 0
    sections = {"model": {"lru_blend_alpha": 0.5}, "module": {"weight": 1.0}}  # the second is used by nothing
    patient = Patient(learner(sections), list(batch.split(4))[:looked_at], learner, sections,
                      Regime(4, 1, horizon), Size(3, 0, 0, True))  # fmt: skip
    told = {f.key: f.sentence for f in findings(patient)[0] if f.about == "knob without effect"}
    idle = {"module.weight"} | ({"model.lru_blend_alpha"} if horizon != 24 else set())
    assert set(told) == idle and all(said in text for text in told.values())


FAST = ("evaluation.num_episodes=2", "data.lanes=8")


def test_the_published_maze(cli: CommandLine) -> None:
    """968,448 parameters of the writer were never trained, nor were the routers, whose loss has no gradient."""
    done = cli.run("stage=doctor", "experiment=tmaze_published_code", "env.lengths=[30,900]", *FAST)
    assert (done.code, done.stderr) == (0, ""), done.stderr
    text = " ".join(done.stdout.split())
    assert "! writer: The writer gets no gradient" in text and "Its 968,448 parameters stay" in text
    assert "! rewriting: Acting overwrites slots" in text
    assert "1,024 parameters get no gradient" in text  # two routers of two layers, 128 by 2
    idle = {line for line in text.split() if line.startswith("[model.") and "load_balancing" in line}
    assert idle == {"[model.feedforward.load_balancing_loss_coef]"}


@pytest.mark.slow
def test_the_published_popgym(cli: CommandLine) -> None:
    """1,674,240 parameters of its writer were never trained, and of eight slots it uses two."""
    task = ("experiment=popgym_published_code", "task=popgym_autoencode_easy")
    done = cli.run("stage=doctor", *task, *FAST)
    assert (done.code, done.stderr) == (0, ""), done.stderr
    text = " ".join(done.stdout.split())
    for part in ("Its 1,674,240 parameters stay", "6 of 8 slots are never written", "52 cards for up to 103 steps",
                 "after 87% of the updates and ends at 1.", "model.feedforward.top_k=1"):  # fmt: skip
        assert part in text, part


@pytest.mark.slow
def test_our_own_maze_has_nothing_against_it(cli: CommandLine) -> None:
    done = cli.run("stage=doctor", "env.lengths=[30,900]", *FAST, to=cli.folder / "own")
    assert (done.code, done.stderr) == (0, ""), done.stderr
    found = json.loads((cli.folder / "own" / "doctor.json").read_text())
    assert not [f for f in found["findings"] if f["warns"]]
    assert sum(int(line["without gradient"]) for line in found["parameters"]) == 0


@pytest.mark.parametrize("module", ["iql", "filtered"])
def test_what_acts_elsewhere_than_in_a_gradient_is_not_called_idle(cli: CommandLine, module: str) -> None:
    """The target's rate acts on the update, the limit of IQL once advantages are large, the share on what is read."""
    done = cli.run("stage=doctor", "model=gru", f"module={module}", "model.d_model=8", "env.lengths=[9]", *FAST)
    assert (done.code, done.stderr) == (0, ""), done.stderr
    assert "learning rate" in done.stdout and "knob without effect" not in done.stdout


def test_a_limit_acts_below_what_it_limits() -> None:
    assert min(others(100.0)) < 1.0 < 100.0 < max(others(100.0)) and 0.0 not in others(0.0)


def test_a_model_without_memory_is_told_what_there_is(cli: CommandLine) -> None:
    done = cli.run("stage=doctor", "model=transformer", "env.lengths=[30]", *FAST)
    assert (done.code, done.stderr) == (0, ""), done.stderr
    assert "attention sees all of it at once" in " ".join(done.stdout.split())
