"""The doctor: what it says of episodes and slots, and of the published configurations, whose facts are known."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from callbacks.inspect.gradients import gradients, knobs, others, write_path
from callbacks.inspect.regime import Finding, Regime, Slots, examine
from elmur.memory import LRU, ReplaceAll, WriteRule
from elmur.model import ELMUR, MemoryDesign
from elmur.module import SequenceModule
from elmur.published.quirks import PublishedLRU
from envs.hidden import Demand
from tests.command import CommandLine
from tests.elmur.samples import SPEC, make_batch


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
    found = Slots.of(design, Regime(context_length=5, backprop_segments=1, horizon=5 * segments), segments)
    assert (found.first_rewrite, found.blends, found.per_write, found.written) == expected


def said(regime: Regime, about: str, **design: Any) -> list[Finding]:
    return [finding for finding in examine(regime, MemoryDesign(**design)) if finding.about == about]


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
    for steps, size, word in ((60, 4, "a slot has to hold 13"), (60, 52, "one for each"), (5, 4, "without memory")):
        regime = Regime(10, 6, 60, demand=Demand(52, "cards", steps))
        (finding,) = said(regime, "capacity", memory_size=size)
        assert word in finding.sentence


def test_slots_that_are_not_written_are_noise_or_hidden() -> None:
    regime = Regime(context_length=10, backprop_segments=3, horizon=30)
    for read_unwritten, word in ((True, "tokens read noise there"), (False, "they are not read")):
        _, surplus = said(regime, "writes", memory_size=5, read_unwritten=read_unwritten)
        assert surplus.sentence.startswith("3 of 5 slots are never written") and word in surplus.sentence
        (none,) = said(regime, "writes", write=None, read_unwritten=read_unwritten)
        assert ("noise" in none.sentence) is read_unwritten


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
