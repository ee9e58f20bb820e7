"""The only acting loop: a policy in a vector environment, one episode for each seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from elmur.spec import Discrete, TaskSpec
from envs.vector import Observation, TimeStep, VectorEnv, widened

# Keeps the streams of a policy and of an environment apart when both are given the same seed.
_RANDOM_POLICY_STREAM = 0x9A11
KEPT = ("count", "running", "active", "returns", "lengths", "terminated", "truncated", "metrics")  # of a wave


class Policy(Protocol):
    """Anything that acts: a model, a scripted expert, random play."""

    def start(self, num_envs: int, seed: int = 0) -> None:
        """Forget everything; `seed` is for whatever the policy draws."""

    def act(self, observation: Observation, is_first: np.ndarray) -> np.ndarray:
        """Actions int [N] or float [N, A]. `observation`: part -> [N, ...]; `is_first` [N]: an episode begins here."""

    def observe(self, action: np.ndarray, reward: np.ndarray) -> None:
        """Take note of what was really executed and received (noise may have replaced the answer of `act`)."""


@runtime_checkable
class SeededPolicy(Policy, Protocol):
    """A policy that draws by the seed of each episode, so that it does not matter which of them are played together."""

    def seed_episodes(self, seeds: Sequence[int]) -> None:
        """Let the episodes that begin next draw by these seeds, one for each environment."""


@runtime_checkable
class PreferringPolicy(Policy, Protocol):
    """A policy that chooses one of A actions and can say how good it held each of them."""

    def preferences(self) -> np.ndarray:
        """float32 [N, A] on what `act` was given last: what each action is worth to it, as shares of the row's sum.

        The largest ones are equal and the answer of `act` is one of them; 0 is what it would not do. Like the answer,
        it is a function of the history of observations, whoever acted.
        """


@dataclass
class Trajectory:
    """One recorded episode of T steps: `observation[part][t]` is what the policy saw when `action[t]` was chosen.

    observation: part -> [T, ...]; action (as executed): [T] or [T, A]; reward: float32 [T];
    loss_mask: bool [T], False where the environment says so or where noise replaced the policy's answer.
    label: the policy's answer at each step, as `action`, where another policy acted for it (envs/labelling.py).
    preference: float32 [T, A], what the policy held of each action, where that was recorded.
    """

    observation: Observation
    action: np.ndarray
    reward: np.ndarray
    terminated: bool
    truncated: bool
    loss_mask: np.ndarray
    label: np.ndarray | None = None
    preference: np.ndarray | None = None


@dataclass
class Episode:
    """How one episode went: its return, and what the environment measured when it ended (metric -> value).

    steps: only where a Recorder looked on. error: why it could not be played to its end.
    """

    seed: int
    length: int
    episode_return: float
    metrics: dict[str, float]
    steps: Trajectory | None = None
    error: str | None = None

    @property
    def success(self) -> bool:
        """Whether the goal was met."""
        return bool(self.metrics.get("success", False))


class Observer:
    """Looks on while a policy acts: recording, disturbing, filming, keeping and telling are observers of one loop.

    Every method may be left out. The wave is theirs to read; only `on_action` decides on anything.
    """

    def on_reset(self, wave: Wave) -> None:
        """The first observations of a wave are there."""

    def on_action(self, wave: Wave, action: np.ndarray) -> np.ndarray:
        """The action to execute in place of this one; `wave.answer` is the policy's own."""
        return action

    def on_step(self, wave: Wave) -> None:
        """A step was made: `wave.observation` is what was acted on, `wave.step` what came of it."""

    def on_end(self, wave: Wave, episodes: list[Episode]) -> None:
        """All episodes of the wave are over."""


def rollout(
    env: VectorEnv,
    policy: Policy,
    seeds: Sequence[int],
    *,
    policy_seed: int = 0,
    max_steps: int | None = None,
    observers: Sequence[Observer] = (),
) -> list[Episode]:
    """One episode for each seed, in the order of the seeds.

    Episodes go in waves of `env.num_envs`: all start together, and those that are over idle until the wave is. A policy
    still sees an idle row's last observation; its answer there is ignored. `is_first` is true for every row at
    the start of a wave, also for rows that stay empty in the last one, so that all rows count the same steps.

    max_steps: episodes longer than this are cut, count as truncated and not as a success.
    observers: look on, in this order (see envs/observers.py).
    """
    if max_steps is not None and max_steps < 1:
        raise ValueError(f"max_steps: expected 1 or more, or None; found {max_steps}")
    policy.start(env.num_envs, policy_seed)
    episodes: list[Episode] = []
    for start in range(0, len(seeds), env.num_envs):
        wave = Wave(env, policy, [int(seed) for seed in seeds[start : start + env.num_envs]], observers)
        episodes += wave.play(max_steps)
    return episodes


