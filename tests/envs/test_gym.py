"""Any registered Gymnasium environment: its episodes are Gymnasium's own, and what cannot be made is said."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import tests.envs.gym_envs  # noqa: F401 (registers them)
from data.collect import CollectionError, collect
from elmur.registry import ENVIRONMENT
from elmur.spaces import Spaces
from elmur.spec import Discrete, Vector
from envs.gym import GymError, check_reproducible, make_vector
from envs.rollout import RandomPolicy, rollout
from envs.vector import recorded_in

WALK: dict[str, Any] = {"id": "tests/Walk-v0", "without": ["name"]}


def test_an_episode_is_gymnasiums_own() -> None:
    """The same numbers as from gymnasium.make, in an environment of its own stepped by the same actions."""
    env = make_vector(2, "CartPole-v1")
    assert env.spec.observation == {"observation": Vector(4)} and env.spec.action == Discrete((2,))
    assert env.spec.horizon == 500 and list(env.metrics) == []
    shown = env.reset([3, 4])["observation"]
    others = [gymnasium.make("CartPole-v1") for _ in range(2)]
    assert np.array_equal(shown, np.stack([other.reset(seed=3 + i)[0] for i, other in enumerate(others)]))
    active = np.ones(2, np.bool_)
    for count in range(8):
        action = np.array([count % 2, 1])
        step = env.step(action, active)
        theirs = [other.step(int(choice)) for other, choice in zip(others, action, strict=True)]
        assert np.array_equal(step.observation["observation"], np.stack([seen[0] for seen in theirs]))
        assert step.reward.tolist() == [seen[1] for seen in theirs]
        assert not step.terminated.any() and not any(seen[2] for seen in theirs)
    env.close()


def test_success_is_found_where_the_info_has_it_and_the_limit_is_kept() -> None:
    # Cut at 3, an episode never says whether it was a success; at its own end after 2 steps it does.
    assert list(make_vector(1, **WALK).metrics) == []
    env = make_vector(2, **WALK, arguments={"length": 2})
    assert list(env.metrics) == ["success"] and env.spec.horizon == 3
    env.reset([0, 1])
    for _ in range(2):  # the first of two in MultiDiscrete([2, 2]) is the reward, the last is success
        step = env.step(np.array([1, 2]), np.ones(2, np.bool_))
    assert step.terminated.all() and step.success.tolist() == [True, False] and step.reward.tolist() == [0.0, 1.0]
    longer = make_vector(1, **WALK, max_episode_steps=7, arguments={"key": "met"}, success="met")
    assert longer.spec.horizon == 7 and list(longer.metrics) == ["success"]
    assert make_vector(1, "tests/Endless-v0", without=["name"]).spec.horizon is None


def test_a_key_that_no_info_has_is_named() -> None:
    env = make_vector(1, **WALK, arguments={"length": 2}, success="won")
    env.reset([0])
    with pytest.raises(GymError, match=r"env.make.success=won: an episode ended without it; its info has is_success"):
        for _ in range(2):
            env.step(np.array([0]), np.ones(1, np.bool_))


def test_wrappers_are_put_around_it_in_order() -> None:
    stack = partial(gymnasium.wrappers.FrameStackObservation, stack_size=3)
    env = make_vector(1, "CartPole-v1", wrappers=[gymnasium.wrappers.TimeAwareObservation, stack])
    assert env.spec.observation["observation"] == Vector(15)
    with pytest.raises(GymError, match=r"CartPole-v1: env.make.wrappers: "):
        make_vector(1, "CartPole-v1", wrappers=[gymnasium.wrappers.GrayscaleObservation])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"id": "NoSuch-v3"}, r"env.id=NoSuch-v3: .*env.id=PACKAGE:ID plugins=\[PACKAGE\]"),
        ({"id": "evilpkg.sub:X-v0"}, r"importing evilpkg.sub is refused; .*plugins=\[evilpkg\]"),
        ({"id": "os:X-v0"}, "importing os is refused"),
        ({"id": "CartPole-v1", "arguments": {"size": 3}}, r"CartPole-v1: cannot be made with .*'size': 3.*unexpected"),
        ({"id": "tests/Walk-v0"}, r"tests/Walk-v0: observation 'name': Text.*env.make.without=\[name\]"),
        ({"id": "tests/Needy-v0"}, "needs a package that is not installed here: .*package_that_nobody_has"),
    ],
)
def test_what_cannot_be_made_is_said(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(GymError, match=said):
        make_vector(1, **arguments)


RESET = r"reset \(seed 7, step 0\) raised {}.*; expected reset\(self, \*, seed=None, options=None\) that gives observ"
STEP = r"step \(seed 7, step {}\) raised {}.*; expected step\(self, action\) that gives observation, reward, term"
FAULTS = {
    "init": "cannot be made with .*: RuntimeError: licence not found",
    "space": "observation_space: found None, expected a space that its __init__ has set",
    "seed": RESET.format("TypeError: reset.. got an unexpected keyword argument 'seed'"),
    "alone": RESET.format("TypeError: found ndarray alone"),
    "shape": RESET.format(r"SpaceError: observation: found rows of shape \[3\], expected \[2\]"),
    "four": STEP.format(1, "ValueError: not enough values"),
    "reward": STEP.format(1, "TypeError: float.. argument must be"),
    "key": STEP.format(2, "KeyError: 'velocity'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_an_environment_is_said_to_be_its_own(fault: str) -> None:
    """In which episode and where in it, and what is expected; `success` is named, so that nobody plays to find it."""
    with pytest.raises(GymError, match=f"^env.id=tests/Faulty-v0: {FAULTS[fault]}") as caught:
        env = make_vector(1, "tests/Faulty-v0", {"fault": fault}, success="none")
        env.reset([7])
        for _ in range(2):
            env.step(np.zeros(1, np.int64), np.ones(1, np.bool_))
    assert fault == "space" or caught.value.__cause__ is not None


def test_a_module_is_imported_where_a_person_allows_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = "import gymnasium\ngymnasium.register('Own-v0', entry_point='tests.envs.gym_envs:Walk')\n"
    (tmp_path / "ownworlds.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(GymError, match=r"plugins=\[ownworlds\]"):
        make_vector(1, "ownworlds:Own-v0")
    monkeypatch.setenv(ENVIRONMENT, "ownworlds")
    assert make_vector(1, "ownworlds:Own-v0", without=["name"]).spec.name == "ownworlds:Own-v0"


@pytest.mark.slow
def test_processes_of_their_own_play_the_same() -> None:
    """Two environments in two processes: the same episodes as one after another here."""
    results = []
    for processes in (0, 2):
        env = make_vector(2, "CartPole-v1", processes=processes)
        found = rollout(env, RandomPolicy(env.spec), [5, 6, 7])
        results.append([(episode.length, episode.episode_return) for episode in found])
        env.close()
    assert results[0] == results[1]


def test_an_environment_says_in_what_values_it_is_recorded() -> None:
    """Its own: Walk's pairs of 0 and 1, which are four choices to a policy."""
    own = recorded_in(partial(make_vector, **WALK))
    assert isinstance(own, Spaces) and own.spec == make_vector(1, **WALK).spec
    assert own.given(np.arange(4)).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


@pytest.mark.slow
def test_an_environment_in_a_process_of_its_own_says_so_too() -> None:
    own = recorded_in(partial(make_vector, id="CartPole-v1", processes=1))
    assert isinstance(own, Spaces) and own.spec == make_vector(1, "CartPole-v1").spec


def test_an_environment_that_its_seed_does_not_decide_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_reproducible([], partial(make_vector, **WALK))
        assert not caplog.records
        check_reproducible([], partial(make_vector, **WALK, arguments={"drifts": True}))
    assert "tests/Walk-v0 is not reproducible from its seed (at differs at step 0" in caplog.text


def test_without_an_expert_there_is_random_play_alone(tmp_path: Path) -> None:
    make_env = partial(make_vector, id="CartPole-v1")
    with pytest.raises(CollectionError, match=r"env.expert names nobody.*collect.mixture=1.0"):
        collect(make_env, None, tmp_path / "none", num_episodes=3, seed=0, mixture=0.5)
    assert not list((tmp_path / "none").glob("*.h5"))
    shards = collect(make_env, None, tmp_path / "random", num_episodes=3, seed=0, mixture=1.0, progress=False).paths
    assert len(shards) == 1 and shards[0].exists()
