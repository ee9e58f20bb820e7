"""T-Maze: the published rules by a plain loop, and two implementations that agree step by step."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs.experts.tmaze import TMazeExpert
from envs.observers import Recorder
from envs.rollout import RandomPolicy, rollout
from envs.tmaze import NOISE_BLOCK, TMaze, TMazeRules, VectorTMaze, make_vector
from envs.vector import SyncVector


def published(corridor: int, goal: int, actions: list[int]) -> list[tuple[float, ...]]:
    """(y, hint, flag, reward, terminated, truncated) per observation, straight from the description of the maze."""
    cells = {(x, 0) for x in range(corridor + 1)} | {(corridor, 1), (corridor, -1)}
    x, y, limit = 0, 0, corridor + 2
    trace: list[tuple[float, ...]] = [(0.0, float(goal), 0.0, 0.0, False, False)]
    for step, action in enumerate(actions, start=1):
        to = [(x + 1, y), (x, y + 1), (x - 1, y), (x, y - 1)][action]
        if to in cells:
            x, y = to
        at_goal = (x, y) in {(corridor, 1), (corridor, -1)}
        reward = 1.0 if y == goal else 0.0
        trace.append((float(y), 0.0, float(x == corridor), reward, at_goal, step >= limit and not at_goal))
        if at_goal or step >= limit:
            break
    return trace


def play(env: VectorTMaze, row: int, actions: list[int]) -> list[tuple[float, ...]]:
    """The trace of `published` as row `row` of a vector env gives it, all other rows idle."""
    active = np.arange(env.num_envs) == row
    state = env.reset([7 if on else None for on in active])["state"][row]
    trace: list[tuple[float, ...]] = [(*map(float, state[:3]), 0.0, False, False)]
    for action in actions:
        step = env.step(np.full(env.num_envs, action), active)
        ended = bool(step.terminated[row]), bool(step.truncated[row])
        trace.append((*map(float, step.observation["state"][row, :3]), float(step.reward[row]), *ended))
        if any(ended):
            break
    return trace


@pytest.mark.parametrize("corridor", [1, 2, 5])
def test_timing_and_rewards_are_the_published_ones(corridor: int) -> None:
    rng = np.random.default_rng(corridor)
    right = [0] * corridor
    walks = [[*right, 1], [*right, 3], [*right, 0, 1], [*right, 0, 0], [2] * (corridor + 2), [1, *right, 3], [1] * 9]
    walks += [[int(a) for a in rng.choice(4, p=[0.6, 0.15, 0.1, 0.15], size=corridor + 2)] for _ in range(50)]
    env = make_vector(3, time_limit=corridor + 2)
    endings = set()
    for walk in walks:
        expected = published(corridor, goal=1, actions=walk)  # seed 7 is odd: goal +1
        assert play(env, 1, walk) == expected
        endings.add(expected[-1][3:])
    assert endings == {(1.0, True, False), (0.0, True, False), (0.0, False, True)}


@pytest.mark.parametrize(
    "options",
    [
        {"time_limit": 3},
        {"time_limit": 12},
        {"time_limit": 30, "random_corridor": True},
        {"time_limit": 20, "random_corridor": True, "min_time_limit": 15},
        {"time_limit": 2 * NOISE_BLOCK + 50},
    ],
)
def test_single_and_vector_env_give_the_same_episodes(options: dict[str, Any]) -> None:
    """Under random actions, with rows that idle, restart alone and are left alone after their episode ended."""
    num_envs, rng = 6, np.random.default_rng(3)
    long = options["time_limit"] > NOISE_BLOCK
    one, many = SyncVector([lambda: TMaze(**options)] * num_envs), make_vector(num_envs, **options)
    seeds: list[int | None] = [5, 4, 0, 11, None, 2**40]
    np.testing.assert_array_equal(one.reset(seeds)["state"], many.reset(seeds)["state"])
    playing, never = np.array([seed is not None for seed in seeds]), np.zeros(num_envs, np.bool_)
    ends = 0
    for t in range(2 * options["time_limit"] if long else 300):
        active = playing & (rng.random(num_envs) < 0.99)
        action = rng.choice(4, p=[0.7, 0.1, 0.1, 0.1], size=num_envs)
        mine, theirs = one.step(action, active), many.step(action, active)
        for name, array in theirs._asdict().items():
            np.testing.assert_equal(getattr(mine, name), array, err_msg=f"{name} at step {t}")
        assert [np.asarray(array).dtype for array in mine[1:]] == [np.asarray(array).dtype for array in theirs[1:]]
        still = many.step(action, never)  # nobody acts: nothing moves
        np.testing.assert_array_equal(still.observation["state"], theirs.observation["state"])
        assert not (still.terminated | still.truncated | still.success).any() and not still.reward.any()
        ended = theirs.terminated | theirs.truncated
        ends += int(ended.sum())
        playing &= ~ended
        restart = ~playing & (rng.random(num_envs) < 0.5)
        if restart.any():
            seeds = [int(rng.integers(1000)) if begins else None for begins in restart]
            np.testing.assert_array_equal(one.reset(seeds)["state"], many.reset(seeds)["state"])
            playing |= restart
    assert ends >= (6 if long else 50)


def test_idle_rows_keep_their_observation() -> None:
    env = make_vector(3, time_limit=10)
    first = env.reset([0, 1, 2])["state"]
    active = np.array([True, False, True])
    state = env.step(np.zeros(3, np.int64), active).observation["state"]
    np.testing.assert_array_equal(state[1], first[1])
    assert state[0, 1] == 0 and first[0, 1] == -1  # the hint is gone where a step was taken
    again = env.reset([None, 8, None])["state"]
    np.testing.assert_array_equal(again[[0, 2]], state[[0, 2]])


def test_returned_arrays_are_not_written_again() -> None:
    env = make_vector(2, time_limit=10)
    first = env.reset([0, 1])["state"]
    kept = first.copy()
    step = env.step(np.zeros(2, np.int64), np.ones(2, np.bool_))
    second = [np.copy(array) for array in (step.observation["state"], step.reward, step.terminated)]
    for _ in range(8):
        env.step(np.array([0, 2]), np.ones(2, np.bool_))
    np.testing.assert_array_equal(first, kept)
    for array, copy in zip((step.observation["state"], step.reward, step.terminated), second, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("start", [0, 1, 999, 12345])
def test_goals_are_balanced_in_any_even_run_of_seeds(start: int) -> None:
    for count in (2, 20, 100):
        hints = make_vector(count, time_limit=9).reset(range(start, start + count))["state"][:, 1]
        assert hints.sum() == 0 and set(hints) == {-1.0, 1.0}


def test_corridors_are_uniform_and_independent_of_the_goal() -> None:
    rules = TMazeRules(time_limit=12, random_corridor=True)
    drawn = [rules.draw(seed)[:2] for seed in range(8000)]
    for side in (-1, 1):
        lengths = np.array([corridor for goal, corridor in drawn if goal == side])
        counts = np.bincount(lengths, minlength=11)
        assert counts[0] == 0 and len(counts) == 11
        assert np.abs(counts[1:] - 400).max() < 5 * np.sqrt(400)
    narrow = TMazeRules(time_limit=12, random_corridor=True, min_time_limit=10)
    assert {narrow.draw(seed)[1] for seed in range(200)} == {8, 9, 10}


def test_noise_is_uniform_and_does_not_repeat_from_block_to_block() -> None:
    env = make_vector(4, time_limit=5000)
    noise = [env.reset([0, 1, 2, 3])["state"][:, 3]]
    left, active = np.full(4, 2), np.ones(4, np.bool_)
    for _ in range(4 * NOISE_BLOCK - 1):
        noise.append(env.step(left, active).observation["state"][:, 3])
    values = np.stack(noise)
    for row in range(4):
        counts = [int((values[:, row] == value).sum()) for value in (-1, 0, 1)]
        assert sum(counts) == 4 * NOISE_BLOCK
        assert max(abs(count - 4 * NOISE_BLOCK / 3) for count in counts) < 150
    blocks = values.reshape(4, NOISE_BLOCK, 4).transpose(0, 2, 1).reshape(16, NOISE_BLOCK)
    agreement = [np.mean(blocks[i] == blocks[j]) for i in range(16) for j in range(i)]
    assert max(agreement) < 0.45  # a third, by chance


@pytest.mark.parametrize("options", [{"time_limit": 30, "random_corridor": True}, {"time_limit": 9}, {"time_limit": 3}])
def test_expert_always_wins_in_the_fewest_steps(options: dict[str, Any]) -> None:
    seeds = range(100, 200)
    episodes = rollout(make_vector(30, **options), TMazeExpert(), seeds)
    rules = TMazeRules(**options)
    assert [episode.length for episode in episodes] == [rules.draw(seed)[1] + 1 for seed in seeds]
    assert all(episode.success and episode.episode_return == 1.0 for episode in episodes)


class WrongWay(TMazeExpert):
    """Turns away from the hint."""

    def act(self, observation: dict[str, np.ndarray], is_first: np.ndarray) -> np.ndarray:
        action = super().act(observation, is_first)
        return np.where(action == 0, 0, 4 - action)


def test_turning_wrongly_or_never_gets_nothing() -> None:
    env = make_vector(8, time_limit=12)
    wrong = rollout(env, WrongWay(), range(16), observers=[Recorder()])
    assert not any(e.success or e.episode_return for e in wrong)
    assert all(e.length == 11 and e.steps and e.steps.terminated and not e.steps.truncated for e in wrong)
    episodes = rollout(env, RandomPolicy(env.spec), range(16), observers=[Recorder()])
    late = [e for e in episodes if e.steps and e.steps.truncated]
    assert late and all(e.length == 12 and not e.success for e in late)


def test_gymnasium_accepts_the_env() -> None:
    env = gymnasium.make("elmur/TMaze-v0", time_limit=8)
    check_env(env.unwrapped, skip_render_check=True)
    first, _ = env.reset(seed=0)
    assert env.observation_space.contains(first)
    unseeded = [env.reset()[0]["state"] for _ in range(20)]
    env.reset(seed=0)
    np.testing.assert_array_equal(unseeded, [env.reset()[0]["state"] for _ in range(20)])
    assert len({state[1] for state in unseeded}) == 2


def test_spec_says_what_the_env_gives() -> None:
    env = make_vector(2, time_limit=17)
    assert env.spec == TMaze(time_limit=17).task_spec and env.spec.horizon == 17
    assert env.reset([0, 1])["state"].shape == (2, *env.spec.observation["state"].shape)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_limit": 2}, "time_limit: expected 3 or more"),
        ({"time_limit": 9, "min_time_limit": 5}, "only with random_corridor"),
        ({"time_limit": 9, "random_corridor": True, "min_time_limit": 10}, "expected 3 to time_limit=9"),
        ({"time_limit": 9, "random_corridor": True, "min_time_limit": 2}, "expected 3 to time_limit=9"),
        ({"time_limit": 9, "num_envs": 0}, "num_envs: expected 1 or more"),
    ],
)
def test_impossible_mazes_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_vector(**{"num_envs": 2, **options})


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros(3, np.int64), r"expected integers \[2\]"),
        (np.zeros((2, 1), np.int64), r"expected integers \[2\]"),
        (np.zeros(2, np.float32), r"found float32 \[2\]"),
        (np.array([0, 4]), "found 4 for environment 1"),
        (np.array([-1, 0]), "found -1 for environment 0"),
        (np.array([0, 200], np.uint8), "found 200 for environment 1"),
    ],
)
def test_wrong_actions_are_refused_and_change_nothing(action: np.ndarray, message: str) -> None:
    active = np.ones(2, np.bool_)
    for env in (make_vector(2, time_limit=9), SyncVector([lambda: TMaze(9)] * 2)):
        state = env.reset([0, 1])["state"]
        with pytest.raises(ValueError, match=message):
            env.step(action, active)
        np.testing.assert_array_equal(env.reset([None, None])["state"], state)


def test_idle_rows_may_hold_any_action_but_ended_ones_may_not_act() -> None:
    for env in (make_vector(2, time_limit=3), SyncVector([lambda: TMaze(3)] * 2)):
        with pytest.raises(RuntimeError, match="environment 0 has no episode"):
            env.step(np.zeros(2, np.int64), np.ones(2, np.bool_))
        env.reset([0, 1])
        env.step(np.array([0, -7]), np.array([True, False]))
        assert env.step(np.array([1, 99]), np.array([True, False])).terminated.tolist() == [True, False]
        with pytest.raises(RuntimeError, match="environment 0 has no episode"):
            env.step(np.zeros(2, np.int64), np.ones(2, np.bool_))


def test_single_env_refuses_what_the_vector_env_refuses() -> None:
    env = TMaze(3)
    with pytest.raises(RuntimeError, match="no episode"):
        env.step(0)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="expected 0 to 3; found 4"):
        env.step(4)
