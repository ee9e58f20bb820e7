"""Labelling: another policy acts, the expert says what it would do at each state that is reached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from envs.experts.tmaze import TMazeExpert
from envs.labelling import Labelling, check_labels
from envs.observers import Recorder
from envs.rollout import Trajectory, rollout
from envs.tmaze import TMaze, TMazeRules, make_vector
from envs.vector import Observation

LONGEST: dict[str, Any] = {"time_limit": 9, "random_corridor": True}
SEEDS = [4, 9, 13, 2, 700]


class Wanderer:
    """A learner with a memory: its steps so far, its last executed action and the seed of its episode decide."""

    def start(self, num_envs: int, seed: int = 0) -> None:
        self.count, self.last, self.own = (np.zeros(num_envs, np.int64) for _ in range(3))

    def seed_episodes(self, seeds: Sequence[int]) -> None:
        self.own = np.array(seeds) % 5

    def act(self, observation: Observation, is_first: np.ndarray) -> np.ndarray:
        self.count[is_first] = self.last[is_first] = 0
        return np.where((self.count + self.own) % 3 == 0, (self.last + 1) % 4, 0)

    def observe(self, action: np.ndarray, reward: np.ndarray) -> None:
        self.count += 1
        self.last = np.asarray(action)


def by_hand(seed: int) -> tuple[list[list[float]], list[int], list[int]]:
    """What is seen, done and labelled in one episode: one environment, and both policies as a few lines of rules."""
    env = TMaze(**LONGEST)
    seen, done, labels = list[list[float]](), list[int](), list[int]()
    state = env.reset(seed=seed)[0]["state"]
    hint, last, over = state[1], 0, False
    while not over:
        seen.append(state.tolist())
        at_junction = state[2] == 1
        labels.append((1 if hint > 0 else 3) if at_junction else 0)
        last = (last + 1) % 4 if (len(done) + seed % 5) % 3 == 0 else 0
        done.append(last)
        shown, _, terminated, truncated, _ = env.step(last)
        state, over = shown["state"], terminated or truncated
    return seen, done, labels


@pytest.mark.parametrize("num_envs", [1, 2, 5, 8])
def test_the_learner_acts_and_the_expert_labels_what_the_learner_reached(num_envs: int) -> None:
    found = _recorded(num_envs, Labelling(Wanderer()))
    for seed, steps in zip(SEEDS, found, strict=True):
        seen, done, labels = by_hand(seed)
        assert steps.observation["state"].tolist() == seen
        assert steps.action.tolist() == done
        assert steps.label is not None and steps.label.tolist() == labels
        assert steps.loss_mask.all(), "each label counts, whoever acted"
    longest = {seed: TMazeRules(**LONGEST).draw(seed)[1] + 1 for seed in SEEDS}  # steps of the expert
    assert any(len(steps.action) > longest[seed] for seed, steps in zip(SEEDS, found, strict=True))


def test_the_share_of_the_expert() -> None:
    """With all of it these are the expert's episodes, and in between its part of the steps that differ."""
    plain = _recorded(3, None)
    for steps, expected in zip(_recorded(3, Labelling(Wanderer(), 1.0)), plain, strict=True):
        assert steps.observation["state"].tolist() == expected.observation["state"].tolist()
        assert steps.action.tolist() == expected.action.tolist() == np.asarray(steps.label).tolist()
    others, by_expert = 0, 0
    for steps in _recorded(8, Labelling(Wanderer(), 0.7, seed=3), seeds=range(400)):
        own = np.asarray(steps.label) == steps.action
        others, by_expert = others + len(own), by_expert + own.sum()
    alone = np.concatenate([np.asarray(s.label) == s.action for s in _recorded(8, Labelling(Wanderer()), range(400))])
    # A step is the expert's by its share, or else by chance as often as where the learner is alone, roughly.
    assert by_expert / others == pytest.approx(0.7 + 0.3 * alone.mean(), abs=0.04)
    again = _recorded(3, Labelling(Wanderer(), 0.5, seed=4))
    for one, other in zip(again, _recorded(3, Labelling(Wanderer(), 0.5, seed=4)), strict=True):
        assert one.action.tolist() == other.action.tolist(), "drawn by the seed alone"


def _recorded(num_envs: int, labelling: Labelling | None, seeds: Sequence[int] = SEEDS) -> list[Trajectory]:
    watching = [Recorder(labelled=labelling is not None), *([labelling] if labelling else [])]
    episodes = rollout(make_vector(num_envs, **LONGEST), TMazeExpert(), seeds, observers=watching)
    return [episode.steps for episode in episodes if episode.steps is not None]


class Peeking(TMazeExpert):
    """Looks at its world instead of what it is shown."""

    world: Any = None

    def act(self, observation: Observation, is_first: np.ndarray) -> np.ndarray:
        return np.asarray(self.world._x % 2)


class Fickle(TMazeExpert):
    """Draws without a seed of its own."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        super().__init__()

    def act(self, observation: Observation, is_first: np.ndarray) -> np.ndarray:
        return self.rng.integers(4, size=len(is_first))


def test_an_expert_that_does_not_follow_from_the_history_is_refused() -> None:
    def made(num_envs: int) -> Any:
        Peeking.world = make_vector(num_envs, **LONGEST)
        return Peeking.world

    check_labels(made, TMazeExpert(), SEEDS, 30)
    for expert in (Peeking(), Fickle()):
        with pytest.raises(ValueError, match=rf"shown the same history twice, {type(expert).__name__} answers step \d"):
            check_labels(made, expert, SEEDS, 30)
