"""What environments tell of their hidden state, against what their observations and experts show of it."""

from __future__ import annotations

import numpy as np
import pytest

from envs import popgym, tmaze
from envs.experts.popgym import expert_for
from envs.hidden import Demand, demand_of, hidden_of
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
def test_every_family_tells_or_says_that_it_does_not(task: str) -> None:
    env = popgym.make_vector(2, task)
    env.reset([1, 2])
    found, demand = hidden_of(env), demand_of(popgym.make_vector, id=task)
    assert (not found) == ("Labyrinth" in task) == (demand is None)
    assert all(value.shape[0] == 2 and value.dtype in (np.int64, np.float32) for value in found.values())
