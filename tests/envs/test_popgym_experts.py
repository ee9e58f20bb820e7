"""POPGym's experts: how good they are, that they go by the history alone, and their parts against other derivations."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from scipy.stats import truncnorm

pytest.importorskip("popgym", reason="needs POPGym: pip install -e '.[popgym]'")
pytest.importorskip("mazelib", reason="six of the 48 tasks need mazelib: pip install -e '.[popgym]'")

from envs.experts.popgym import EXPERTS, expert_for
from envs.experts.popgym.__main__ import main as table
from envs.experts.popgym.battleship import SHIP_CELLS, Battleship, _Hunter
from envs.experts.popgym.cartpole import _beyond, accelerations
from envs.experts.popgym.labyrinth import GOAL, LabyrinthEscape
from envs.experts.popgym.levels import LEVELS, LevelError, check_level
from envs.experts.popgym.mines import mine_probabilities, neighbours
from envs.experts.popgym.pendulum_value import advance, best_torque, cost, wrap
from envs.observers import Noise, Recorder
from envs.popgym import FAMILIES, TASKS, PopGymError, make_vector
from envs.rollout import Episode, rollout

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "popgym_scores.json"
FIRST_SEED = 10_000


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def play(task: str, num_episodes: int, num_envs: int, noise: float = 0.0) -> list[Episode]:
    env = make_vector(num_envs, task)
    seeds = range(FIRST_SEED, FIRST_SEED + num_episodes)
    observers = [Recorder(), Noise(noise, np.random.default_rng(0))] if noise else []
    return rollout(env, expert_for(task), list(seeds), observers=observers)


# --- level ------------------------------------------------------------------------------------------------------------


def test_there_is_an_expert_and_a_level_for_each_task() -> None:
    assert set(EXPERTS) == set(FAMILIES.values()) and len(EXPERTS) == 16
    assert set(LEVELS) == set(TASKS) and len(LEVELS) == 48
    assert sum(level.expert for level in LEVELS.values()) == pytest.approx(40.8, abs=0.1)
    assert sum(level.random for level in LEVELS.values()) == pytest.approx(-12.4, abs=0.3)
    with pytest.raises(PopGymError, match="nearest: popgym-AutoencodeEasy-v0"):
        expert_for("popgym-AutoencoderEasy-v0")


def test_a_few_episodes_are_far_above_random_play(task: str) -> None:
    returns = [episode.episode_return for episode in play(task, num_episodes=10, num_envs=10)]
    check_level(task, returns)
    assert LEVELS[task].normalised(float(np.mean(returns))) > 0.4


@pytest.mark.slow
def test_two_hundred_episodes_reach_the_reference(task: str) -> None:
    # Within two standard errors of other experts' mean on the very same episodes, or better.
    returns = [episode.episode_return for episode in play(task, num_episodes=200, num_envs=50)]
    check_level(task, returns)
    if not REFERENCE.exists():
        pytest.skip("the reference scores are not on this machine")
    reference = json.loads(REFERENCE.read_text(encoding="utf-8"))[task]
    assert np.mean(returns) >= reference["oracle_mean"] - 2.0 * reference["oracle_std"] / np.sqrt(200) - 1e-4


def test_an_expert_below_its_level_is_refused() -> None:
    task = "popgym-MultiarmedBanditEasy-v0"
    level = LEVELS[task]
    check_level(task, [level.expert] * 100)
    check_level(task, [level.expert - 3.9 * level.spread / 10.0] * 100)
    with pytest.raises(
        LevelError, match=rf"{task}: the expert scored 0\.4\d\d on 100 episodes, expected at least 0\.6.*check=null"
    ):
        check_level(task, [0.45] * 100)
    check_level(task, [])  # nobody's
    assert level.normalised(level.random) == 0.0 and level.normalised(level.expert) == 1.0


def test_the_table_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["popgym", "--episodes", "2", "--match", "RepeatFirst(Easy|Medium)"])
    table()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[1].split()[:4] == ["popgym-RepeatFirstEasy-v0", "1.0000", "0.0000", "1.000"]
    assert lines[1].split()[5] == "51.0"
    assert lines[3].split() == ["sum", "over", "2", "2.00"]


# --- history alone ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_same_observations_give_the_same_actions_in_whatever_row(task: str) -> None:
    # Three rows for four episodes: some rows idle while others go on, and the last wave has two empty ones. Actions
    # are disturbed, so what was executed is not what the expert said, and all must still be legal.
    for episode in play(task, num_episodes=4, num_envs=3, noise=0.1):
        steps = episode.steps
        assert steps is not None
        again = expert_for(task)
        again.start(1, seed=episode.seed)  # a seed changes nothing
        for t in range(min(episode.length, 120)):
            seen = {name: part[t : t + 1] for name, part in steps.observation.items()}
            answer = again.act(seen, np.array([t == 0]))
            again.observe(steps.action[t : t + 1], steps.reward[t : t + 1])
            same = answer[0] == pytest.approx(steps.action[t], abs=1e-6)
            assert same or not steps.loss_mask[t]  # the mask leaves out what the noise replaced


# --- parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_mine_probabilities_are_those_of_counting_all_layouts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    board, mines = 4, int(rng.integers(2, 5))
    around = neighbours(board)
    truth = set(rng.choice(16, mines, replace=False).tolist())
    free = [cell for cell in range(16) if cell not in truth]
    opened = {
        cell: sum(other in truth for other in around[cell])
        for cell in rng.choice(free, int(rng.integers(0, 8)), replace=False).tolist()
    }
    fitting = [
        layout
        for layout in combinations(range(16), mines)
        if not opened.keys() & set(layout)
        and all(sum(other in layout for other in around[cell]) == number for cell, number in opened.items())
    ]
    expected = [2.0 if c in opened else np.mean([c in layout for layout in fitting]) for c in range(16)]
    probability, number = mine_probabilities(opened, board, mines)
    assert number == pytest.approx(len(fitting))
    np.testing.assert_allclose(probability, np.array(expected), atol=1e-12)


def test_numbers_that_no_layout_explains_are_noticed() -> None:
    probability, number = mine_probabilities({0: 0, 2: 3}, 4, 2)
    assert number == 0.0 and (probability == 2.0).all()


def test_neighbours_of_a_corner_an_edge_and_the_middle() -> None:
    around = neighbours(4)
    assert (around[0], around[1]) == ([1, 4, 5], [0, 2, 4, 5, 6])
    assert around[5] == [0, 1, 2, 4, 6, 8, 9, 10]


def test_a_hit_is_followed_up_beside_it() -> None:
    hunter = _Hunter("Easy")
    hunter.act(np.array([0]), -1)
    assert hunter.act(np.array([1]), 27) in {26, 28, 19, 35}
    assert hunter.act(np.array([1]), 28) in {26, 29}  # two in a row: along it


def test_the_only_place_left_for_the_ships_is_certain() -> None:
    # Misses everywhere but in four separate places as long as the ships: all of these are surely occupied.
    ships = [[0, 1, 2, 3], [16, 17, 18], [32, 33, 34], [48, 49]]
    kept = {cell for ship in ships for cell in ship}
    hunter = _Hunter("Easy")
    hunter.act(np.array([0]), -1)
    for cell in range(64):
        if cell not in kept:
            hunter.act(np.array([0]), cell)
    for cell in [0, 1, 2, 16, 17, 32, 33]:  # with these hit, each ship is told apart
        hunter.act(np.array([1]), cell)
    chance = hunter._chances()
    for cell in (3, 18, 34):
        assert chance[cell] == pytest.approx(1.0)
    assert sum(len(ship) for ship in ships) == SHIP_CELLS
    assert isinstance(Battleship("Easy").begin(), _Hunter)


def test_cartpole_moves_as_gymnasium_says() -> None:
    env: Any = gymnasium.make("CartPole-v1", disable_env_checker=True).unwrapped
    rng = np.random.default_rng(0)
    for _ in range(50):
        env.reset(seed=0)
        state = rng.uniform(-1.0, 1.0, 4) * [2.0, 3.0, 0.2, 3.0]
        env.state, right = state, int(rng.integers(2))
        env.step(right)
        cart, turn = accelerations(state[2:3], state[3:4], np.array([right == 1]))
        moved = state + 0.02 * np.array([state[1], cart[0], state[3], turn[0]])
        np.testing.assert_allclose(env.state, moved, rtol=1e-12)


def test_a_clipped_reading_is_taken_as_a_truncated_normal() -> None:
    mean, variance = np.array([0.0, 0.5, -2.0]), np.array([0.04, 0.5, 0.3])
    expected = truncnorm((0.4 - mean) / np.sqrt(variance), np.inf, loc=mean, scale=np.sqrt(variance))
    found = _beyond(mean, variance, 0.4)
    np.testing.assert_allclose(found[0], expected.mean(), rtol=1e-6)
    np.testing.assert_allclose(found[1], expected.var(), rtol=1e-4)


def test_pendulum_moves_and_costs_as_gymnasium_says() -> None:
    env: Any = gymnasium.make("Pendulum-v1", disable_env_checker=True).unwrapped
    rng = np.random.default_rng(0)
    for _ in range(50):
        env.reset(seed=0)
        state, torque = rng.uniform(-1.0, 1.0, 2) * [6.0, 8.0], rng.uniform(-2.0, 2.0, 1)
        env.state = state
        _, reward, *_ = env.step(torque)
        np.testing.assert_allclose(env.state, advance(state[0], state[1], torque[0]), rtol=1e-12)
        assert reward == pytest.approx(-float(cost(state[0], state[1], torque[0])))


def test_the_pendulum_is_swung_up_and_held() -> None:
    angle, velocity = np.full((1, 1), np.pi), np.zeros((1, 1))
    heights = []
    for _ in range(200):
        torque = best_torque(angle, velocity, np.linspace(-2.0, 2.0, 21))
        angle, velocity = advance(angle, velocity, torque[:, None])
        heights.append(float(np.cos(angle).item()))
    assert heights[0] < -0.99 and min(heights[-80:]) > 0.99
    assert abs(wrap(np.array(3.0 * np.pi))) == pytest.approx(np.pi)


def test_a_card_player_begins_a_pair_with_the_card_that_completed_it() -> None:
    down = 13
    expert = expert_for("popgym-ConcentrationHard-v0")
    expert.start(1)
    cards = {4: 7, 9: 2, 5: 1, 10: 7}
    turned: list[int] = []
    answers: list[int] = []
    for position in (None, 4, 9, 5, 10, 10):  # turned over by somebody else; 4 and 10 are a pair
        seen = np.full((1, 52), down)
        turned = turned[-1:] if len(turned) % 2 else []
        if position is not None:
            turned.append(position)
            seen[0, turned] = [cards[card] for card in turned]
        before = np.array([[0 if position is None else 1 + position]])
        answers.append(
            int(expert.act({"observation": seen, "previous_action": before}, np.array([position is None]))[0])
        )
    # the first card, the one behind the newest (three times), the one that completes a pair, its partner
    assert answers == [0, 5, 10, 6, 10, 4]


@pytest.mark.parametrize("level", ["Easy", "Hard"])
def test_a_card_player_picks_up_what_noise_has_missed(level: str) -> None:
    name, player = f"popgym-Concentration{level}-v0", np.random.default_rng(0)
    env, expert = make_vector(5, name), expert_for(name)
    observation, active, won = env.reset(range(5)), np.ones(5, np.bool_), np.zeros(5, np.bool_)
    expert.start(5)
    for step in range(104):
        action = expert.act(observation, np.full(5, step == 0))
        result = env.step(player.integers(52, size=5) if step < 16 else action, active)
        observation, won = result.observation, won | (active & result.terminated)
        active &= ~(result.terminated | result.truncated)
    assert won.all(), "every pair was found before the last step"


def test_an_escaper_walks_to_a_goal_in_sight() -> None:
    expert = LabyrinthEscape("Easy")
    expert.start(1)
    walls = np.ones((3, 3), np.int64)
    first, second = walls.copy(), walls.copy()
    first[0, 1], first[1, 1] = 2, 0  # the start is in the top wall, seen from there with the window shifted
    second[0, 1], second[1, 1], second[1, 2] = 2, 0, GOAL
    seen = [np.append(view.ravel(), 4)[None] for view in (first, second)]
    down = expert.act({"observation": seen[0], "previous_action": np.array([[0]])}, np.array([True]))
    right = expert.act({"observation": seen[1], "previous_action": np.array([[4]])}, np.array([False]))
    assert (down.tolist(), right.tolist()) == ([3], [1])