class Wave:
    """Up to `num_envs` episodes that are played side by side, as observers see them.

    count: steps so far; running: episodes that still play; active: bool [N], which rows those are.
    observation, answer, action, step: of the last step.
    returns, lengths, terminated, truncated, metrics: of each row, filled in as episodes end.
    """

    def __init__(self, env: VectorEnv, policy: Policy, seeds: list[int], observers: Sequence[Observer] = ()) -> None:
        self.env, self.policy, self.seeds, self.observers = env, policy, seeds, tuple(observers)
        number = env.num_envs
        self.observation = env.reset([*seeds, *[None] * (number - len(seeds))])
        if isinstance(policy, SeededPolicy):
            policy.seed_episodes([*seeds, *[0] * (number - len(seeds))])
        self.count, self.running = 0, len(seeds)
        self.active = np.arange(number) < len(seeds)
        self.returns, self.lengths = np.zeros(number), np.zeros(number, np.int64)
        self.terminated, self.truncated = np.zeros((2, number), np.bool_)
        self.metrics: dict[str, np.ndarray] = {}
        self.answer: np.ndarray
        self.action: np.ndarray
        self.step: TimeStep

    def play(self, max_steps: int | None) -> list[Episode]:
        """The episodes, played to their ends."""
        first, later = (_constant(np.full(self.env.num_envs, value)) for value in (True, False))
        for observer in self.observers:
            observer.on_reset(self)
        while self.running:
            self.answer = self.action = self.policy.act(self.observation, later if self.count else first)
            for observer in self.observers:
                self.action = observer.on_action(self, self.action)
            self.step = step = self.env.step(self.action, self.active)
            self.policy.observe(self.action, step.reward)
            self.returns += step.reward
            self.count += 1
            ended = (step.terminated | step.truncated) & self.active
            if ended.any():
                self._end(ended)
            if self.running and self.count == max_steps:
                self.lengths[self.active], self.truncated[self.active] = self.count, True
                self.running = 0
            for observer in self.observers:
                observer.on_step(self)
            self.observation = step.observation
        episodes = [self._episode(row, seed) for row, seed in enumerate(self.seeds)]
        for observer in self.observers:
            observer.on_end(self, episodes)
        return episodes

    def state(self) -> dict[str, Any]:
        """What the wave itself goes on from, after a step: a nest of arrays and plain values."""
        return {**{name: vars(self)[name] for name in KEPT}, "observation": self.step.observation}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from such a state."""
        vars(self).update({name: state[name] for name in (*KEPT, "observation")})

    def _end(self, ended: np.ndarray) -> None:
        """Note the episodes that ended by themselves."""
        self.lengths[ended] = self.count
        self.terminated[ended], self.truncated[ended] = self.step.terminated[ended], self.step.truncated[ended]
        for name, values in self.step.metrics.items():
            self.metrics[name] = widened(self.metrics.get(name, np.zeros_like(values)), values)
            self.metrics[name][ended] = values[ended]
        self.active = self.active & ~ended
        self.running = int(self.active.sum())

    def _episode(self, row: int, seed: int) -> Episode:
        metrics = {name: values[row].item() for name, values in self.metrics.items()}
        return Episode(seed, int(self.lengths[row]), float(self.returns[row]), metrics)


class RandomPolicy:
    """Uniform random actions from the seed given to `start`."""

    def __init__(self, spec: TaskSpec) -> None:
        self._spec = spec
        self.start(1)

    def start(self, num_envs: int, seed: int = 0) -> None:
        """Begin the stream of this seed."""
        self._num_envs = num_envs
        self._rng = np.random.default_rng([_RANDOM_POLICY_STREAM, seed])

    def act(self, observation: Observation, is_first: np.ndarray) -> np.ndarray:
        """Uniform actions, int64 [N] or float32 [N, A]."""
        return uniform_action(self._spec, self._num_envs, self._rng)

    def observe(self, action: np.ndarray, reward: np.ndarray) -> None:
        """Nothing to learn from."""


def uniform_action(spec: TaskSpec, num_envs: int, rng: np.random.Generator) -> np.ndarray:
    """Uniform actions int64 [N] or float32 [N, A] within the bounds; ValueError where the task states none."""
    if isinstance(spec.action, Discrete):
        return rng.integers(spec.action.sizes[0], size=num_envs)
    if spec.action.low is None or spec.action.high is None:
        raise ValueError(f"task {spec.name}: a uniform action needs bounds, and its action space has none")
    low, high = np.array([spec.action.low, spec.action.high], np.float32)
    return low + (high - low) * rng.random((num_envs, spec.action.size), np.float32)


def _constant(array: np.ndarray) -> np.ndarray:
    """The array, made read-only because it is handed out again and again."""
    array.flags.writeable = False
    return array
