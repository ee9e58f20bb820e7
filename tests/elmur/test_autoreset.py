"""Gymnasium's own vector environments, which reset themselves: no step of an episode reaches the memory of the next."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from elmur.autoreset import EpisodeStarts
from elmur.model import ELMUR, MemoryDesign
from elmur.policy import StreamingPolicy
from elmur.spec import Discrete, TaskSpec, Vector
from elmur.testing import made

SPEC = TaskSpec("numbers", {"numbers": Vector(3)}, Discrete((4,)))


class Numbers(gymnasium.Env):
    """Random numbers, in episodes of 3 to 9 steps that end or are cut in turn; `seen` and `done` keep what happened."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,))
    action_space = gymnasium.spaces.Discrete(4)

    def __init__(self, lane: int) -> None:
        self.rng = np.random.default_rng(lane)
        self.seen: list[list[np.ndarray]] = []
        self.done: list[list[int]] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        self.left = int(self.rng.integers(3, 10))
        self.seen.append([self.draw()])
        self.done.append([])
        return self.seen[-1][0], {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.left -= 1
        self.done[-1].append(int(action))
        self.seen[-1].append(self.draw())
        over = self.left == 0
        return self.seen[-1][-1], 1.0, over and len(self.seen) % 2 == 0, over and len(self.seen) % 2 == 1, {}

    def draw(self) -> np.ndarray:
        return self.rng.normal(size=3).astype(np.float32)


def itself(world: Numbers) -> Numbers:
    return world


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_every_episode_goes_as_it_does_alone(mode: AutoresetMode) -> None:
    model = made(partial(ELMUR, d_model=16, memory=MemoryDesign(memory_init_std=0.0)), SPEC).eval()
    policy, worlds = StreamingPolicy(model, context_length=2), [Numbers(lane) for lane in range(3)]
    env = SyncVectorEnv([partial(itself, world) for world in worlds], autoreset_mode=mode, copy=True)
    starts = EpisodeStarts(env.metadata["autoreset_mode"])
    policy.start(3)
    observation, _ = env.reset()
    is_first = starts.reset(3)
    for _ in range(40):
        observation, _, terminated, truncated, _ = env.step(policy.act(observation, is_first))
        is_first = starts.step(terminated, truncated)
    episodes = [pair for world in worlds for pair in zip(world.seen, world.done, strict=True)]
    assert len(episodes) > 15 and len({len(done) for _, done in episodes}) > 4
    for seen, done in episodes:
        alone = StreamingPolicy(model, context_length=2)
        # The observation that an episode ends with is acted on by nobody.
        assert [int(alone.act(numbers)) for numbers in seen[: len(done)]] == done


def test_environments_that_are_reset_by_hand_need_no_help() -> None:
    with pytest.raises(ValueError, match="expected NextStep or SameStep, found 'Disabled'; where you reset"):
        EpisodeStarts(AutoresetMode.DISABLED)
