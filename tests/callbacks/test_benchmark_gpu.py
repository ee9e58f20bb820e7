"""What is measured on a GPU, measured on the CPU in small: the same code, without graphs."""

from __future__ import annotations

import pytest
import torch

from callbacks.benchmark import gpu
from callbacks.benchmark.run import made_up, wrapped
from callbacks.evaluation.device import operations
from elmur.model import ELMUR
from elmur.spec import Discrete, TaskSpec, Vector

SPEC = TaskSpec("tmaze", {"state": Vector(4)}, Discrete((4,)), 30)


@pytest.fixture
def model() -> ELMUR:
    return ELMUR(SPEC, 16, 1, 2, dropout=0.1)


def test_rows_of_training_and_of_its_products_alone(model: ELMUR) -> None:
    case = gpu.Case("small", wrapped(model), made_up(4, 20))
    rows = gpu.measure_training([case], gpu.CPU, seconds=0.01)
    assert [(row["type"], row["captured"]) for row in rows] == [("float32", False), ("bfloat16", False)]
    for row in rows:
        assert row["share of their rate"] == pytest.approx(row["products alone, ms"] / row["ms an update"])
        assert 0 < row["share of their rate"] < 1, "what is a part of the step takes less than it"


def test_operations_of_the_products_are_three_times_those_of_forward(model: ELMUR) -> None:
    """Of one segment whose memory is written without a loss; the first map's input needs no gradient."""
    module = wrapped(model)
    step = gpu.training_step(module, made_up(3, 10), 1.0)
    _, found = gpu.bare_products(module, step, torch.float32, gpu.CPU)
    read = 2 * 3 * 16 * 32  # slots to keys and values, which have no gradient themselves
    tokens = 30 * 2 * (16 * 48 + 16 * 16 + 16 * 16 + 16 * 16 + 2 * 16 * 128 + 16 * 4)
    codes, first = 10 * 2 * 16 * 16, 30 * 2 * 4 * 16
    write = 30 * 2 * 16 * 32 + 3 * 2 * (2 * 16 * 16 + 2 * 16 * 128)
    assert found == 3 * tokens + 2 * (codes + first + 2 * read) + write


def test_rows_of_acting(model: ELMUR) -> None:
    rows = gpu.measure_acting({"small": (model, 5, (2, 3))}, gpu.CPU, seconds=0.01)
    assert [(row["envs"], row["on"]) for row in rows] == [(2, "cpu"), (3, "cpu")]
    assert rows[1]["policy steps/s"] == pytest.approx(3e3 / rows[1]["ms a step"])
    assert rows[1]["MFLOP a step"] * 1e6 == 3 * operations(model, 5)


def test_the_published_robot_has_the_published_number_of_parameters() -> None:
    assert gpu.robot_model().num_parameters() == pytest.approx(9.0e6, rel=0.02)
    assert torch.cuda.is_available() or gpu.tables(wrapped(ELMUR(SPEC, 16, 1, 2)), None) == {}
