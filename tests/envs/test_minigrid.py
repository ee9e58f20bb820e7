"""Minigrid-Memory: the episodes are Minigrid's own, the expert sees no more than a policy, the memory is needed."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("minigrid", reason="needs the minigrid extra")

from minigrid.envs.memory import MemoryEnv

from envs.experts.minigrid import MinigridExpert
from envs.minigrid import MinigridError, make_vector, variants
from envs.observers import Noise
from envs.rollout import Observer, RandomPolicy, Wave, rollout


@pytest.mark.parametrize("size", [7, 17, 41])
@pytest.mark.parametrize("view", [3, 7])
def test_the_expert_always_finds_it(size: int, view: int) -> None:
    """By Minigrid's own reward, which is above 0 at the right object alone; at most twice along the corridor."""
    episodes = rollout(make_vector(10, [size], view), MinigridExpert(), range(20))
    assert all(episode.success and episode.episode_return > 0.5 for episode in episodes)
    assert max(episode.length for episode in episodes) <= 2 * size


def test_the_expert_goes_on_from_where_noise_leaves_it() -> None:
    """What noise did is told by `observe`; only a step onto the wrong object cannot be made good."""
    env = make_vector(20, [9])
    found = rollout(env, MinigridExpert(), range(100), observers=[Noise(0.15, np.random.default_rng(0))])
    assert np.mean([episode.success for episode in found]) > 0.85


@pytest.mark.parametrize("view", [3, 7])
def test_the_expert_goes_on_from_wherever_another_leaves_it(view: int) -> None:
    """Random play for ten steps, which may end in the room beside the corridor's row: there is time enough for all."""
    env, rng = make_vector(50, [17], view), np.random.default_rng(10)

    class Lead(Observer):
        def on_action(self, wave: Wave, action: np.ndarray) -> np.ndarray:
            return rng.integers(3, size=len(action)) if wave.count < 10 else action

    found = [e for e in rollout(env, MinigridExpert(), range(200), observers=[Lead()]) if e.length > 10]
    assert len(found) > 150 and all(episode.success for episode in found)


def test_an_episode_is_minigrids_own() -> None:
    """The same view and reward as from MemoryEnv with that seed, step by step."""
    ours, theirs = make_vector(1, [11]), MemoryEnv(size=11, agent_view_size=3, max_steps=44)
    shown, (image, _) = ours.reset([5]), theirs.reset(seed=5)
    rng = np.random.default_rng(1)
    for _ in range(44):
        assert shown["view"][0].tolist() == image["image"].ravel().tolist()
        action = int(rng.integers(3))
        step = ours.step(np.array([action]), np.ones(1, np.bool_))
        image, reward, terminated, truncated, _ = theirs.step(action)
        assert (step.reward[0], step.terminated[0]) == (np.float32(reward), terminated)
        shown = step.observation
        if terminated or truncated:
            break
    assert terminated or truncated


def test_without_a_look_it_is_a_guess() -> None:
    """Who walks to the fork and always turns the same way is right half the time: the view at the fork says nothing."""

    class Blind(MinigridExpert):
        def _choose(self, i: int, kinds: np.ndarray) -> int:
            self._object[i] = 5  # a key, whatever it was
            return super()._choose(i, kinds)

    found = rollout(make_vector(50, [9]), Blind(), range(200))
    assert 0.4 < np.mean([episode.success for episode in found]) < 0.6
    env = make_vector(50, [17])
    assert np.mean([episode.success for episode in rollout(env, RandomPolicy(env.spec), range(50))]) < 0.2


def test_the_size_of_a_map_is_drawn_by_the_seed() -> None:
    env = make_vector(30, [7, 17])
    lengths = [episode.length for episode in rollout(env, MinigridExpert(), range(30))]
    assert lengths == [episode.length for episode in rollout(env, MinigridExpert(), range(30))]
    assert min(lengths) <= 11 < 15 < max(lengths)
    assert env.spec.horizon == 68


@pytest.mark.parametrize("sizes", [[], [8], [5], ["9"]])
def test_a_size_that_there_is_not_is_refused(sizes: list[int]) -> None:
    with pytest.raises(MinigridError, match="odd numbers from 7"):
        make_vector(1, sizes)
    assert variants([9, 41]) == {"S=9": {"sizes": [9]}, "S=41": {"sizes": [41]}}
