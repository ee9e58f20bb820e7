"""Processes that help: every item is done once, whoever does it, and what one of them loses is done by the owner."""

from __future__ import annotations

import logging
import os
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from callbacks.evaluation import helpers
from callbacks.evaluation.evaluate import evaluate
from callbacks.evaluation.halfway import Halfway
from callbacks.evaluation.helpers import Helpers
from callbacks.evaluation.plan import EvaluationPlan
from envs.experts.tmaze import TMazeExpert
from envs.tmaze import make_vector, variants
from tests.callbacks.evaluation import items

OWNER = os.getpid()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helpers, "AFTER", 0.0)


def done(number: int, do: Any, count: int) -> dict[int, tuple[int, int]]:
    """All items, done as an owner would."""
    left, found = deque(range(count)), {}
    with Helpers(number, left, do) as beside:
        while left:
            while left:
                item = left.popleft()
                beside.offer()
                found[item] = do(item)
            found |= beside.collect(lambda: None)
    return found


@pytest.mark.parametrize("number", [0, 1, 2])
def test_every_item_is_done_and_the_last_ones_elsewhere(number: int) -> None:
    found = done(number, partial(items.square, OWNER), 9)
    assert {item: result for item, (result, _) in found.items()} == {item: item**2 for item in range(9)}
    elsewhere = [item for item, (_, process) in sorted(found.items()) if process != os.getpid()]
    assert elsewhere[len(elsewhere) - number :] == list(range(9))[9 - number :], "each took one from the end"
    assert found[0][1] == os.getpid()


def test_what_a_process_loses_is_done_by_its_owner(caplog: pytest.LogCaptureFixture) -> None:
    found = done(1, partial(items.lost, OWNER), 5)
    assert {item: result for item, (result, _) in found.items()} == {item: item**2 for item in range(5)}
    assert {process for _, process in found.values()} == {os.getpid()}
    assert "no second process helps: it was ended by the system" in caplog.text


@pytest.mark.parametrize("why", ["pickle", "No module named 'mine'"])
def test_what_no_other_process_can_have_is_done_by_one(why: str, caplog: pytest.LogCaptureFixture) -> None:
    """A model with a function inside a function, a class that is not found elsewhere."""
    do = items.OfOneProcess(OWNER) if why.startswith("No") else lambda item: items.square(OWNER, item)
    found = done(1, do, 4)
    assert found == {item: (item**2, OWNER) for item in range(4)}
    assert "no second process helps: " in caplog.text and why in caplog.text


def test_an_error_is_the_owners() -> None:
    with Helpers(1, deque([7]), partial(items.refused, OWNER)) as beside:
        beside.offer()
        with pytest.raises(ZeroDivisionError, match="of 7"):
            beside.collect(lambda: None)


def test_an_owner_that_leaves_ends_them() -> None:
    def leave() -> None:
        raise SystemExit(143)

    with pytest.raises(SystemExit), Helpers(1, deque([7]), partial(items.asleep, OWNER)) as beside:
        beside.offer()
        beside.collect(leave)
    (child,) = beside._children
    child.join(10.0)
    assert not child.is_alive()


class Drawing(TMazeExpert):
    """Goes one way or the other, by the seed of the episode alone."""

    def seed_episodes(self, seeds: Any) -> None:
        self.left = np.random.default_rng(list(seeds)).random(len(seeds)) < 0.5

    def act(self, observation: Any, is_first: np.ndarray) -> np.ndarray:
        actions = super().act(observation, is_first)
        return np.where((actions % 2 == 1) & self.left, 1, actions)


def test_an_evaluation_has_the_outcome_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    where, found = variants([9, 12, 20]), []
    for processes in (1, 2):
        halfway = Halfway(tmp_path / f"evaluation-{processes}.partial", "this one")
        plan = EvaluationPlan(7, 4, 40, processes=processes)
        found.append(evaluate(Drawing(), make_vector, where, plan, halfway=halfway))
        assert ("2 processes play side by side" in caplog.text) == (processes == 2)
        assert [path.name for path in tmp_path.iterdir()] == [f"evaluation-{processes}.partial"], "one file holds all"
        again = evaluate(_NoPolicy(), make_vector, where, plan, halfway=Halfway(halfway.path, "this one"))
        assert [outcome.metrics for outcome in again.values()] == [outcome.metrics for outcome in found[-1].values()]
        halfway.remove()
        assert not list(tmp_path.iterdir())
    alone, helped = found
    assert list(alone) == list(helped) and [o.metrics for o in alone.values()] == [o.metrics for o in helped.values()]
    assert 0 < alone["T=9"].metric("success") < 1
    assert all(outcome.wall_seconds > 0 for outcome in helped.values())


class _NoPolicy(TMazeExpert):
    def act(self, observation: Any, is_first: np.ndarray) -> np.ndarray:
        raise AssertionError("it was played before")
