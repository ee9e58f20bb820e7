"""Acting: the streaming policy against the forward on whole segments, for lanes that begin at different times."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from elmur.baselines.recurrent import GRU, LSTM
from elmur.batch import SegmentBatch
from elmur.model import ELMUR, MemoryDesign
from elmur.policy import PolicyError, StreamingPolicy
from elmur.sequence_model import SequenceModel
from elmur.spec import Discrete, Image, TaskSpec, Vector
from tests.elmur.samples import CONTINUOUS, SPEC, make_model

ROOT = Path(__file__).parents[2]
L = 4  # steps per segment
QUIET = MemoryDesign(memory_init_std=0.0)  # every new bank is the same


class Script:
    """What the lanes see, do and get at every step, and where their episodes begin."""

    def __init__(self, lanes: int, steps: int, begins: dict[int, list[int]], seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.observation = rng.normal(size=(steps, lanes, 4))
        self.executed = rng.integers(3, size=(steps, lanes))
        self.reward = rng.normal(size=(steps, lanes)).astype(np.float32)
        self.is_first = np.zeros((steps, lanes), np.bool_)
        self.is_first[0] = True
        for step, beginning in begins.items():
            self.is_first[step, beginning] = True

    def play(self, policy: StreamingPolicy) -> np.ndarray:
        """The logits [steps, lanes, A] that the policy acts by; its answers are replaced by the executed actions."""
        policy.start(self.observation.shape[1])
        seen: list[np.ndarray] = []
        inner = policy.model.head.act

        def act(logits: torch.Tensor, generator: Any) -> torch.Tensor:
            seen.append(logits.numpy().copy())
            return inner(logits, generator)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(policy.model.head, "act", act)
            for observation, is_first, executed, reward in zip(
                self.observation, self.is_first, self.executed, self.reward, strict=True
            ):
                policy.act({"state": observation}, is_first)
                policy.observe(executed, reward)
        return np.stack(seen)

    def expected(self, model: SequenceModel, target_return: float = 1.0) -> np.ndarray:
        """The same by the training forward: every episode of every lane by itself, cut into segments from its start."""
        steps, lanes = self.executed.shape
        found = np.full((steps, lanes, 3), np.nan)
        for lane in range(lanes):
            starts = [*np.flatnonzero(self.is_first[:, lane]), steps]
            for first, end in pairwise(starts):
                found[first:end, lane] = self.episode(model, lane, first, end, target_return)
        return found

    def episode(self, model: SequenceModel, lane: int, first: int, end: int, target_return: float) -> np.ndarray:
        got = np.concatenate([[0.0], np.cumsum(self.reward[first:end, lane])[:-1]])
        steps = SegmentBatch.of(
            {"state": torch.from_numpy(self.observation[first:end, lane])[None]},
            torch.from_numpy(self.executed[first:end, lane])[None],
        )
        whole = replace(steps, return_to_go=torch.from_numpy(target_return - got)[None])
        memory, found = model.initial_memory(1), []
        with torch.no_grad():
            for segment in whole.split(L):
                output, memory = model(segment, memory)
                found.append(output.prediction[0])
        return torch.cat(found).numpy()


BEGINS: dict[str, dict[int, list[int]]] = {
    "together": {},
    "one later": {2: [1]},
    "in the middle, at a border, twice": {1: [0], 4: [2], 6: [0, 3], 9: [1, 2]},
    "all again": {3: [2], 5: [0, 1, 2, 3]},
    "back in step": {3: [1], 7: [0, 2, 3]},  # lane 1 commits at 7, the others begin there
}


@pytest.mark.parametrize("case", BEGINS)
@pytest.mark.parametrize("kind", ["s", "sa", "sra", "gru"])
def test_streaming_equals_the_forward_whenever_lanes_begin(case: str, kind: str) -> None:
    torch.manual_seed(0)
    model: SequenceModel = GRU(SPEC, 16).double() if kind == "gru" else make_model(token_format=kind, memory=QUIET)
    script = Script(lanes=4, steps=14, begins=BEGINS[case])
    policy = StreamingPolicy(model.eval(), L, target_return=2.0)
    # Returns are counted in float32 while acting.
    tolerance = 1e-6 if kind == "sra" else 1e-10
    np.testing.assert_allclose(script.play(policy), script.expected(model, 2.0), atol=tolerance, rtol=0)


def test_lanes_that_meet_again_step_together() -> None:
    policy = StreamingPolicy(make_model(memory=QUIET), L)
    script = Script(lanes=4, steps=8, begins=BEGINS["back in step"])
    groups = []
    policy.start(4)
    for observation, is_first in zip(script.observation, script.is_first, strict=True):
        policy.act({"state": observation}, is_first)
        policy.observe(np.zeros(4, np.int64), np.zeros(4, np.float32))
        groups.append(len(policy._groups))
    assert groups[:3] == [1, 1, 1] and set(groups[3:7]) == {2}
    # However lanes begin, a position of the segment has one group that went on there and one that began there.
    script = Script(lanes=9, steps=40, begins={step: [step % 9] for step in range(1, 40)})
    policy.start(9)
    for observation, is_first in zip(script.observation, script.is_first, strict=True):
        policy.act({"state": observation}, is_first)
        positions = [group.position for group in policy._groups]
        assert max(positions.count(position) for position in positions) <= 2
        assert sorted(int(i) for g in policy._groups for i in (range(9) if g.lanes is None else g.lanes)) == [*range(9)]


@pytest.mark.parametrize("kind", ["sa", "sra"])
def test_what_was_executed_counts_not_what_was_answered(kind: str) -> None:
    model = make_model(token_format=kind, memory=QUIET)
    script = Script(lanes=2, steps=9, begins={})
    as_executed = script.play(StreamingPolicy(model, L))
    script.executed = (script.executed + 1) % 3
    otherwise = script.play(StreamingPolicy(model, L))
    assert np.array_equal(as_executed[0], otherwise[0]) and not np.allclose(as_executed[1:], otherwise[1:])


def test_rewards_lower_the_return_that_is_asked_for() -> None:
    policy = StreamingPolicy(make_model(token_format="sr", memory=QUIET), L, target_return=5.0)
    policy.start(2)
    observation = {"state": np.zeros((2, 4))}
    policy.act(observation, np.array([True, True]))
    policy.observe(np.array([0, 0]), np.array([2.0, 0.5], np.float32))
    assert policy._wanted.squeeze(1).tolist() == [3.0, 4.5]
    policy.act(observation, np.array([False, True]))
    assert policy._wanted.squeeze(1).tolist() == [3.0, 5.0], "a new episode asks for the whole again"


def answers(sample: bool, seed: int) -> np.ndarray:
    policy = StreamingPolicy(make_model(), L, sample=sample)
    script = Script(lanes=6, steps=10, begins={})
    policy.start(6, seed)
    acted = []
    for observation, is_first in zip(script.observation, script.is_first, strict=True):
        acted.append(policy.act({"state": observation}, is_first))
        policy.observe(acted[-1], np.zeros(6, np.float32))
    return np.stack(acted)


def test_sampling_is_a_function_of_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = answers(sample=True, seed=3)
    torch.manual_seed(2)
    assert np.array_equal(answers(sample=True, seed=3), first)
    torch.manual_seed(2)
    assert not np.array_equal(answers(sample=True, seed=4), first)
    assert not np.array_equal(answers(sample=False, seed=3), first)


def test_acting_draws_nothing_from_the_global_generator() -> None:
    policy = StreamingPolicy(make_model(), L, sample=True)
    before = torch.get_rng_state()
    policy.start(3, 7)
    for step in range(6):
        policy.act({"state": np.zeros((3, 4))}, np.full(3, step == 0))
        policy.observe(np.zeros(3, np.int64), np.zeros(3, np.float32))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_likeliest_action_is_taken_with_the_shape_of_the_task() -> None:
    script = Script(lanes=3, steps=1, begins={})
    policy = StreamingPolicy(make_model(memory=QUIET), L)
    policy.start(3)
    action = policy.act({"state": script.observation[0]}, script.is_first[0])
    assert np.array_equal(action, script.expected(policy.model)[0].argmax(axis=1)) and action.dtype == np.int64
    torch.manual_seed(0)
    reach = StreamingPolicy(ELMUR(CONTINUOUS, 16, 1, 2), L)
    reach.start(3)
    action = reach.act({"state": script.observation[0].astype(np.float32)}, script.is_first[0])
    assert action.shape == (3, 2) and action.dtype == np.float32
    assert (np.array([-1, 0]) <= action).all() and (action <= np.array([1, 4])).all()


def test_memory_gives_the_banks_of_all_lanes_in_order() -> None:
    policy = StreamingPolicy(make_model(memory=QUIET), L)
    script = Script(lanes=4, steps=6, begins={1: [2]})
    script.play(policy)
    banks = policy.memory()
    # Lane 2 began a step later and has reached its fifth step; all have written their first segment by then.
    assert [bank.written_at.amax(dim=1).tolist() for bank in banks] == [[3, 3, 3, 3]] * 2
    policy.act({"state": script.observation[0]}, np.array([False, True, False, False]))
    assert policy.memory()[0].written_at.amax(dim=1).tolist() == [3, -1, 3, 3]


def test_memory_is_in_order_also_where_lanes_have_met_again() -> None:
    policy = StreamingPolicy(make_model(memory=QUIET), L)
    # Lane 1 begins anew at a border of the others' segments, so that from their next border on all are one group.
    Script(lanes=3, steps=2 * L + 1, begins={L: [1]}).play(policy)
    # Lanes 0 and 2 have written the segments that end with steps 3 and 7, lane 1 its episode's first.
    assert policy.memory()[0].written_at.amax(dim=1).tolist() == [7, 3, 7]


COMPILED = """
from tests.elmur.test_policy import *
model, script = make_model(memory=QUIET).eval(), Script(3, 11, {6: [1]})
found = script.play(StreamingPolicy(model, L, compiled=True))
np.testing.assert_allclose(found, script.expected(model), atol=1e-10, rtol=0)
"""


@pytest.mark.slow
def test_compiled_acting_says_what_the_training_forward_says() -> None:
    # In a process of its own: torch.compile does not see through the shape checks that tests put into every function.
    done = subprocess.run([sys.executable, "-c", COMPILED], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_compiled_acting_without_a_compiler_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler, found no 'no-such-compiler'.*apt-get install g"):
        StreamingPolicy(make_model(), L, compiled=True)


class OneSegment(ELMUR):
    """ELMUR with the streaming that a model has by default."""

    open_segment = SequenceModel.open_segment
    step = SequenceModel.step
    close_segment = SequenceModel.close_segment


@pytest.mark.parametrize("kind", [ELMUR, OneSegment])
def test_an_environment_may_write_into_what_it_gave_and_was_given(kind: type[ELMUR]) -> None:
    model, script = make_model(token_format="sa", memory=QUIET), Script(2, 2 * L + 2, {3: [1]})
    model.__class__ = kind
    policy, found = StreamingPolicy(model, L), []
    policy.start(2)
    shown, done, got = np.zeros((2, 4)), np.zeros(2, np.int64), np.zeros(2, np.float32)
    for observation, is_first, executed in zip(script.observation, script.is_first, script.executed, strict=True):
        shown[:] = observation
        answer = policy.act({"state": shown}, is_first)
        found.append(policy.prediction.numpy().copy())
        done[:] = executed
        policy.observe(done, got)
        shown[:], done[:], answer[:], got[:] = np.nan, -1, -1, np.nan
    np.testing.assert_allclose(np.stack(found), script.expected(model), atol=1e-10, rtol=0)


def test_what_is_returned_is_the_caller_s_own() -> None:
    torch.manual_seed(0)
    reach, answers = ELMUR(CONTINUOUS, 16, 1, 2, token_format="sa"), []
    for spoiled in (False, True):
        policy = StreamingPolicy(reach, L)
        for step in range(3):
            answer = policy.act(np.full((1, 4), step, np.float32), np.array([step == 0]))
            answers.append(policy.prediction.numpy().copy())
            if spoiled:
                answer[:] = 0
                assert np.array_equal(policy.prediction, answers[-1])
    assert np.array_equal(answers[:3], answers[3:]), "without observe the actions count as done as they were given"


@pytest.mark.parametrize("case", ["together", "in the middle, at a border, twice"])
@pytest.mark.parametrize("kind", ["sra", "gru", "default streaming"])
def test_a_policy_goes_on_from_a_snapshot_of_any_step_to_the_bit(case: str, kind: str) -> None:
    """Through a file, into a policy of its own; sampled actions, noise in new memory and the returns asked for too."""
    torch.manual_seed(0)
    model: SequenceModel = GRU(SPEC, 16) if kind == "gru" else ELMUR(SPEC, 16, 2, 2, token_format="sra")
    if kind == "default streaming":
        model.__class__ = OneSegment
    script, steps = Script(lanes=4, steps=11, begins=BEGINS[case]), range(11)
    script.observation = script.observation.astype(np.float32)

    def go_on(policy: StreamingPolicy, first: int) -> np.ndarray:
        found = []
        for t in steps[first:]:
            found.append(policy.act({"state": script.observation[t]}, script.is_first[t]))
            policy.observe(found[-1], script.reward[t])
            saved.append(policy.snapshot())
        return np.stack(found)

    saved: list[dict[str, Any]] = []
    policy = StreamingPolicy(model, L, sample=True)
    policy.start(4, seed=3)
    whole = go_on(policy, 0)
    assert len({tuple(actions) for actions in whole}) > 5, "actions that differ from step to step"
    for step, snapshot in enumerate(saved[: len(steps) - 1]):
        file = io.BytesIO()
        torch.save(snapshot, file)
        file.seek(0)
        again = StreamingPolicy(model, L, sample=True)
        again.start(4, seed=99)
        again.restore(torch.load(file, weights_only=True))
        assert np.array_equal(go_on(again, step + 1), whole[step + 1 :]), f"from step {step}"


def test_a_snapshot_of_other_environments_is_refused() -> None:
    policy, other = StreamingPolicy(make_model(), L), StreamingPolicy(make_model(), L)
    policy.start(2)
    other.start(3)
    with pytest.raises(PolicyError, match="expected a snapshot of 3 environments, found one of 2"):
        other.restore(policy.snapshot())


def test_a_snapshot_of_another_model_is_refused() -> None:
    policy = StreamingPolicy(GRU(SPEC, d_model=16), L)
    policy.start(2)
    policy.act({"state": np.zeros((2, 4), np.float32)}, np.ones(2, bool))
    saved = policy.snapshot()
    for other, theirs in ((GRU(SPEC, d_model=8), r"GRU with \[1, 8\]"), (LSTM(SPEC), r"LSTM with \(.*\)")):
        again = StreamingPolicy(other, L)
        again.start(2)
        said = rf"a snapshot of {theirs} per lane, found one of GRU with \[1, 16\] per lane; load the policy it"
        with pytest.raises(PolicyError, match=said):
            again.restore(saved)
    again = StreamingPolicy(GRU(SPEC, d_model=16), L)
    again.start(2)
    again.restore({key: value for key, value in saved.items() if key != "model"})  # as one of before


def test_one_environment_needs_no_lanes() -> None:
    """The same actions as with a dimension of one; a new episode where that is said, else where `start` was called."""
    script = Script(lanes=1, steps=9, begins={5: [0]})
    policy, alone = StreamingPolicy(make_model(memory=QUIET), L), StreamingPolicy(make_model(memory=QUIET), L)
    policy.start(1)
    for t in range(9):
        expected = policy.act({"state": script.observation[t]}, script.is_first[t])
        found = alone.act(script.observation[t, 0], is_first=True if t == 5 else None)
        assert found.shape == () and found == expected[0]
        policy.observe(script.executed[t], script.reward[t])
        alone.observe(script.executed[t, 0], script.reward[t, 0])
    assert alone.act({"state": script.observation[0, 0]}).shape == ()
    torch.manual_seed(0)
    reach = StreamingPolicy(ELMUR(CONTINUOUS, 16, 1, 2), L)
    assert reach.act({"state": np.zeros(4, np.float32)}).shape == (2,)


BOARD = TaskSpec("board", {"cells": Discrete((3, 3)), "seen": Image(1, 36, 36), "at": Vector(2)}, Discrete((2,)))
FITTING: dict[str, Any] = {
    "cells": np.zeros((2, 2), np.int64),
    "seen": np.zeros((2, 1, 36, 36), np.uint8),
    "at": np.zeros((2, 2)),
}
TENSOR = torch.zeros(2, 2)


@pytest.mark.parametrize(
    ("part", "given", "says"),
    [
        (
            "at",
            np.zeros((2, 3)),
            r"observation 'at': expected Vector \[2\] of 2 env.*, found the shape \[2, 3\]",
        ),
        ("at", np.zeros(2), r"found the shape \[2\]"),
        ("at", np.array([["a", "b"]] * 2), "found <U1"),
        ("at", np.full((2, 2), np.nan), "found nan or inf"),
        ("cells", np.array([[0, 3], [0, 0]]), r"expected Discrete \[2\] .* found 0 to 3, of 3 values from 0"),
        ("cells", np.array([[0, -1], [0, 0]]), "found -1 to 0"),
        ("cells", np.zeros((2, 2)), "found float64"),
        ("cells", TENSOR, r"found torch\.float32"),
        ("seen", np.zeros((2, 1, 36, 36), np.float32), "expected Image .* found float32"),
        ("seen", np.zeros((2, 36, 36, 1), np.uint8), r"found the shape \[2, 36, 36, 1\]"),
        ("seen", None, "expected the part 'seen', found cells, at"),
    ],
)
def test_what_does_not_fit_is_said_in_one_sentence(part: str, given: Any, says: str) -> None:
    policy = StreamingPolicy(ELMUR(BOARD, 16, 1, 2), L)
    policy.start(2)
    observation = {**FITTING, part: given}
    if given is None:
        del observation[part]
    with pytest.raises(PolicyError, match=says):
        policy.act(observation, np.array([True, True]))
    assert policy.act(FITTING, np.array([True, True])).shape == (2,), "nothing has happened"


@pytest.mark.parametrize(
    ("is_first", "says"),
    [
        (np.array([True]), r"expected bool\[2\], .* found bool\[1\]"),
        (np.array([1, 1]), r"expected bool\[2\], .* found int64\[2\]"),
        (np.array([True, False]), "expected true for every environment at the first step after start"),
    ],
)
def test_who_begins_has_to_be_said_of_each(is_first: np.ndarray, says: str) -> None:
    policy = StreamingPolicy(make_model(), L)
    policy.start(2)
    with pytest.raises(PolicyError, match=says):
        policy.act(np.zeros((2, 4)), is_first)
    policy.act(np.zeros((2, 4)), np.array([True, True]))
    with pytest.raises(PolicyError, match=r"rewards of 2 environment.*, found the shapes \[2\] and \[3\]"):
        policy.observe(np.zeros(2, np.int64), np.zeros(3))
    with pytest.raises(PolicyError, match=r"expected the parts cells, seen, at by name, found one array"):
        StreamingPolicy(ELMUR(BOARD, 16, 1, 2), L).act(np.zeros(4))


@pytest.mark.parametrize("sample", [False, True])
def test_what_an_episode_draws_is_a_function_of_its_seed(sample: bool) -> None:
    """Five episodes that begin in lanes of their own choosing, at times of their own choosing, and each one alone."""
    torch.manual_seed(0)
    model = make_model(memory=MemoryDesign(memory_init_std=1.0))
    rng = np.random.default_rng(0)
    shown, length = 3 * rng.normal(size=(5, 9, 4)), 9
    alone = {}
    for episode in range(5):
        policy = StreamingPolicy(model, L, sample=sample)
        policy.start(1, seed=2)
        policy.seed_episodes([episode])
        alone[episode] = [int(policy.act(shown[episode, t])) for t in range(length)]
    assert len({tuple(actions) for actions in alone.values()}) > 2
    policy = StreamingPolicy(model, L, sample=sample)
    policy.start(2, seed=2)
    # Lane 0 plays episode 3 and, four steps later, 1; lane 1 plays 4 and, at once after nine steps, 0.
    plan, lanes = {0: (3, 4), 4: (1, 2), 9: (2, 0)}, [3, 4]
    began = [0, 0]
    for t in range(13):
        first = np.zeros(2, np.bool_)
        if t in plan:
            policy.seed_episodes(plan[t])
            first = np.array([t in (0, 4), t in (0, 9)])
            for lane in np.flatnonzero(first).tolist():
                lanes[lane], began[lane] = plan[t][lane], t
        at = [min(t - began[lane], length - 1) for lane in range(2)]
        action = policy.act({"state": np.stack([shown[lanes[lane], at[lane]] for lane in range(2)])}, first)
        for lane in range(2):
            if t - began[lane] < length:
                assert action[lane] == alone[lanes[lane]][t - began[lane]], (lane, t)


def test_episodes_without_a_seed_of_their_own_draw_otherwise() -> None:
    """In one environment one episode after another, with the same observation: noise and actions differ."""
    policy, actions = StreamingPolicy(make_model(memory=QUIET), L, sample=True), []
    policy.start(1)
    for _ in range(30):
        actions.append(int(policy.act(np.zeros(4), is_first=True)))
        policy.observe(0, 0.0)
    assert len(set(actions)) > 1
    with pytest.raises(PolicyError, match="seed_episodes: expected 1 seeds, one for each environment, found 2"):
        policy.seed_episodes([1, 2])
