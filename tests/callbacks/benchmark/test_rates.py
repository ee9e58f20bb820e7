"""Rates of a few tasks, as configured for the benchmark."""

from __future__ import annotations

from functools import partial

import pytest

pytest.importorskip("popgym", reason="needs POPGym: pip install -e '.[popgym]'")

from callbacks.benchmark.rates import NUM_ENVS, measure_tasks
from elmur.model import ELMUR
from elmur.module import SequenceModule
from envs.experts.popgym import expert_for
from envs.popgym import make_vector


def test_every_task_has_a_rate_of_collecting_and_of_acting() -> None:
    names = ["popgym-RepeatFirstEasy-v0", "popgym-PositionOnlyPendulumEasy-v0"]
    tasks = [{"make": partial(make_vector, id=name), "expert": partial(expert_for, name)} for name in names]
    module = SequenceModule(partial(ELMUR, d_model=8, n_layer=1, n_head=1), 8)
    rows = measure_tasks(module, tasks, 0.1)
    assert [row["task"] for row in rows] == names
    for row in rows:
        assert row["envs"] == NUM_ENVS
        assert row["collecting, env steps/s"] > 0 and row["acting, env steps/s"] > 0
