"""What a policy saw and did on a real task, step by step: what its exported programs are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from elmur.policy import StreamingPolicy
from envs.rollout import rollout
from envs.vector import VectorEnv


@dataclass
class Recording:
    """T steps of one environment, one episode after another; the first axis of every array is the step.

    observation: part -> [T, ...]. is_first: [T]. action: int64 [T] or float32 [T, A], as the policy answered and as it
    was executed. return_to_go: float32 [T], what was still asked of it. prediction: float32 [T, A].
    """

    observation: dict[str, np.ndarray]
    is_first: np.ndarray
    action: np.ndarray
    return_to_go: np.ndarray
    prediction: np.ndarray

    def borders(self, context_length: int) -> int:
        """How often an episode went on behind the border of a segment."""
        begins = np.flatnonzero(self.is_first)
        within = np.arange(len(self.is_first)) - np.repeat(begins, np.diff([*begins, len(self.is_first)]))
        return int(((within > 0) & (within % context_length == 0)).sum())

    def lanes(self, count: int) -> Recording:
        """The same steps in so many lanes, `[T, N, ...]`: each begins with another episode, the first ones follow."""
        begins, steps = np.flatnonzero(self.is_first), len(self.is_first)
        order = np.stack([np.roll(np.arange(steps), -begins[lane % len(begins)]) for lane in range(count)], axis=1)
        return Recording(
            {name: part[order] for name, part in self.observation.items()},
            *(part[order] for part in (self.is_first, self.action, self.return_to_go, self.prediction)),
        )


@dataclass
class _Noted:
    """A policy that writes down every step. All its episodes draw by the same seed, as those of an export do."""

    policy: StreamingPolicy
    steps: list[dict[str, Any]] = field(default_factory=list)

    def start(self, num_envs: int, seed: int = 0) -> None:
        self.policy.start(num_envs, 0)

    def act(self, observation: Mapping[str, Any], is_first: np.ndarray) -> np.ndarray:
        if is_first.any():
            self.policy.seed_episodes([0])
            self._wanted = np.full(1, self.policy.target_return, np.float32)
        action = self.policy.act(observation, is_first)
        self.steps.append(
            {
                "observation": {name: np.asarray(part)[0].copy() for name, part in observation.items()},
                "is_first": bool(is_first[0]),
                "action": action[0],
                "return_to_go": self._wanted[0],
                "prediction": self.policy.prediction[0].float().numpy().copy(),
            }
        )
        return action

    def observe(self, action: np.ndarray, reward: np.ndarray) -> None:
        self.policy.observe(action, reward)
        self._wanted = self._wanted - np.asarray(reward, np.float32)


def record(
    policy: StreamingPolicy,
    make_env: Callable[..., VectorEnv],
    variants: Mapping[str, Mapping[str, Any]],
    steps: int,
    seeds: Sequence[int],
) -> Recording:
    """So many steps of a policy, as many in each variant, in episodes of these seeds."""
    noted, each = _Noted(policy), -(-steps // len(variants))
    for number, variant in enumerate(variants.values(), start=1):
        env = make_env(num_envs=1, **variant)
        try:
            played = 0
            while len(noted.steps) < min(number * each, steps):
                left = min(number * each, steps) - len(noted.steps)
                rollout(env, noted, [seeds[played % len(seeds)]], max_steps=left)
                played += 1
        finally:
            env.close()
    parts = noted.steps[0]["observation"]

    def whole(name: str) -> np.ndarray:
        return np.stack([step[name] for step in noted.steps])

    return Recording(
        {part: np.stack([step["observation"][part] for step in noted.steps]) for part in parts},
        *(whole(name) for name in ("is_first", "action", "return_to_go", "prediction")),
    )
