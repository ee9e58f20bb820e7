"""What the benchmark says, by clocks that are known and by operations counted by hand."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from callbacks.benchmark import acting, training
from callbacks.benchmark.timing import CPU, bare_products, take_turns
from callbacks.evaluation.device import operations
from elmur.model import ELMUR
from elmur.module import SequenceModule
from elmur.policy import StreamingPolicy
from elmur.spec import Discrete, TaskSpec, Vector
from envs.rollout import RandomPolicy
from tests.slow_env import HORIZON, Slow

SPEC = TaskSpec("tmaze", {"state": Vector(4)}, Discrete((4,)), 30)


@pytest.fixture
def model() -> ELMUR:
    return ELMUR(SPEC, 16, 1, 2, dropout=0.1)


def test_pieces_take_turns_and_the_median_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call of each does not count: it takes 100 s; those after it 1, 2, 3 ... and twice as many."""
    clock, calls = [0.0], {"a": 0, "b": 0}
    monkeypatch.setattr("callbacks.benchmark.timing.time.perf_counter", lambda: clock[0])

    def work(name: str, scale: int) -> None:
        clock[0] += scale * calls[name] or 100.0
        calls[name] += 1

    assert take_turns({"a": partial(work, "a", 1), "b": partial(work, "b", 2)}, 3.0) == {"a": 3.0, "b": 6.0}
    assert calls == {"a": 6, "b": 6}, "five rounds at least"


def test_rates_are_those_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight environments side by side: 12 steps of half a second, and a reset of two seconds, for 96 steps."""
    monkeypatch.setattr("callbacks.benchmark.timing.time.perf_counter", lambda: Slow.clock)
    spec = TaskSpec("slow", {"state": Vector(2)}, Discrete((3,)), HORIZON)
    make = partial(Slow, seconds=0.5, resetting=2.0, spec=spec)
    module = SequenceModule(partial(ELMUR, d_model=8, n_layer=1, n_head=1), 8)
    (row,) = acting.measure_tasks(module, [{"make": make, "expert": lambda: RandomPolicy(spec), "envs": 8}], 0.1)
    rate = pytest.approx(8 * 12 / (12 * 0.5 + 2.0))
    assert row == {"task": "slow", "envs": 8, "collecting, env steps/s": rate, "acting, env steps/s": rate}


def test_recomputing_acts_as_streaming_does(model: ELMUR) -> None:
    rng = np.random.default_rng(0)
    seen = [{"state": rng.normal(size=(3, 4)).astype(np.float32)} for _ in range(12)]
    ways = StreamingPolicy(model, 5), StreamingPolicy(acting.Recomputing(model).eval(), 5)
    for policy in ways:
        policy.start(3, seed=1)
    for step, observation in enumerate(seen):
        first = np.full(3, step == 0)
        fast, slow = (policy.act(observation, first) for policy in ways)
        assert fast.tolist() == slow.tolist()
        for policy in ways:
            policy.observe(fast, np.zeros(3, np.float32))


@pytest.mark.slow
def test_rows_of_training_and_of_its_products_alone(model: ELMUR) -> None:
    case = training.Case("small", training.wrapped(model), training.made_up(4, 20))
    rows = training.measure_training([case], CPU, seconds=0.01)
    assert [(row["type"], row["threads"], row["captured"]) for row in rows] == [
        (name, n, False) for n in (1, 2) for name in ("float32", "bfloat16")
    ]
    for row in rows:
        assert row["share"] == pytest.approx(row["products alone, ms"] / row["ms an update"])
        assert 0 < row["share"] < 1, "what is a part of the step takes less than it"


def test_operations_of_the_products_are_three_times_those_of_forward(model: ELMUR) -> None:
    """Of one segment whose memory is written without a loss; the first map's input needs no gradient."""
    module = training.wrapped(model)
    step = training.training_step(module, training.made_up(3, 10))
    _, found = bare_products(module, step, torch.float32, CPU)
    read = 2 * 3 * 16 * 32  # slots to keys and values, which have no gradient themselves
    tokens = 30 * 2 * (16 * 48 + 16 * 16 + 16 * 16 + 16 * 16 + 2 * 16 * 128 + 16 * 4)
    codes, first = 10 * 2 * 16 * 16, 30 * 2 * 4 * 16
    write = 30 * 2 * 16 * 32 + 3 * 2 * (2 * 16 * 16 + 2 * 16 * 128)
    assert found == 3 * tokens + 2 * (codes + first + 2 * read) + write


def test_rows_of_acting(model: ELMUR, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acting, "has_compiler", lambda: False)  # compiling takes a minute
    rows = acting.measure_acting({"small": (model, 5, (2, 3))}, CPU, seconds=0.01)
    ways = ("streaming", "recomputing")
    assert [(row["envs"], row["how"]) for row in rows] == [(envs, how) for envs in (2, 3) for how in ways]
    for row in rows:
        assert row["policy steps/s"] == pytest.approx(row["envs"] * 1e3 / row["ms a step"])
        assert row["MFLOP a step"] * 1e6 == row["envs"] * operations(model, 5)
    assert rows[2]["times recomputing"] == pytest.approx(rows[3]["ms a step"] / rows[2]["ms a step"])


def test_the_published_robot_has_the_published_number_of_parameters() -> None:
    assert training.robot_model().num_parameters() == pytest.approx(9.0e6, rel=0.02)
