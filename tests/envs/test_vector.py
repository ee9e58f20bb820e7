"""SyncVector: masks, seeds and the parts of an observation, with small environments of our own."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest

from elmur.spec import Discrete, Image, TaskSpec, Vector
from envs.rollout import RandomPolicy, rollout
from envs.vector import SyncVector, check_action


class Counter(gymnasium.Env[dict[str, np.ndarray], Any]):
    """Counts its steps from its seed; episode of `length` steps; reward = action."""

    def __init__(self, length: int = 3, info: dict[str, Any] | None = None, sizes: tuple[int, ...] = (1000,)) -> None:
        self.task_spec = TaskSpec(
            "counter",
            {"count": Discrete(sizes), "pixels": Image(1, 2, 2), "x": Vector(2)},
            Discrete((5,)),
            horizon=length,
        )
        self.length, self.info, self.closed = length, info or {}, False

    def _observe(self) -> dict[str, np.ndarray]:
        count = self.seed + self.steps
        pixels = np.full((1, 2, 2), count % 256, np.uint8)
        return {"count": np.array([count]), "pixels": pixels, "x": np.array([count, -count], np.float64)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        assert seed is not None
        self.seed, self.steps = seed, 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        assert isinstance(action, int)
        self.steps += 1
        return self._observe(), float(action), self.steps == self.length, False, self.info

    def close(self) -> None:
        self.closed = True


class Scored(Counter):
    """Measures what its info says."""

    metrics = ("score",)


def test_rows_follow_their_own_seeds_and_mask() -> None:
    env = SyncVector([lambda: Counter()] * 3)
    first = env.reset([10, None, 30])
    assert first["count"].tolist() == [[10], [0], [30]]
    assert [first[part].dtype for part in ("count", "pixels", "x")] == [np.int64, np.uint8, np.float32]
    step = env.step(np.array([1, 2, 3]), np.array([True, False, False]))
    assert step.observation["count"].tolist() == [[11], [0], [30]]
    assert step.reward.tolist() == [1.0, 0.0, 0.0] and step.reward.dtype == np.float32
    assert first["count"].tolist() == [[10], [0], [30]]  # what was handed out stays as it was
    assert env.reset([None, 20, None])["count"].tolist() == [[11], [20], [30]]
    assert step.observation["pixels"][2, 0, 1, 1] == 30 and step.observation["x"].tolist()[0] == [11, -11]


@pytest.mark.parametrize(
    ("info", "actions", "success"),
    [
        ({}, [0, 1, 0], True),
        ({}, [0, 0, 0], False),
        ({"success": False}, [1, 1, 1], False),
        ({"success": np.True_}, [0, 0, 0], True),
    ],
)
def test_success_is_said_by_the_env_or_by_its_rewards(info: dict[str, Any], actions: list[int], success: bool) -> None:
    env = SyncVector([lambda: Counter(info=info)])
    for _ in range(2):  # the sum of rewards begins anew
        env.reset([0])
        steps = [env.step(np.array([action]), np.array([True])) for action in actions]
        assert [bool(step.success[0]) for step in steps] == [False, False, success]
        assert [bool(step.terminated[0]) for step in steps] == [False, False, True]
        actions = [0, 0, 0] if not info else actions
        success = False if not info else success


@pytest.mark.parametrize("lengths", [(3, 3, 3), (2, 3, 4), (4, 3, 2)])
@pytest.mark.parametrize("scores", [(0, 0.5, 1), (0.25, 1, 0), (True, 0.5, 2), (0.5, False, 3)])
def test_what_one_episode_measures_changes_no_other(lengths: tuple[int, ...], scores: tuple[float, ...]) -> None:
    """Whole numbers, truths and fractions side by side, in whatever order they come: as when each is played alone."""
    made = [partial(Scored, length, {"score": of}) for length, of in zip(lengths, scores, strict=True)]
    play = RandomPolicy(Scored().task_spec)
    together = rollout(SyncVector(made), play, [1, 2, 3])
    alone = [rollout(SyncVector([one]), play, [1])[0] for one in made]
    assert [e.metrics["score"] for e in together] == [e.metrics["score"] for e in alone] == list(scores)


def test_loss_mask_is_passed_on() -> None:
    env = SyncVector([lambda: Counter(info={"loss_mask": False}), lambda: Counter()])
    env.reset([0, 0])
    assert env.step(np.array([0, 0]), np.array([True, True])).loss_mask.tolist() == [False, True]
    assert env.step(np.array([0, 0]), np.array([False, True])).loss_mask.tolist() == [True, True]


def test_close_closes_all() -> None:
    envs = [Counter(), Counter()]
    SyncVector([lambda: envs[0], lambda: envs[1]]).close()
    assert [env.closed for env in envs] == [True, True]


def test_specs_must_agree_and_exist() -> None:
    with pytest.raises(ValueError, match=r"environment 1 differs .*expected discrete\[1000\], found discrete\[7\]"):
        SyncVector([lambda: Counter(), lambda: Counter(sizes=(7,))])
    with pytest.raises(ValueError, match="at least one"):
        SyncVector([])
    with pytest.raises(ValueError, match="task_spec"):
        SyncVector([lambda: gymnasium.make("CartPole-v1")])


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        ({"count": np.array([0])}, "expected part 'pixels'"),
        ({"count": np.array(0), "pixels": 0, "x": 0}, r"'count': expected int64 \[1\]; environment 0 gave int64 \[\]"),
        ({"count": np.array([0.5]), "pixels": 0, "x": 0}, "'count': expected int64"),
    ],
)
def test_observations_are_checked(observation: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counter, "_observe", lambda self: observation)
    with pytest.raises(ValueError, match=message):
        SyncVector([lambda: Counter()]).reset([0])


@pytest.mark.parametrize(("seeds", "message"), [([0], "expected 2"), ([0, -3], "found -3")])
def test_seeds_are_checked(seeds: list[int | None], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyncVector([lambda: Counter()] * 2).reset(seeds)


def test_active_is_checked() -> None:
    env = SyncVector([lambda: Counter()] * 2)
    env.reset([0, 1])
    for active in (np.ones(3, np.bool_), np.ones(2)):
        with pytest.raises(ValueError, match=r"active: expected bool \[2\]"):
            env.step(np.zeros(2, np.int64), active)


def test_continuous_actions_are_checked() -> None:
    spec = TaskSpec("arm", {"x": Vector(1)}, Vector(2, low=(-1.0, -1.0), high=(1.0, 1.0)))
    both = np.ones(3, np.bool_)
    check_action(spec, np.zeros((3, 2), np.float32), both)
    with pytest.raises(ValueError, match=r"expected floats \[3, 2\]; found float64 \[3\]"):
        check_action(spec, np.zeros(3), both)
    broken = np.array([[0, 0], [0, np.nan], [0, 0]], np.float32)
    with pytest.raises(ValueError, match=r"finite .* environment 1"):
        check_action(spec, broken, both)
    check_action(spec, broken, np.array([True, False, True]))  # an idle row may hold anything
