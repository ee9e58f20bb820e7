"""An expert that says what it would do while another policy acts: data set aggregation (Ross et al. 2011)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.rollout import Observer, Policy, RandomPolicy, SeededPolicy, Wave, rollout
from envs.vector import VectorEnv, as_array

_SHARE_STREAM = 0xA66  # apart from all else that is drawn of the same seed
TOLERANCE = 1e-5  # of continuous answers, relative and absolute


@dataclass(frozen=True)
class Learner:
    """Who acts while the expert says what it would do.

    expert_share: probability, for each step and episode, that the expert acts after all. about: what this is, as plain
    JSON values, the share among them.
    """

    policy: Policy
    expert_share: float
    about: Mapping[str, Any]


class Labelling(Observer):
    """Lets `learner` act in the place of the policy, whose answers, `wave.answer`, become labels.

    expert_share: probability, for each step and episode, that the policy's own answer is executed after all. The
    learner begins every episode with new memory, and is told what was executed; `seed` is for what is drawn here and by
    the learner.
    """

    def __init__(self, learner: Policy, expert_share: float = 0.0, seed: int = 0) -> None:
        self.learner, self.expert_share, self.seed = learner, expert_share, seed
        self._rng = np.random.default_rng([_SHARE_STREAM, seed])

    def on_reset(self, wave: Wave) -> None:
        number = wave.env.num_envs
        self.learner.start(number, self.seed)
        if isinstance(self.learner, SeededPolicy):
            self.learner.seed_episodes([*wave.seeds, *[0] * (number - len(wave.seeds))])

    def on_action(self, wave: Wave, action: np.ndarray) -> np.ndarray:
        own = self.learner.act(wave.observation, np.full(wave.env.num_envs, wave.count == 0))
        # Drawn for every row, so the stream does not depend on who is still running.
        by_expert = self._rng.random(wave.env.num_envs) < self.expert_share
        return np.where(by_expert.reshape(-1, *[1] * (own.ndim - 1)), np.asarray(action), own)

    def on_step(self, wave: Wave) -> None:
        self.learner.observe(wave.action, as_array(wave.step.reward))


class _History(Observer):
    """Keeps what the policy was shown and told in a wave, and what it answered."""

    def __init__(self) -> None:
        self.steps: list[tuple[dict[str, Any], np.ndarray, np.ndarray, Any]] = []

    def on_step(self, wave: Wave) -> None:
        seen = {name: as_array(part).copy() for name, part in wave.observation.items()}
        self.steps.append((seen, wave.answer.copy(), wave.action.copy(), as_array(wave.step.reward).copy()))


def check_labels(make_env: Callable[..., VectorEnv], expert: Policy, seeds: Sequence[int], max_steps: int) -> None:
    """Raises ValueError for an expert whose answers are no function of what it was shown, and so no labels.

    Some episodes of random play are labelled; told the same again, without the environment, it must answer the same.
    """
    with closing(make_env(num_envs=len(seeds))) as env:
        learner = RandomPolicy(env.spec)
        history = _History()
        rollout(env, expert, seeds, max_steps=max_steps, observers=[Labelling(learner), history])
    expert.start(len(seeds), 0)
    if isinstance(expert, SeededPolicy):
        expert.seed_episodes(seeds)
    for number, (seen, answer, action, reward) in enumerate(history.steps):
        again = expert.act(seen, np.full(len(seeds), number == 0))
        expert.observe(action, reward)
        if not np.allclose(again, answer, rtol=TOLERANCE, atol=TOLERANCE):
            raise ValueError(
                f"env.expert: shown the same history twice, {type(expert).__name__} answers step {number} differently, "
                "so what it says where another policy acts teaches nothing; rounds need an expert that follows from "
                "observations, actions and rewards alone: leave rounds out, or name another, env.expert._target_="
            )
