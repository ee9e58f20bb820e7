"""What environments tell of their hidden state, against what their observations and experts show of it."""

from __future__ import annotations

import numpy as np
import pytest

from envs import popgym, tmaze
from envs.experts.popgym import expert_for
from envs.hidden import Demand, demand_of, hidden_of, twins_of
from envs.tmaze import HINT


def test_the_cue_of_the_maze_is_its_hint() -> None:
    env = tmaze.make_vector(4, 9)
    hint = env.reset([3, 4, 6, 9])["state"][:, HINT]
    assert (hidden_of(env)["cue"] == (hint > 0)).all() and set(hint) == {-1, 1}
    env.step(np.zeros(4, np.int64), np.ones(4, np.bool_))
    assert (hidden_of(env)["cue"] == (hint > 0)).all()
    assert demand_of(tmaze.make_vector, time_limit=9) == Demand(1, "hint", 8)


def played(task: str, steps: int) -> tuple[list[np.ndarray], list[dict[str, np.ndarray]], list[np.ndarray]]:
    """What the expert sees, what is hidden then, and what it does."""
    env, expert = popgym.make_vector(2, task), expert_for(task)
    expert.start(2)
    seen, hidden, done = env.reset([5, 8]), [], []
    shown = []
    for step in range(steps):
        shown.append(seen["observation"])
        hidden.append(hidden_of(env))
        done.append(expert.act(seen, np.full(2, step == 0)))
        seen = env.step(done[-1], np.ones(2, np.bool_)).observation
    return shown, hidden, done


def test_autoencode_hides_the_suits_in_the_order_in_which_they_are_dealt() -> None:
    shown, hidden, _ = played("popgym-AutoencodeEasy-v0", 60)
    dealt = np.stack([suit for _, suit in np.swapaxes(shown[:52], 1, 2)], axis=1)
    for step in (0, 30, 59):
        assert (hidden[step]["suits"] == dealt).all()


def test_repeat_previous_hides_what_its_expert_says() -> None:
    _, hidden, done = played("popgym-RepeatPreviousEasy-v0", 20)
    for step in range(3, 20):
        assert (hidden[step]["last suits"][:, 0] == done[step]).all()
    assert (hidden[0]["last suits"][:, :3] == -1).all()


def test_concentration_hides_the_faces_that_it_turns() -> None:
    shown, hidden, _ = played("popgym-ConcentrationEasy-v0", 60)
    faces, down = hidden[0]["faces"], max(part.max() for part in shown)
    turned = 0
    for table in shown:
        table, up = table[:, :52], table[:, :52] != down
        assert (table[up] == faces[up]).all()
        turned += int(up.sum())
    assert turned > 60


@pytest.mark.parametrize("task", [task for task in popgym.TASKS if "Easy" in task])
def test_every_family_tells_what_it_hides_and_how_much(task: str) -> None:
    env = popgym.make_vector(2, task)
    env.reset([1, 2])
    found, demand = hidden_of(env), demand_of(popgym.make_vector, id=task)
    assert found and demand is not None and demand.items > 0
    assert all(value.shape[0] == 2 and value.dtype in (np.int64, np.float32) for value in found.values())


@pytest.mark.parametrize("family", ["LabyrinthEscape", "LabyrinthExplore"])
def test_the_map_of_a_labyrinth_is_what_its_views_show(family: str) -> None:
    shown, hidden, _ = played(f"popgym-{family}Easy-v0", 15)
    for lane in range(2):
        visited = np.zeros((11, 11), np.bool_)
        for view, told in zip(shown, hidden, strict=True):
            walls, (row, column) = told["walls"][lane].reshape(11, 11), told["place"][lane]
            visited[row, column] = True
            around = np.pad(walls, 1, constant_values=1)[row : row + 3, column : column + 3]
            if 0 < row < 10 and 0 < column < 10:  # POPGym pads a view at the border on one side only
                assert ((view[lane, :9].reshape(3, 3) == 1) == (around == 1)).all()
            if family == "LabyrinthExplore":
                assert (told["visited"][lane].reshape(11, 11) == visited).all()
            else:
                assert walls[tuple(told["exit"][lane])] == 0 and 0 in (told["exit"][lane] % 10)
        free = int((walls[1:-1, 1:-1] == 0).sum())
        assert demand_of(popgym.make_vector, id=f"popgym-{family}Easy-v0") == Demand(free, "cells that are free", 1023)


SHOWN_ONCE = ("RepeatFirst", "RepeatPrevious", "Autoencode", "CountRecall", "HigherLower")


def acted(task: str, twin: bool, steps: int = 60) -> tuple[list[np.ndarray], float]:
    """What three episodes show with the expert acting, and what it earns in the mean."""
    env, expert = popgym.make_vector(3, task), expert_for(task)
    expert.start(3)
    seen, active, shown, total = env.reset([5, 8, 11]), np.ones(3, np.bool_), [], 0.0
    if twin:
        found = twins_of(env)
        assert found is not None
        seen = found
    for step in range(env.spec.horizon or 0):
        shown.append(seen["observation"])
        result = env.step(expert.act(seen, np.full(3, step == 0)), active)
        seen, active = result.observation, active & ~(result.terminated | result.truncated)
        total += float(result.reward.mean())
    assert not active.any()
    return shown[:steps], total


@pytest.mark.parametrize("family", SHOWN_ONCE)
def test_twins_differ_in_the_first_card_and_are_played_by_the_same_rules(family: str) -> None:
    one, other = (acted(f"popgym-{family}Easy-v0", twin) for twin in (False, True))
    differ = [(a != b).any(axis=1) for a, b in zip(one[0], other[0], strict=True)]
    assert differ[0].all()
    assert (np.sum(differ[1:], axis=0) <= (family == "CountRecall")).all(), "there two cards change places"
    if family != "HigherLower":  # in which nobody knows the next card
        assert other[1] == pytest.approx(one[1]), "who remembers the other card earns as much"


def test_in_the_twin_of_a_table_two_cards_have_changed_places() -> None:
    env = popgym.make_vector(2, "popgym-ConcentrationHard-v0")
    first = env.reset([3, 4])
    faces = hidden_of(env)["faces"]
    other = twins_of(env)
    assert other is not None and (other["observation"] == first["observation"]).all(), "all cards lie face down"
    changed = hidden_of(env)["faces"]
    for before, after in zip(faces, changed, strict=True):
        zero, place = np.flatnonzero(before != after)
        assert zero == 0 and (before[[0, place]] == after[[place, 0]]).all()
    turned = env.step(np.zeros(2, np.int64), np.ones(2, np.bool_)).observation["observation"]
    assert (turned[:, 0] == changed[:, 0]).all()
    with pytest.raises(RuntimeError, match="twin: expected an episode at its first observation"):
        twins_of(env)


@pytest.mark.parametrize("family", ["PositionOnlyPendulum", "LabyrinthEscape", "MineSweeper"])
def test_what_is_not_shown_once_has_no_twins(family: str) -> None:
    env = popgym.make_vector(2, f"popgym-{family}Easy-v0")
    before = env.reset([1, 2])
    assert twins_of(env) is None and all((env.seen()[name] == part).all() for name, part in before.items())
