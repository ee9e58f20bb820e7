"""Judging by acting: intervals against Wilson's formula by hand, seeds, and nothing disturbed."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from callbacks.evaluation.device import threads
from callbacks.evaluation.evaluate import evaluate
from callbacks.evaluation.outcomes import Outcome
from callbacks.evaluation.plan import EvaluationPlan
from envs.experts.tmaze import TMazeExpert
from envs.rollout import Episode
from envs.tmaze import make_vector, variants


def episodes(won: int, lost: int) -> list[Episode]:
    results = [True] * won + [False] * lost
    return [Episode(i, 10 + i, 2.0 * w, {"success": w}) for i, w in enumerate(results)]


def wilson(won: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's score interval, from the two roots of (p - q)^2 = z^2 q (1 - q) / n."""
    p = won / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, middle - reach), min(1.0, middle + reach)


@pytest.mark.parametrize(("won", "lost"), [(0, 20), (20, 0), (7, 3), (1, 0), (50, 50)])
def test_an_outcome(won: int, lost: int) -> None:
    n = won + lost
    outcome = Outcome.of(episodes(won, lost), 1.5)
    met, gained = outcome.metrics["success"], outcome.metrics["return"]
    assert met.mean == won / n and outcome.episodes == n and outcome.wall_seconds == 1.5
    assert met.interval == pytest.approx(wilson(won, n), abs=1e-9)
    mean = 2.0 * won / n
    spread = math.sqrt((won * (2 - mean) ** 2 + lost * mean**2) / (n - 1)) if n > 1 else 0.0
    assert gained.mean == mean and gained.error == pytest.approx(spread / math.sqrt(n))
    assert gained.interval == pytest.approx((mean - 1.959964 * gained.error, mean + 1.959964 * gained.error), abs=1e-6)
    assert outcome.mean_length == 10 + (n - 1) / 2
    assert outcome.seeds == list(range(n)) and list(met.values) == [True] * won + [False] * lost
    assert outcome.metric("success") == won / n and outcome.metric("return") == mean
    assert Outcome.from_json(json.loads(json.dumps(outcome.to_json()))) == outcome, "through a file and back"


def test_a_metric_that_an_environment_names_is_in_the_outcome_and_no_other() -> None:
    found = Outcome.of([Episode(i, 9, 0.0, {"success": True, "distance": d}) for i, d in enumerate((1.0, 4.0))], 0.0)
    assert found.metric("distance") == 2.5 and found.metrics["distance"].values == (1.0, 4.0)
    assert found.to_json()["distance"] == 2.5 and Outcome.from_json(found.to_json()) == found
    with pytest.raises(ValueError, match="expected one of success, distance, return; found 'nope'"):
        found.metric("nope")


def test_an_outcome_of_a_row_of_before() -> None:
    before = {
        "episodes": 2, "success": 0.5, "success_interval": [0.1, 0.9], "mean_return": 1.0, "return_error": 1.0,
        "mean_length": 8.0, "wall_seconds": 0.5, "seeds": [3, 4], "returns": [2.0, 0.0], "successes": [True, False],
        "env_errors": {}, "success_at_end": 0.25,
    }  # fmt: skip
    found = Outcome.from_json(before)
    assert (found.metric("success"), found.metric("success_at_end"), found.metric("return")) == (0.5, 0.25, 1.0)


@pytest.mark.parametrize(
    "wrong", [{"num_episodes": 0}, {"num_envs": 0}, {"first_seed": -1}, {"first_seed": 999_950, "num_episodes": 51}]
)
def test_a_plan_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"num_episodes|first_seed"):
        EvaluationPlan(**wrong)
    assert EvaluationPlan(first_seed=999_950, num_episodes=50).sample is False


@pytest.mark.parametrize("wrong", [{"cost_after": -1, "device": "cpu"}, {"cost_after": 9}])
def test_the_cost_of_acting_is_measured_on_the_cpu_alone(wrong: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match=r"cost_after is a number of steps from 0 up, and needs device=cpu; found cost"
    ):
        EvaluationPlan(**wrong)


def test_every_variant_is_acted_in_on_the_seeds_asked_for_whatever_acts_side_by_side() -> None:
    found = [evaluate(TMazeExpert(), make_vector, variants([9, 12]), EvaluationPlan(7, n, 40)) for n in (1, 3, 100)]
    for outcomes in found:
        assert list(outcomes) == ["T=9", "T=12"]
        assert [o.metric("success") for o in outcomes.values()] == [1.0, 1.0]
        assert [o.mean_length for o in outcomes.values()] == [8.0, 11.0], "the optimal walk"
        assert all(o.seeds == list(range(40, 47)) for o in outcomes.values())
    assert [o.metrics for o in found[0].values()] == [o.metrics for o in found[2].values()]


def test_the_hint_is_half_and_half() -> None:
    """An agent that always turns one way is right in exactly half of an even number of episodes."""

    class Stubborn(TMazeExpert):
        def act(self, observation: Any, is_first: np.ndarray) -> np.ndarray:
            right = super().act(observation, is_first)
            return np.where(right % 2 == 1, 1, right)

    assert evaluate(Stubborn(), make_vector, variants([9]), EvaluationPlan(20))["T=9"].metric("success") == 0.5


def test_nothing_global_is_disturbed() -> None:
    number = torch.get_num_threads()
    before = torch.get_rng_state(), repr(np.random.get_state())  # noqa: NPY002
    evaluate(TMazeExpert(), make_vector, variants([9]), EvaluationPlan(3, first_seed=0))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert repr(np.random.get_state()) == before[1]  # noqa: NPY002
    with pytest.raises(ZeroDivisionError), threads(number + 1):
        raise ZeroDivisionError
    assert torch.get_num_threads() == number
