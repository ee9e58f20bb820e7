"""What experts hold of every action: against posteriors by counting, at ties, and as functions of the history alone."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pytest

pytest.importorskip("popgym", reason="needs POPGym: pip install -e '.[popgym]'")
pytest.importorskip("mazelib", reason="six of the 48 tasks need mazelib: pip install -e '.[popgym]'")

from docs.measure_agreement import Beside
from envs.experts.history import shares
from envs.experts.popgym import EXPERTS, expert_for
from envs.experts.popgym.battleship import FLEET, _Hunter
from envs.experts.popgym.minesweeper import MineSweeper
from envs.labelling import Labelling
from envs.observers import Noise, Recorder
from envs.popgym import make_vector
from envs.rollout import Episode, Policy, PreferringPolicy, RandomPolicy, Trajectory, Wave, rollout
from envs.ties import DrawnTies

PREFERRING = ("Battleship", "Concentration", "HigherLower", "MineSweeper", "MultiarmedBandit")
TASKS = [f"popgym-{name}Easy-v0" for name in PREFERRING]


def play(task: str, policy: Policy, number: int, num_envs: int, noise: float = 0.0) -> list[Episode]:
    env, seeds = make_vector(num_envs, task), list(range(20_000, 20_000 + number))
    watching = [Recorder(preferences=isinstance(policy, PreferringPolicy)), Noise(noise, np.random.default_rng(1))]
    episodes = rollout(env, policy, seeds, observers=watching)
    env.close()
    return episodes


def steps_of(episode: Episode) -> Trajectory:
    assert episode.steps is not None
    return episode.steps


def test_which_experts_have_a_preference() -> None:
    found = {name for name in EXPERTS if isinstance(expert_for(f"popgym-{name}Easy-v0"), PreferringPolicy)}
    assert found == set(PREFERRING)


@pytest.mark.parametrize("task", TASKS)
def test_whoever_acted_it_follows_from_the_observations_and_holds_the_answer_best(task: str) -> None:
    """Random play acts; the expert is shown what was seen, three episodes at once and each alone in another row."""
    shown = [steps_of(episode) for episode in play(task, RandomPolicy(make_vector(1, task).spec), 3, 3)]
    together, alone = expert_for(task), [expert_for(task) for _ in shown]
    assert isinstance(together, PreferringPolicy)
    together.start(3)
    for expert in alone:
        expert.start(2, seed=5)
    for t in range(min(40, *(len(steps.reward) for steps in shown))):
        seen = {name: np.stack([s.observation[name][t] for s in shown]) for name in shown[0].observation}
        answers = together.act(seen, np.full(3, t == 0))
        held = together.preferences()
        assert held.dtype == np.float32 and held.min() >= 0
        np.testing.assert_allclose(held.sum(axis=1), 1.0, rtol=1e-5)
        for row, expert in enumerate(alone):
            assert isinstance(expert, PreferringPolicy)
            twice = {name: np.stack([part[(row + 1) % 3], part[row]]) for name, part in seen.items()}
            answer = expert.act(twice, np.full(2, t == 0))[1]
            assert answer == answers[row] and (expert.preferences()[1] == held[row]).all()
            assert held[row, answer] == held[row].max()


@pytest.mark.parametrize("seed", range(3))
def test_of_sweeping_it_is_what_counting_all_layouts_says(seed: int) -> None:
    kinds = set()
    for episode in play("popgym-MineSweeperEasy-v0", MineSweeper("Easy"), 20, 10, noise=0.25 * seed):
        steps, opened = steps_of(episode), dict[int, int]()
        assert steps.preference is not None
        for t, held in enumerate(steps.preference):
            if t and (cell := int(steps.action[t - 1])) not in opened:
                opened[cell] = int(steps.observation["observation"][t, 0])
            kind, expected = by_counting(opened)
            here = set(np.flatnonzero(held).tolist())
            kinds.add(kind)
            if kind == "guess" and here <= opened.keys():  # it would rather click an opened cell
                kind, expected = "resigned", dict.fromkeys(opened, 1.0)
            if kind == "guess":
                assert min(expected, key=lambda cell: expected[cell][1]) in here or len(here) > 1  # type: ignore[index]
                worth = np.array([expected[cell][0] for cell in sorted(here)])  # type: ignore[index]
            else:
                assert here == expected.keys(), (kind, opened)
                worth = np.ones(len(here))
            np.testing.assert_allclose(held[sorted(here)], worth / worth.sum(), rtol=1e-5)
    assert kinds >= {"first", "safe", "guess"}


Worth = dict[int, float] | dict[int, tuple[float, float]]


def by_counting(opened: dict[int, int], side: int = 4, mines: int = 2) -> tuple[str, Worth]:
    """What kind of step it is, and the cells worth clicking: of guesses (worth, risk)."""
    fitting = [set(layout) for layout in combinations(range(side**2), mines)]
    fitting = [s for s in fitting if not opened.keys() & s and all(around(c, s, side) == n for c, n in opened.items())]
    closed = [cell for cell in range(side**2) if cell not in opened]
    risk = {cell: np.mean([cell in layout for layout in fitting]) for cell in closed}
    if not opened:
        return "first", dict.fromkeys((0, side - 1, side**2 - side, side**2 - 1), 1.0)
    if safe := [cell for cell in closed if risk[cell] == 0]:
        return "safe", dict.fromkeys(safe, 1.0)
    found = {}
    for cell in closed:
        goes_on = 0.0
        free = [layout for layout in fitting if cell not in layout]
        for layout in free:
            alike = [other for other in free if around(cell, other, side) == around(cell, layout, side)]
            others = [np.mean([c not in other for other in alike]) for c in closed if c != cell]
            goes_on += float(max(others, default=0.0))
        found[cell] = goes_on / len(fitting), float(risk[cell])
    return "guess", found


def around(cell: int, layout: set[int], side: int) -> int:
    """How many mines of the layout touch the cell."""
    row, column = divmod(cell, side)
    return sum(max(abs(m // side - row), abs(m % side - column)) == 1 for m in layout)


def test_of_ships_it_is_what_counting_all_fleets_says() -> None:
    """Misses leave four strips, each with a hit, so that every ship is hit and no overlap is neglected."""
    strips, hits = [range(5), range(16, 20), range(32, 36), range(48, 51)], [2, 17, 34, 49]
    kept = {cell for strip in strips for cell in strip}
    hunter = _Hunter("Easy")
    hunter.act(np.array([0]), -1)
    for cell in range(64):
        if cell not in kept or cell in hits:
            hunter.act(np.array([int(cell in hits)]), cell)
    fleets = [fleet for fleet in all_fleets(strips) if set(hits) <= fleet]
    expected = np.array([np.mean([cell in fleet for fleet in fleets]) for cell in range(64)])
    expected[hits] = 0.0
    assert len(fleets) > 10
    np.testing.assert_allclose(shares(hunter.worth()[None])[0], expected / expected.sum(), rtol=1e-5)


def all_fleets(strips: list[range]) -> Iterator[frozenset[int]]:
    """The cells of every way to put the fleet into strips that are one cell wide, no two ships on one cell."""
    lengths = [length for length, number in FLEET.items() for _ in range(number)]
    places = {n: [set(range(c, c + n)) for s in strips for c in s if c + n <= s.stop] for n in FLEET}
    assert lengths == [4, 3, 3, 2]
    for four in places[4]:
        for one, other in combinations(places[3], 2):
            for two in places[2]:
                fleet = frozenset(four | one | other | two)
                if len(fleet) == sum(lengths):
                    yield fleet


def first_preference(family: str) -> np.ndarray:
    task = f"popgym-{family}Easy-v0"
    env, expert = make_vector(1, task), expert_for(task)
    expert.start(1)
    expert.act(env.reset([3]), np.array([True]))
    assert isinstance(expert, PreferringPolicy)
    return expert.preferences()[0]


def test_equally_good_actions_have_equal_shares() -> None:
    assert (first_preference("MultiarmedBandit") == np.float32(0.1)).all()
    cards = first_preference("Concentration")
    assert (cards == np.float32(1 / 52)).all() and len(cards) == 52
    ships = first_preference("Battleship").reshape(8, 8)
    for turned in (ships.T, ships[::-1], ships[:, ::-1], ships[::-1, ::-1].T):  # the board's symmetries
        assert (turned == ships).all()
    assert len(np.unique(ships)) > 5


def test_a_card_player_holds_all_partners_alike() -> None:
    expert = expert_for("popgym-ConcentrationHard-v0")
    assert isinstance(expert, PreferringPolicy)
    expert.start(1)
    down = 13
    table = np.full((1, 104), down)
    seen = {0: 5, 1: 7, 2: 5, 3: 9, 4: 5}  # three cards of value 5
    executed = -1
    for position, value in seen.items():
        shown = table.copy()
        if executed >= 0:
            shown[0, executed] = seen[executed]
        expert.act({"observation": shown, "previous_action": np.array([[executed + 1]])}, np.array([executed < 0]))
        executed, _ = position, value
    shown = table.copy()
    shown[0, 4] = 5  # the first card of the third turn
    answer = expert.act({"observation": shown, "previous_action": np.array([[5]])}, np.array([False]))
    held = expert.preferences()[0]
    assert answer[0] == 0 and np.flatnonzero(held).tolist() == [0, 2] and held[0] == held[2]


def test_a_guess_at_higher_or_lower_counts_the_cards_left() -> None:
    expert = expert_for("popgym-HigherLowerEasy-v0")
    assert isinstance(expert, PreferringPolicy)
    expert.start(1)
    for rank, higher, lower in ((6, 24, 24), (6, 24, 24), (2, 39, 8), (12, 0, 45)):
        expert.act({"observation": np.array([[rank]])}, np.array([higher + lower == 48 and rank == 6]))
        np.testing.assert_allclose(expert.preferences()[0], np.array([higher, lower]) / (higher + lower), rtol=1e-6)
        if rank == 6 and higher == 24:
            expert._rows[0]._left[rank] = 3  # type: ignore[attr-defined]


def test_where_an_episode_is_over_nothing_is_held_better() -> None:
    assert (shares(np.zeros((2, 4))) == 0.25).all()
    close = shares(np.array([[0.3, 0.1 + 0.2, 0.1]]))  # 0.1 + 0.2 is not 0.3
    assert close[0, 0] == close[0, 1] > close[0, 2]


@pytest.mark.parametrize("task", ["popgym-MineSweeperEasy-v0", "popgym-ConcentrationEasy-v0"])
def test_ties_are_drawn_among_the_best_by_the_episode_alone(task: str) -> None:
    episodes = [play(task, DrawnTies(expert_for(task)), 6, side) for side in (6, 4)]  # type: ignore[arg-type]
    firsts = set()
    for one, other in zip(*episodes, strict=True):
        steps = steps_of(one)
        assert steps.preference is not None and (steps.action == steps_of(other).action).all()
        rows = np.arange(len(steps.action))
        assert (steps.preference[rows, steps.action] == steps.preference.max(axis=1)).all()
        assert steps.loss_mask.all()
        firsts.add(int(steps.action[0]))
    assert len(firsts) > 1


def test_drawn_ties_are_uniform() -> None:
    expert = DrawnTies(MineSweeper("Easy"))
    expert.start(400)
    blank = {"observation": np.zeros((400, 1), np.int64), "previous_action": np.zeros((400, 1), np.int64)}
    counts = np.bincount(expert.act(blank, np.full(400, True)), minlength=16)
    assert set(np.flatnonzero(counts)) == {0, 3, 12, 15}
    assert counts.sum() == 400 and counts[[0, 3, 12, 15]].min() > 70  # 100 each, deviation 8.7


def test_agreement_is_that_of_the_answers_at_the_same_steps() -> None:
    """Random play acts and the expert is asked; the expert's labels of the same play, recorded another way."""
    task, seeds = "popgym-MineSweeperEasy-v0", list(range(30))
    env, expert = make_vector(10, task), expert_for(task)
    rollout(env, RandomPolicy(env.spec), seeds, observers=[beside := Beside(expert, expert)])
    watching = [Recorder(labelled=True, preferences=True), _Again(RandomPolicy(env.spec))]
    steps = [steps_of(episode) for episode in rollout(env, expert, seeds, observers=watching)]
    done = np.concatenate([one.action for one in steps])
    held = np.concatenate([one.preference for one in steps if one.preference is not None])
    said = np.concatenate([one.label for one in steps if one.label is not None])
    assert len(beside.same) == len(done) and np.mean(beside.same) == np.mean(said == done) > 0
    worth = held[np.arange(len(done)), done] / held.max(axis=1)
    assert sorted(beside.worth) == pytest.approx(np.sort(worth))
    assert np.mean(np.array(beside.worth) == 1) > np.mean(beside.same)
    rollout(env, expert, seeds, observers=[alike := Beside(expert_for(task), expert)])
    assert np.mean(alike.same) == np.mean(alike.worth) == 1


class _Again(Labelling):
    """Random play that goes on from wave to wave as it does where it acts itself."""

    def on_reset(self, wave: Wave) -> None:
        if not hasattr(self, "begun"):
            super().on_reset(wave)
        self.begun = True
