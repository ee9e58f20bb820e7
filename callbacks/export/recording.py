"""What a policy saw and did on a real task, step by step: what its exported programs are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np

from callbacks.evaluation.plan import MakeEnv, Variants
from elmur.policy import StreamingPolicy
from envs.rollout import Observer, Wave, rollout


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


class _Notes(Observer):
    """Every step of a policy. All its episodes draw by the same seed, as those of an export do."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []

    def on_reset(self, wave: Wave) -> None:
        wave.policy.seed_episodes([0])  # type: ignore[attr-defined]
        self._wanted = np.float32(wave.policy.target_return)  # type: ignore[attr-defined]

    def on_step(self, wave: Wave) -> None:
        prediction = wave.policy.prediction[0].float().numpy().copy()  # type: ignore[attr-defined]
        self.steps.append({
            **{f"observation/{name}": np.asarray(part)[0].copy() for name, part in wave.observation.items()},
            "is_first": wave.count == 1, "action": wave.answer[0], "return_to_go": self._wanted,
            "prediction": prediction,
        })  # fmt: skip
        self._wanted = self._wanted - np.float32(wave.step.reward[0])


def record(
    policy: StreamingPolicy, make_env: MakeEnv, variants: Variants, steps: int, seeds: Sequence[int]
) -> Recording:
    """So many steps of a policy, as many in each variant, in episodes of these seeds."""
    notes, each = _Notes(), -(-steps // len(variants))
    for number, variant in enumerate(variants.values(), start=1):
        env, turns = make_env(num_envs=1, **variant), cycle(seeds)
        try:
            while left := max(0, min(number * each, steps) - len(notes.steps)):
                rollout(env, policy, [next(turns)], max_steps=left, observers=[notes])
        finally:
            env.close()
    whole = {name: np.stack([step[name] for step in notes.steps]) for name in notes.steps[0]}
    observation = {part: whole.pop(f"observation/{part}") for part in policy.model.spec.observation}
    return Recording(observation, **whole)
