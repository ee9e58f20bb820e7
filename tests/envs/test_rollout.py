"""The acting loop: order, waves, idle rows, recording, noise, limits."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from elmur.model import ELMUR, MemoryDesign
from elmur.policy import StreamingPolicy
from elmur.spec import TaskSpec, Vector
from envs.experts.tmaze import TMazeExpert
from envs.observers import Noise, Recorder, Telling
from envs.rollout import Episode, RandomPolicy, rollout, uniform_action
from envs.tmaze import TMaze, TMazeRules, make_vector
from envs.vector import SUCCESS, Observation, SyncVector, TimeStep, as_array

RANDOM: dict[str, Any] = {"time_limit": 12, "random_corridor": True}


class Watching(TMazeExpert):
    """The expert, noting everything that passes through it; rows that are over get a senseless action."""

    def start(self, num_envs: int, seed: int = 0) -> None:
        super().start(num_envs, seed)
        self.seen: list[np.ndarray] = []
        self.first: list[list[bool]] = []
        self.executed: list[np.ndarray] = []
        self.reward: list[np.ndarray] = []
        self.seed = seed

    def act(self, observation: dict[str, np.ndarray], is_first: np.ndarray) -> np.ndarray:
        self.seen.append(observation["state"].copy())
        self.first.append(is_first.tolist())
        return super().act(observation, is_first)

    def observe(self, action: np.ndarray, reward: np.ndarray) -> None:
        self.executed.append(np.array(action))
        self.reward.append(reward.copy())


def test_episodes_come_in_the_order_of_seeds_whatever_the_number_of_envs() -> None:
    seeds = [9, 2, 100, 5, 5, 77, 0]
    rules = TMazeRules(**RANDOM)
    for num_envs in (1, 3, 7, 20):
        episodes = rollout(make_vector(num_envs, **RANDOM), TMazeExpert(), seeds)
        assert [episode.seed for episode in episodes] == seeds
        assert [episode.length for episode in episodes] == [rules.draw(seed)[1] + 1 for seed in seeds]
        assert all(episode.success and episode.steps is None for episode in episodes)
    assert rollout(make_vector(2, **RANDOM), TMazeExpert(), []) == []


def test_waves_start_together_and_stop_when_all_are_over() -> None:
    policy, calls = Watching(), []
    seeds = [3, 4, 5, 6, 7]
    lengths = [TMazeRules(**RANDOM).draw(seed)[1] + 1 for seed in seeds]
    env = make_vector(3, **RANDOM)
    rollout(
        env, policy, seeds, policy_seed=41, observers=[Telling(lambda step, running: calls.append((step, running)))]
    )
    expected = []
    for wave in (lengths[:3], lengths[3:]):
        expected += [(t, sum(length > t for length in wave)) for t in range(1, max(wave) + 1)]
    assert calls == expected and policy.seed == 41
    starts = [t for t, first in enumerate(policy.first) if any(first)]
    assert starts == [0, max(lengths[:3])]
    assert all(policy.first[t] == [True] * 3 for t in starts)


def test_idle_rows_show_their_last_observation_and_gain_nothing() -> None:
    policy = Watching()
    seeds = list(range(8))
    lengths = [TMazeRules(**RANDOM).draw(seed)[1] + 1 for seed in seeds]
    assert len(set(lengths)) > 2
    rollout(make_vector(8, **RANDOM), policy, seeds)
    for row, length in enumerate(lengths):
        for t in range(length + 1, max(lengths)):
            np.testing.assert_array_equal(policy.seen[t][row], policy.seen[length][row])
        gained = [float(reward[row]) for reward in policy.reward]
        assert gained == [1.0 if t == length - 1 else 0.0 for t in range(max(lengths))]


@pytest.mark.parametrize("vector", [True, False])
def test_recording_holds_what_was_seen_and_done(vector: bool) -> None:
    env = make_vector(3, **RANDOM) if vector else SyncVector([lambda: TMaze(**RANDOM)] * 3)
    for episode in rollout(env, TMazeExpert(), range(20, 27), observers=[Recorder()]):
        goal, corridor, _ = TMazeRules(**RANDOM).draw(episode.seed)
        steps = episode.steps
        assert steps is not None and steps.terminated and not steps.truncated
        assert steps.action.tolist() == [0] * corridor + [1 if goal > 0 else 3]
        assert steps.reward.tolist() == [0.0] * corridor + [1.0] and steps.reward.dtype == np.float32
        assert steps.loss_mask.tolist() == [True] * (corridor + 1)
        state = steps.observation["state"]
        assert state[:, 0].tolist() == [0.0] * (corridor + 1)
        assert state[:, 1].tolist() == [float(goal)] + [0.0] * corridor
        assert state[:, 2].tolist() == [0.0] * corridor + [1.0]
        single = TMaze(**RANDOM)
        seen = [single.reset(seed=episode.seed)[0]["state"]]
        seen += [single.step(int(action))[0]["state"] for action in steps.action]
        np.testing.assert_array_equal(state, seen[:-1])
        assert state.base is None  # an array of its own, not a view that keeps the whole wave alive


def test_recording_grows_past_its_first_buffer() -> None:
    episodes = rollout(make_vector(2, time_limit=400), TMazeExpert(), [0, 1, 2], observers=[Recorder()])
    assert [len(e.steps.action) for e in episodes if e.steps] == [399] * 3
    assert all(e.steps and e.steps.observation["state"][:, 2].argmax() == 398 for e in episodes)


def test_noise_replaces_executed_actions_at_its_rate_and_takes_them_out_of_the_loss() -> None:
    policy = Watching()
    env = make_vector(50, time_limit=202)
    episodes = rollout(env, policy, range(50), observers=[Recorder(), Noise(0.4, np.random.default_rng(0))])
    # In the corridor the expert always answers 0, so of the replaced 40 % three in four differ.
    recorded = [episode.steps for episode in episodes if episode.steps]
    corridor = [(steps.action, steps.loss_mask, steps.observation["state"][:, 2] == 0) for steps in recorded]
    other = np.concatenate([action[away] != 0 for action, _, away in corridor])
    assert abs(other.mean() - 0.3) < 0.02
    for action, loss_mask, away in corridor:
        np.testing.assert_array_equal(loss_mask[away], action[away] == 0)
    for i, episode in enumerate(episodes):
        assert episode.steps is not None
        executed = [int(action[i]) for action in policy.executed[: episode.length]]
        assert executed == episode.steps.action.tolist()


def test_same_seeds_same_episodes() -> None:
    def run(policy_seed: int, noise_seed: int) -> list[Episode]:
        env = make_vector(4, **RANDOM)
        rng = np.random.default_rng(noise_seed)
        policy = RandomPolicy(env.spec)
        return rollout(env, policy, range(10), policy_seed=policy_seed, observers=[Recorder(), Noise(0.2, rng)])

    def actions(episodes: list[Episode]) -> list[list[int]]:
        return [episode.steps.action.tolist() for episode in episodes if episode.steps]

    assert actions(run(0, 0)) == actions(run(0, 0))
    assert actions(run(0, 0)) != actions(run(1, 0))
    assert actions(run(0, 0)) != actions(run(0, 1))


def test_max_steps_cuts_and_counts_as_truncated() -> None:
    cut = rollout(make_vector(4, **RANDOM), TMazeExpert(), range(8), max_steps=5, observers=[Recorder()])
    full = rollout(make_vector(4, **RANDOM), TMazeExpert(), range(8))
    assert {e.length for e in full} > {5} and max(e.length for e in full) > 5
    for short, long in zip(cut, full, strict=True):
        assert short.length == min(long.length, 5) and short.success == (long.length <= 5)
        assert short.steps is not None and len(short.steps.action) == short.length
        assert (short.steps.terminated, short.steps.truncated) == (long.length <= 5, long.length > 5)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_steps() -> None:
    env, held = make_vector(4, time_limit=12_002), []
    tracemalloc.start()
    try:

        def note(step: int, running: int) -> None:
            if step in (2_000, 12_000):
                held.append(tracemalloc.get_traced_memory()[0])

        rollout(env, TMazeExpert(), range(4), observers=[Telling(note)])
    finally:
        tracemalloc.stop()
    assert len(held) == 2 and held[1] - held[0] < 10_000  # 10,000 steps: less than a byte each


def test_random_actions_are_uniform_in_the_space_of_the_task() -> None:
    policy = RandomPolicy(make_vector(1, time_limit=9).spec)
    policy.start(1000, seed=3)
    counts = np.bincount(policy.act({}, np.zeros(1000, np.bool_)), minlength=4)
    assert len(counts) == 4 and np.abs(counts - 250).max() < 75
    arm = TaskSpec("arm", {"x": Vector(1)}, Vector(2, low=(-1.0, 0.0), high=(1.0, 4.0)))
    actions = uniform_action(arm, 5000, np.random.default_rng(0))
    assert actions.shape == (5000, 2) and actions.dtype == np.float32
    np.testing.assert_allclose(actions.mean(axis=0), [0, 2], atol=0.1)
    np.testing.assert_allclose([actions.min(axis=0), actions.max(axis=0)], [[-1, 0], [1, 4]], atol=0.01)
    with pytest.raises(ValueError, match="needs bounds"):
        uniform_action(TaskSpec("free", {"x": Vector(1)}, Vector(2)), 1, np.random.default_rng(0))


class Misshapen(TMazeExpert):
    """Answers with one dimension too many."""

    def act(self, observation: dict[str, np.ndarray], is_first: np.ndarray) -> np.ndarray:
        return super().act(observation, is_first)[:, None]


def test_wrong_arguments_are_refused() -> None:
    env = make_vector(2, time_limit=9)
    with pytest.raises(ValueError, match="probability"):
        Noise(1.5, np.random.default_rng(0))
    with pytest.raises(ValueError, match="max_steps"):
        rollout(env, TMazeExpert(), [0], max_steps=0)
    for disturbed in (0, 1):
        with pytest.raises(ValueError, match=r"action: expected .*\[2\]"):
            rollout(env, Misshapen(), [0, 1], observers=[Noise(0.5, np.random.default_rng(0))] * disturbed)


class OnDevice:
    """The T-Maze as a simulator on a GPU has it: observations are tensors."""

    metrics = (SUCCESS,)

    def __init__(self, num_envs: int) -> None:
        self.inner = make_vector(num_envs, time_limit=90)
        self.num_envs, self.spec = num_envs, self.inner.spec

    def shown(self, observation: Observation) -> Any:
        return {name: torch.from_numpy(part) for name, part in observation.items()}

    def reset(self, seeds: Any) -> Any:
        return self.shown(self.inner.reset(seeds))

    def step(self, action: np.ndarray, active: np.ndarray) -> TimeStep:
        step = self.inner.step(action, active)
        return step._replace(observation=self.shown(step.observation))

    def close(self) -> None:
        self.inner.close()


class ReadsTensors(TMazeExpert):
    def act(self, observation: dict[str, np.ndarray], is_first: np.ndarray) -> np.ndarray:
        assert type(observation["state"]).__name__ == "Tensor"
        return super().act({name: as_array(part) for name, part in observation.items()}, is_first)


def test_what_a_simulator_shows_as_tensors_is_recorded_as_the_same_arrays() -> None:
    """More than 64 steps, so that there must be room made for them."""
    seeds = range(5)
    expected = rollout(make_vector(3, time_limit=90), TMazeExpert(), seeds, observers=[Recorder()])
    found = rollout(OnDevice(3), ReadsTensors(), seeds, observers=[Recorder()])
    assert max(episode.length for episode in found) > 64
    for one, other in zip(expected, found, strict=True):
        assert one.steps is not None and other.steps is not None
        for name, part in one.steps.observation.items():
            assert (
                type(other.steps.observation[name]) is np.ndarray and other.steps.observation[name].dtype == part.dtype
            )
            np.testing.assert_array_equal(other.steps.observation[name], part)
        np.testing.assert_array_equal(one.steps.action, other.steps.action)


@pytest.mark.parametrize("sample", [False, True])
def test_a_model_plays_a_seed_the_same_however_many_environments_there_are(sample: bool) -> None:
    """With noise in new memory as large as its observations, in corridors of several lengths."""
    torch.manual_seed(0)
    memory, spec = MemoryDesign(memory_init_std=1.0), make_vector(1, **RANDOM).spec
    model, seeds = ELMUR(spec, 16, 1, 2, memory=memory).double(), range(40)

    def play(num_envs: int, seeds: Sequence[int] = seeds) -> list[tuple[int, list[int]]]:
        policy = StreamingPolicy(model, 4, sample=sample)
        episodes = rollout(make_vector(num_envs, **RANDOM), policy, seeds, observers=[Recorder()])
        return [(episode.seed, np.asarray(episode.steps.action).tolist()) for episode in episodes if episode.steps]

    expected = play(1)
    assert len(expected) == 40 and len({tuple(actions) for _, actions in expected}) > (20 if sample else 1)
    assert play(3) == play(100) == expected
    assert play(7, list(reversed(seeds))) == expected[::-1]
