"""The 48 POPGym tasks: their specification, their episodes, and that nothing hidden comes through."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

pytest.importorskip("popgym", reason="needs POPGym: pip install -e '.[popgym]'")
pytest.importorskip("mazelib", reason="six of the 48 tasks need mazelib: pip install -e '.[popgym]'")

import popgym.envs
from omegaconf import OmegaConf
from popgym.wrappers import DiscreteAction

from elmur.spec import Discrete, TaskSpec, Vector
from envs import popgym as adapter
from envs.popgym import TASKS, PopGym, PopGymError, family_and_level, make_vector
from envs.rollout import uniform_action

CONF = Path(__file__).resolve().parents[2] / "conf" / "task"
Episode = list[tuple[dict[str, list[float]], float, bool, bool, dict[str, Any]]]


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def play(env: PopGym, seed: int, steps: int, actions: int = 0) -> Iterator[Any]:
    """An episode of random actions, one `yield` per step: what was seen, gained and said."""
    rng = np.random.default_rng(actions)
    observation, info = env.reset(seed=seed)
    yield {name: part.tolist() for name, part in observation.items()}, 0.0, False, False, info
    for _ in range(steps):
        action = uniform_action(env.task_spec, 1, rng)[0]
        observation, reward, terminated, truncated, info = env.step(action)
        yield {name: part.tolist() for name, part in observation.items()}, reward, terminated, truncated, info
        if terminated or truncated:
            return


def stall(env: PopGym, step: int) -> Any:
    """An action that lets the episode go on for as long as it can. It looks at the hidden state, as tests may."""
    inner = env._env
    family, _ = family_and_level(env.task_spec.name)
    if family == "MineSweeper":
        return int(np.flatnonzero(inner.hidden_grid.ravel() != 1)[0])
    if family.startswith("Labyrinth"):
        row, column = inner.position
        ahead = [(row, column - 1), (row, column + 1), (row - 1, column), (row + 1, column)]
        inside = [min(max(r, 0), len(inner.maze.grid) - 1) == r and 0 <= c < len(inner.maze.grid) for r, c in ahead]
        return next(a for a, cell in enumerate(ahead) if not inside[a] or inner.maze.grid[cell] == 1)
    if "art" in family and "ole" in family:  # CartPole, also in its other spelling
        return int(inner.state @ (0.05, 0.12, 1.0, 0.25) > 0)
    return np.zeros(1, np.float32) if isinstance(env.task_spec.action, Vector) else 0


def test_the_tasks_are_those_that_popgym_registers() -> None:
    registered = {entry["id"] for entry in popgym.envs.ALL.values()}
    assert len(registered) == len(TASKS) == 48
    assert registered == set(TASKS) and registered <= set(gymnasium.registry)


def test_each_task_has_a_file_of_its_own_in_conf() -> None:
    files = sorted(CONF.glob("popgym_*.yaml"))
    assert len(files) == 48
    found = {}
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert text.startswith("# @package _global_\n") and len(text.splitlines()) <= 12
        config = OmegaConf.to_container(OmegaConf.create(text))
        assert isinstance(config, dict) and set(config) - {"collect", "recipe"} == {"defaults", "env"}
        assert config["defaults"] == [{"override /env": "popgym"}]
        found[config["env"]["id"]] = file.stem
    assert set(found) == set(TASKS)
    for name, stem in found.items():  # popgym_repeat_first_easy is RepeatFirstEasy
        assert stem.removeprefix("popgym_").replace("_", "") == name[len("popgym-") : -len("-v0")].lower()


def actions_change_nothing(task: str) -> bool:
    """Whether POPGym shows the same to whoever plays an episode: found by eight who play at random."""
    shown = []
    for player in range(8):
        inner = PopGym(task)._env
        inner.action_space.seed(player)
        seen = [inner.reset(seed=5)[0]]
        for _ in range(30):
            observation, _, terminated, truncated, _ = inner.step(inner.action_space.sample())
            seen.append(observation)
            if terminated or truncated:
                break
        shown.append(np.array(seen))
    return all(np.array_equal(shown[0], other) for other in shown[1:])


def test_spec_carries_both_spaces_of_popgym(task: str) -> None:
    env = PopGym(task)
    spec, inner = env.task_spec, env._env
    shown = spec.observation["observation"]
    if isinstance(inner.observation_space, spaces.Box):
        assert isinstance(shown, Vector) and shown.shape == inner.observation_space.shape
        if np.isfinite(inner.observation_space.high).all():
            assert shown.low == tuple(inner.observation_space.low) and shown.high == tuple(inner.observation_space.high)
        else:
            assert shown.low is None and shown.high is None
    else:  # a one-hot code has a place for each value of each component
        assert isinstance(shown, Discrete) and sum(shown.sizes) == spaces.flatdim(inner.observation_space)
    if isinstance(inner.action_space, spaces.Box):
        assert spec.action == Vector(1, (-2.0,), (2.0,)) == spec.observation["previous_action"]
        assert spec.observation["first"] == Discrete((2,))
    else:
        flat = DiscreteAction(inner).action_space if isinstance(inner.action_space, spaces.MultiDiscrete) else None
        size = int((flat or inner.action_space).n)
        assert spec.action == Discrete((size,))
        told = {"first": Discrete((2,))} if actions_change_nothing(task) else {"previous_action": Discrete((size + 1,))}
        assert spec.observation == {"observation": shown, **told}
    assert spec.name == task and TaskSpec.from_json(spec.to_json()) == spec


def test_horizon_is_the_longest_episode(task: str) -> None:
    env = PopGym(task)
    env.reset(seed=3)
    for step in range(1, 2000):
        _, _, terminated, truncated, _ = env.step(stall(env, step))
        if terminated or truncated:
            break
    assert step == env.task_spec.horizon


def test_what_is_seen_lies_in_the_space_and_tells_the_executed_action(task: str) -> None:
    env = PopGym(task)
    rng = np.random.default_rng(0)
    observation, _ = env.reset(seed=11)
    executed = None
    for _ in range(40):
        assert env.observation_space.contains(observation)
        if "first" in observation:
            assert observation["first"].tolist() == [executed is None]
        if isinstance(env.task_spec.action, Vector):
            assert observation["previous_action"].tolist() == [0.0 if executed is None else executed[0]]
        elif "previous_action" in observation:
            assert observation["previous_action"].tolist() == [0 if executed is None else executed + 1]
        executed = uniform_action(env.task_spec, 1, rng)[0]
        observation, _, terminated, truncated, _ = env.step(executed)
        if terminated or truncated:
            break
    again, _ = env.reset(seed=12)
    assert again["first"].tolist() == [1] if "first" in again else again["previous_action"].tolist() == [0]


# --- episodes ---------------------------------------------------------------------------------------------------------


def test_a_seed_determines_the_episode_and_nothing_global_changes(task: str) -> None:
    episode = list(play(PopGym(task), 1_000_001, 60))
    used = PopGym(task)  # before the states are read: the tests' type checker draws when a TaskSpec is made
    random.seed(99)
    np.random.seed(99)  # noqa: NPY002
    python, legacy = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index] # noqa: NPY002
    other = list(play(used, 1_000_002, 60))
    assert list(play(used, 1_000_001, 60)) == episode
    assert random.getstate() == python
    assert np.random.get_state()[1].tolist() == legacy  # type: ignore[index] # noqa: NPY002
    assert other != episode


def test_environments_do_not_disturb_each_other(task: str) -> None:
    alone = [list(play(PopGym(task), seed, 40, actions=seed)) for seed in (5, 6)]
    together: list[Episode] = [[], []]
    running = [play(PopGym(task), seed, 40, actions=seed) for seed in (5, 6)]
    for _ in range(41):
        for episode, steps in zip(together, running, strict=True):
            episode.extend(entry for entry in [next(steps, None)] if entry is not None)
    assert together == alone


def test_without_a_seed_the_next_episode_follows_from_the_last_seed(task: str) -> None:
    def two_more() -> list[Any]:
        env = PopGym(task)
        env.reset(seed=8)
        return [{name: part.tolist() for name, part in env.reset()[0].items()} for _ in range(2)]

    assert two_more() == two_more()


def test_steps_that_are_never_judged_are_masked_and_only_those(task: str) -> None:
    env = PopGym(task)
    masks, rewards = [], []
    for seed in range(3):
        steps = list(play(env, seed, 2000, actions=seed))[1:]
        masks.append([step[4]["loss_mask"] for step in steps])
        rewards.append([step[1] for step in steps])
    family, level = family_and_level(task)
    unjudged = {
        "Autoencode": {"Easy": 51, "Medium": 103, "Hard": 155},  # all cards but the first are dealt while watching
        "RepeatPrevious": {"Easy": 3, "Medium": 31, "Hard": 63},
    }.get(family)
    if unjudged is None:
        assert all(all(mask) for mask in masks)
        return
    for mask, reward in zip(masks, rewards, strict=True):
        assert mask.index(True) == unjudged[level] and all(mask[unjudged[level] :])
        assert [gained != 0.0 for gained in reward] == mask


def test_nothing_that_popgym_says_in_info_comes_through(task: str) -> None:
    env = PopGym(task)
    inner = gymnasium.make(task, disable_env_checker=True).unwrapped
    shown, _ = inner.reset(seed=21)
    steps = play(env, 21, 40)
    observation, _, _, _, info = next(steps)
    assert info == {}
    rng = np.random.default_rng(0)
    for observation, reward, terminated, _, info in steps:
        assert set(info) <= {"loss_mask", "clipped"} and set(observation) == set(env.task_spec.observation)
        action = uniform_action(env.task_spec, 1, rng)[0]
        if isinstance(inner.action_space, spaces.MultiDiscrete):
            action = np.unravel_index(action, inner.action_space.nvec)
        elif isinstance(inner.action_space, spaces.Discrete):
            action = int(action)
        shown, expected, ended, _, _ = inner.step(action)
        assert observation["observation"] == pytest.approx(np.atleast_1d(np.array(shown)).tolist())
        assert (reward, terminated) == (expected, ended)


def test_a_pair_of_row_and_column_is_one_choice() -> None:
    env = PopGym("popgym-BattleshipHard-v0")
    env.reset(seed=0)
    env.step(5 * 12 + 7)
    assert np.argwhere(env._env.guesses).tolist() == [[5, 7]]


def test_torques_beyond_the_bounds_are_clipped_and_counted() -> None:
    wild, tame = PopGym("popgym-PositionOnlyPendulumEasy-v0"), PopGym("popgym-PositionOnlyPendulumEasy-v0")
    for env in (wild, tame):
        env.reset(seed=0)
    seen, reward, _, _, info = wild.step(np.array([7.5]))
    expected, same, _, _, calm = tame.step(np.array([2.0], np.float32))
    assert {name: part.tolist() for name, part in seen.items()} == {n: p.tolist() for n, p in expected.items()}
    assert reward == same and seen["previous_action"].tolist() == [2.0]
    assert info["clipped"] and not calm["clipped"] and (wild.clipped, tame.clipped) == (1, 0)


@pytest.mark.parametrize(
    ("name", "action", "message"),
    [
        ("popgym-RepeatFirstEasy-v0", 4, "expected an action from 0 to 3; found 4"),
        ("popgym-RepeatFirstEasy-v0", -1, "expected an action from 0 to 3"),
        ("popgym-BattleshipEasy-v0", 64, "expected an action from 0 to 63"),
        ("popgym-RepeatFirstEasy-v0", 0.5, "expected an action from 0 to 3"),
        ("popgym-PositionOnlyPendulumEasy-v0", [np.nan], "expected 1 finite number"),
        ("popgym-PositionOnlyPendulumEasy-v0", [0.0, 0.0], "expected 1 finite number"),
    ],
)
def test_actions_outside_the_space_are_refused(name: str, action: Any, message: str) -> None:
    env = PopGym(name)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(action)


def test_many_environments_give_the_episodes_of_their_seeds() -> None:
    vector = make_vector(2, "popgym-LabyrinthEscapeEasy-v0")
    seen = vector.reset([4, 5])
    for row, seed in enumerate((4, 5)):
        alone, _ = PopGym("popgym-LabyrinthEscapeEasy-v0").reset(seed=seed)
        assert all((seen[name][row] == alone[name]).all() for name in alone)
    assert vector.spec.horizon == 1023
    vector.close()


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("popgym-RepeatFrstEasy-v0", "popgym-RepeatFirstEasy-v0"),
        ("popgym_repeat_first_easy", "popgym-RepeatFirstEasy-v0"),
        ("popgym-VelocityOnlyCartPoleHard-v0", "popgym-VelocityOnlyCartpoleHard-v0"),
        ("autoencode_medium", "popgym-AutoencodeMedium-v0"),
        ("zzz", "e.g. popgym-"),
    ],
)
def test_an_unknown_task_is_answered_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(PopGymError, match=f"no task {name!r}.*{re.escape(nearest)}"):
        PopGym(name)


@pytest.mark.parametrize("missing", ["popgym", "mazelib"])
def test_a_missing_package_is_named_with_its_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else found(name))
    with pytest.raises(PopGymError, match=rf"needs the package {missing}: pip install -e '\.\[popgym\]'") as error:
        PopGym("popgym-LabyrinthExploreHard-v0")
    if missing == "mazelib":
        assert len(set(re.findall(r"popgym-Labyrinth\w+-v0", str(error.value)))) == 6
        PopGym("popgym-RepeatFirstEasy-v0")  # needs no maze


def test_another_version_of_popgym_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0.6")
    adapter._check_version.cache_clear()
    with pytest.warns(UserWarning, match=r"popgym 1\.0\.6 is installed, expected 1\.0\.7: CountRecall .* MineSweeper"):
        PopGym("popgym-CountRecallEasy-v0")
