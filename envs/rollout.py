"""The only acting loop: a policy in a vector environment, one episode for each seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from elmur.spec import Discrete, TaskSpec
from envs.vector import Observation, Step, VectorEnv, as_array

# Keeps the streams of a policy and of an environment apart when both are given the same seed.
_RANDOM_POLICY_STREAM = 0x9A11


class Policy(Protocol):
    """Anything that acts: a model, a scripted expert, random play."""

    def start(self, num_envs: int, seed: int = 0) -> None:
        """Forget everything; `seed` is for whatever the policy draws."""

    def act(self, observation: Observation, is_first: np.ndarray) -> np.ndarray:
        """Actions int [N] or float [N, A]. `observation`: part -> [N, ...]; `is_first` [N]: an episode begins here."""

    def observe(self, action: np.ndarray, reward: np.ndarray) -> None:
        """Take note of what was really executed and received (noise may have replaced the answer of `act`)."""


class Keep(Protocol):
    """Where the state inside a wave is kept, so that it can go on after the process was lost."""

    def load(self) -> dict[str, Any] | None:
        """The state to go on from, None to begin."""

    def due(self) -> bool:
        """Whether to save; asked after every step."""

    def save(self, state: dict[str, Any]) -> None:
        """Keep a state, a nest of arrays and plain values."""


@dataclass
class Trajectory:
    """One recorded episode of T steps: `observation[part][t]` is what the policy saw when `action[t]` was chosen.

    observation: part -> [T, ...]; action (as executed): [T] or [T, A]; reward: float32 [T];
    loss_mask: bool [T], False where the environment says so or where noise replaced the policy's answer.
    """

    observation: Observation
    action: np.ndarray
    reward: np.ndarray
    terminated: bool
    truncated: bool
    loss_mask: np.ndarray


@dataclass
class Episode:
    """How one episode went; `steps` only when it was recorded. `error`: why it could not be played to its end.

    success_at_end: the goal was met at the last step too, where the environment tells that apart (see Step).
    """

    seed: int
    length: int
    episode_return: float
    success: bool
    steps: Trajectory | None = None
    error: str | None = None
    success_at_end: bool = False


def rollout(
    env: VectorEnv,
    policy: Policy,
    seeds: Sequence[int],
    *,
    policy_seed: int = 0,
    max_steps: int | None = None,
    record: bool = False,
    noise: float = 0.0,
    rng: np.random.Generator | None = None,
    on_step: Callable[[int, int], None] | None = None,
    keep: Keep | None = None,
) -> list[Episode]:
    """One episode for each seed, in the order of the seeds.

    Episodes go in waves of `env.num_envs`: all start together, and those that are over idle until the wave is. A policy
    still sees an idle row's last observation; its answer there is ignored. `is_first` is true for every row at
    the start of a wave, also for rows that stay empty in the last one, so that all rows count the same steps.

    max_steps: episodes longer than this are cut, count as truncated and not as a success.
    noise: probability that an executed action is replaced by a uniform one (per step and episode); needs `rng`.
    on_step: called after every step with the number of steps of this wave and of episodes still running.
    keep: goes on from its state and saves there, for one wave, env and policy that have `snapshot` and `restore`.
    """
    if max_steps is not None and max_steps < 1:
        raise ValueError(f"max_steps: expected 1 or more, or None; found {max_steps}")
    if not 0.0 <= noise <= 1.0:
        raise ValueError(f"noise: expected a probability from 0 to 1; found {noise}")
    if noise > 0.0 and rng is None:
        raise ValueError(f"noise={noise} needs a generator: give rng=numpy.random.default_rng(seed)")
    if keep is not None and (record or noise or len(seeds) > env.num_envs):
        raise ValueError("keep: expected one wave, without noise and not recorded")
    policy.start(env.num_envs, policy_seed)
    loop = _Loop(env, policy, max_steps, record, noise, rng, on_step, keep)
    episodes: list[Episode] = []
    for start in range(0, len(seeds), env.num_envs):
        episodes += loop.wave([int(seed) for seed in seeds[start : start + env.num_envs]])
    return episodes


@dataclass
class _Loop:
    """The arguments of one `rollout` and its wave."""

    env: VectorEnv
    policy: Policy
    max_steps: int | None
    record: bool
    noise: float
    rng: np.random.Generator | None
    on_step: Callable[[int, int], None] | None
    keep: Keep | None = None

    def wave(self, seeds: list[int]) -> list[Episode]:
        """The episodes of up to `num_envs` seeds, played side by side."""
        env, policy = self.env, self.policy
        observation = env.reset([*seeds, *[None] * (env.num_envs - len(seeds))])
        active = np.arange(env.num_envs) < len(seeds)
        result = _Result.of(env.num_envs)
        recorder = _Recorder() if self.record else None
        later = _constant(np.zeros(env.num_envs, np.bool_))
        is_first = _constant(np.ones(env.num_envs, np.bool_))
        running, count = len(seeds), 0
        saved = None if self.keep is None else self.keep.load()
        if saved is not None:
            observation, is_first, count = saved["observation"], later, saved["count"]
            active, result, running = saved["active"], _Result(**saved["result"]), int(saved["active"].sum())
            env.restore(saved["env"])  # type: ignore[attr-defined]
            policy.restore(saved["policy"])  # type: ignore[attr-defined]
        while running:
            answer = policy.act(observation, is_first)
            action = self._disturbed(answer) if self.noise else answer
            step = env.step(action, active)
            policy.observe(action, step.reward)
            if recorder is not None:
                recorder.add(observation, answer, action, step)
            result.returns += step.reward
            observation, is_first, count = step.observation, later, count + 1
            ended = (step.terminated | step.truncated) & active
            if ended.any():
                result.end(ended, count, step)
                active = active & ~ended
                running = int(active.sum())
            if running and count == self.max_steps:
                result.cut(active, count)
                running = 0
            if self.on_step is not None:
                self.on_step(count, running)
            if self.keep is not None and running and self.keep.due():
                self._save(self.keep, {"observation": observation, "count": count, "active": active}, result)
        return [result.episode(i, seed, recorder) for i, seed in enumerate(seeds)]

    def _save(self, keep: Keep, state: dict[str, Any], result: _Result) -> None:
        """Save the wave, if the policy is where its state can be given."""
        policy = self.policy.snapshot()  # type: ignore[attr-defined]
        if policy is not None:
            env = self.env.snapshot()  # type: ignore[attr-defined]
            keep.save({**state, "result": dict(vars(result)), "policy": policy, "env": env})

    def _disturbed(self, answer: np.ndarray) -> np.ndarray:
        """The answer with each row replaced by a uniform action with probability `noise`."""
        assert self.rng is not None
        answer = np.asarray(answer)
        # Both draws are made for every row, so the stream does not depend on who is still running.
        replaced = self.rng.random(self.env.num_envs) < self.noise
        uniform = uniform_action(self.env.spec, self.env.num_envs, self.rng)
        if answer.shape != uniform.shape:
            raise ValueError(f"action: expected {list(uniform.shape)}; the policy gave {list(answer.shape)}")
        return np.where(replaced.reshape(-1, *[1] * (answer.ndim - 1)), uniform, answer)


@dataclass
class _Result:
    """Outcome of each row of a wave, filled in as episodes end."""

    returns: np.ndarray
    lengths: np.ndarray
    success: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    at_end: np.ndarray

    @classmethod
    def of(cls, num_envs: int) -> _Result:
        flags = (np.zeros(num_envs, np.bool_) for _ in range(4))
        return cls(np.zeros(num_envs), np.zeros(num_envs, np.int64), *flags)

    def end(self, ended: np.ndarray, count: int, step: Step) -> None:
        """Note the episodes that ended by themselves."""
        self.lengths[ended] = count
        self.success[ended] = step.success[ended]
        self.at_end[ended] = (step.success if step.success_at_end is None else step.success_at_end)[ended]
        self.terminated[ended] = step.terminated[ended]
        self.truncated[ended] = step.truncated[ended]

    def cut(self, running: np.ndarray, count: int) -> None:
        """Note the episodes that `max_steps` cut off."""
        self.lengths[running] = count
        self.truncated[running] = True

    def episode(self, i: int, seed: int, recorder: _Recorder | None) -> Episode:
        """Row i as an Episode."""
        length = int(self.lengths[i])
        steps = None
        if recorder is not None:
            steps = recorder.trajectory(i, length, bool(self.terminated[i]), bool(self.truncated[i]))
        success, at_end = bool(self.success[i]), bool(self.at_end[i])
        return Episode(seed, length, float(self.returns[i]), success, steps, success_at_end=at_end)


@dataclass
class _Recorder:
    """Steps of a wave in arrays `[capacity, N, ...]` that double when full; what a GPU shows stays there."""

    count: int = 0
    arrays: dict[str, Any] = field(default_factory=dict)

    def add(self, observation: Observation, answer: np.ndarray, action: np.ndarray, step: Step) -> None:
        """Append one step of all rows."""
        own = step.loss_mask
        if action is not answer:  # imitating noise would teach it, so only the policy's own choices count
            same = action == answer
            own = own & (same if same.ndim == 1 else same.all(axis=-1))
        row = {f"observation/{part}": value for part, value in observation.items()}
        row |= {"action": np.asarray(action), "reward": step.reward, "loss_mask": own}
        if not self.arrays:
            self.arrays = {name: _room(64, value) for name, value in row.items()}
        elif self.count == len(self.arrays["action"]):
            larger = {name: _room(2 * self.count, old[0]) for name, old in self.arrays.items()}
            for name, old in self.arrays.items():
                larger[name][: self.count] = old
            self.arrays = larger
        for name, value in row.items():
            self.arrays[name][self.count] = value
        self.count += 1

    def trajectory(self, i: int, length: int, terminated: bool, truncated: bool) -> Trajectory:
        """The first `length` steps of row i, in arrays of their own."""
        taken = {name: as_array(array[:length, i]).copy() for name, array in self.arrays.items()}
        prefix = "observation/"
        observation = {name.removeprefix(prefix): taken[name] for name in taken if name.startswith(prefix)}
        return Trajectory(observation, taken["action"], taken["reward"], terminated, truncated, taken["loss_mask"])


def _room(steps: int, like: Any) -> Any:
    """Room for so many arrays or tensors like this one, where it lies."""
    if isinstance(like, torch.Tensor):
        return like.new_empty((steps, *like.shape))
    return np.empty((steps, *like.shape), like.dtype)


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


def can_keep(env: VectorEnv, policy: Policy) -> bool:
    """Whether both can give their state, as `keep` asks for it."""
    return all(callable(getattr(thing, "snapshot", None)) for thing in (env, policy))


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
