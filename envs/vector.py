"""Many environments side by side, stepped under a mask and never reset behind the policy's back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import gymnasium
import numpy as np
import torch

from elmur.spaces import Spaces
from elmur.spec import Discrete, Field, Image, TaskSpec

Observation = dict[str, np.ndarray]
SUCCESS = "success"  # the metric that every environment has which says nothing else


class TimeStep(NamedTuple):
    """What one step of N environments gave. The caller may keep the arrays: the environment writes to them no more.

    observation: part -> [N, ...]; reward: float32 [N]; terminated, truncated: bool [N];
    loss_mask: bool [N], whether the action just taken counts in an imitation loss;
    metrics: name -> [N], what the environment measures, bool or float; meaningful only where an episode ended at this
    step. The names are those of its `metrics`.
    """

    observation: Observation
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    loss_mask: np.ndarray
    metrics: Mapping[str, np.ndarray]

    @property
    def success(self) -> np.ndarray:
        """Whether the goal was met: bool [N]."""
        return self.metrics.get(SUCCESS, np.zeros(len(self.reward), np.bool_))


class VectorEnv(Protocol):
    """N environments of one task. An episode that has ended stays ended until its row is reset by a seed."""

    num_envs: int

    @property
    def metrics(self) -> Sequence[str]:
        """The names of what is measured beside the return: here, and nowhere else, does an environment state them."""

    @property
    def spec(self) -> TaskSpec:
        """What the task looks like to a policy."""

    def reset(self, seeds: Sequence[int | None]) -> Observation:
        """First observations where a seed is given; a row whose seed is None keeps its episode and observation."""

    def step(self, action: np.ndarray, active: np.ndarray) -> TimeStep:
        """One step where `active`; other rows repeat their last observation with reward 0, their action is ignored."""

    def close(self) -> None:
        """Free what the environments hold."""


@runtime_checkable
class Rendered(Protocol):
    """What environments have in addition that can be looked at."""

    def render(self) -> np.ndarray:
        """What a person sees of each of them now: uint8 [N, h, w, 3]."""


@runtime_checkable
class Spaced(Protocol):
    """What environments have in addition that know values of their own; None: they have but those of their task."""

    @property
    def spaces(self) -> Spaces | None:
        """Between their own values and those of their task."""


def spec_of(make_env: Callable[..., VectorEnv], **variant: Any) -> TaskSpec:
    """The task of an environment, which is made for that alone."""
    env = make_env(num_envs=1, **variant)
    try:
        return env.spec
    finally:
        env.close()


def recorded_in(make_env: Callable[..., VectorEnv]) -> Spaces | TaskSpec:
    """The values in which an environment is recorded by others: its own, else those of its task."""
    env = make_env(num_envs=1)
    try:
        return (env.spaces if isinstance(env, Spaced) else None) or env.spec
    finally:
        env.close()


def field_dtype(field: Field) -> type[np.generic]:
    """The dtype in which values of a field are stored: int64, float32 or uint8."""
    if isinstance(field, Discrete):
        return np.int64
    return np.uint8 if isinstance(field, Image) else np.float32


def check_seeds(seeds: Sequence[int | None], num_envs: int) -> list[int | None]:
    """The seeds as Python integers (or None). Raises ValueError unless there is one per env, none negative."""
    if len(seeds) != num_envs:
        raise ValueError(f"seeds: expected {num_envs}, one per environment; found {len(seeds)}")
    found = [None if seed is None else int(seed) for seed in seeds]
    negative = [seed for seed in found if seed is not None and seed < 0]
    if negative:
        raise ValueError(f"seeds: expected integers from 0 up; found {negative[0]}")
    return found


def check_action(spec: TaskSpec, action: np.ndarray, active: np.ndarray) -> np.ndarray:
    """The action as an array of the right shape and kind; ValueError says what was expected.

    int [N] in range for a discrete action, finite float [N, A] for a vector. Rows that idle may hold anything.
    """
    action = np.asarray(action)
    if isinstance(spec.action, Discrete):
        (size,) = spec.action.sizes
        if action.shape != active.shape or action.dtype.kind not in "iu":
            found = f"{action.dtype} {list(action.shape)}"
            raise ValueError(f"action: expected integers {list(active.shape)}; found {found}")
        wrong = active & ((action < 0) | (action >= size))
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(f"action: expected 0 to {size - 1}; found {action[row]} for environment {row}")
        return action
    shape = (*active.shape, spec.action.size)
    if action.shape != shape or action.dtype.kind != "f":
        raise ValueError(f"action: expected floats {list(shape)}; found {action.dtype} {list(action.shape)}")
    wrong = active & ~np.isfinite(action).all(axis=-1)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"action: expected finite numbers; found {action[row]} for environment {row}")
    return action


def check_active(active: np.ndarray, num_envs: int) -> None:
    """Raises ValueError unless `active` is a mask with one entry per environment."""
    if active.shape != (num_envs,) or active.dtype != np.bool_:
        raise ValueError(f"active: expected bool [{num_envs}]; found {active.dtype} {list(active.shape)}")


class SyncVector:
    """N Gymnasium environments stepped one after another in this process.

    Each environment's observation is a dict with the parts of its `task_spec`, and with those of its `privileged` where
    it has that attribute: they are passed on for an expert, and no data set and no network gets them.
    `info["loss_mask"]` is passed on (True where absent), and from the last step what the environment's `metrics` names.
    One without that attribute has `success`: what `info` says, or else whether its rewards sum to more than 0.
    """

    def __init__(self, factories: Sequence[Callable[[], gymnasium.Env[Any, Any]]]) -> None:
        if not factories:
            raise ValueError("SyncVector: expected at least one environment; found none")
        self.envs = [factory() for factory in factories]
        self.num_envs = len(self.envs)
        self.spec: TaskSpec = _task_spec(self.envs[0])
        for i, env in enumerate(self.envs):
            differences = self.spec.differences(_task_spec(env))
            if differences:
                raise ValueError(f"SyncVector: environment {i} differs from environment 0: {'; '.join(differences)}")
        own = getattr(self.envs[0].unwrapped, "spaces", None)
        self.spaces = own if isinstance(own, Spaces) else None
        parts = {**self.spec.observation, **getattr(self.envs[0].unwrapped, "privileged", {})}
        self.metrics: tuple[str, ...] = tuple(getattr(self.envs[0].unwrapped, "metrics", (SUCCESS,)))
        self._observation = {
            part: np.zeros((self.num_envs, *field.shape), field_dtype(field)) for part, field in parts.items()
        }
        self._returns = np.zeros(self.num_envs)
        self.playing = np.zeros(self.num_envs, np.bool_)

    def reset(self, seeds: Sequence[int | None]) -> Observation:
        """First observations where a seed is given, last ones elsewhere (zeros where there never was an episode)."""
        for i, seed in enumerate(check_seeds(seeds, self.num_envs)):
            if seed is not None:
                observation, _ = self.envs[i].reset(seed=seed)
                self.keep(i, observation)
                self._returns[i] = 0.0
                self.playing[i] = True
        return self.seen()

    def step(self, action: np.ndarray, active: np.ndarray) -> TimeStep:
        """One step of every active environment. Raises RuntimeError where an active one has no episode running."""
        check_active(active, self.num_envs)
        action = check_action(self.spec, action, active)
        check_playing(active, self.playing)
        reward = np.zeros(self.num_envs, np.float32)
        terminated, truncated = np.zeros((2, self.num_envs), np.bool_)
        measured = {name: np.zeros(self.num_envs, np.bool_) for name in self.metrics}
        loss_mask = np.ones(self.num_envs, np.bool_)
        for i in np.flatnonzero(active).tolist():
            chosen = int(action[i]) if isinstance(self.spec.action, Discrete) else action[i].astype(np.float32)
            observation, gained, terminated[i], truncated[i], info = self.envs[i].step(chosen)
            self.keep(i, observation)
            reward[i] = gained
            self._returns[i] += float(gained)
            loss_mask[i] = info.get("loss_mask", True)
            if terminated[i] or truncated[i]:
                self.playing[i] = False
                found = {SUCCESS: self._returns[i] > 0.0, **info}
                for name in self.metrics:
                    if name not in found:
                        raise ValueError(f"environment {i}: expected info[{name!r}], one of its metrics, at its end")
                    measured[name] = widened(measured[name], value := np.asarray(found[name]))
                    measured[name][i] = value
        return TimeStep(self.seen(), reward, terminated, truncated, loss_mask, measured)

    def render(self) -> np.ndarray:
        """Frames uint8 [N, h, w, 3] of environments that give them by `render`, as Gymnasium's do in "rgb_array"."""
        return np.stack([np.asarray(env.render(), np.uint8) for env in self.envs])

    def close(self) -> None:
        """Close every environment."""
        for env in self.envs:
            env.close()

    def keep(self, i: int, observation: dict[str, Any]) -> None:
        """Write one environment's observation into row i of the buffers."""
        for part, buffer in self._observation.items():
            if part not in observation:
                raise ValueError(f"observation: expected part '{part}'; environment {i} gave {sorted(observation)}")
            value = np.asarray(observation[part])
            if value.shape != buffer.shape[1:] or not np.can_cast(value.dtype, buffer.dtype, "same_kind"):
                raise ValueError(
                    f"observation '{part}': expected {buffer.dtype} {list(buffer.shape[1:])}; "
                    f"environment {i} gave {value.dtype} {list(value.shape)}"
                )
            buffer[i] = value

    def seen(self) -> Observation:
        """The present observations."""
        return {part: buffer.copy() for part, buffer in self._observation.items()}


def widened(values: np.ndarray, by: np.ndarray) -> np.ndarray:
    """The values in a dtype that holds those of `by` as well: 0 of one episode does not make 0.5 of another a 0."""
    return values.astype(np.result_type(values.dtype, by.dtype), copy=False)


def check_playing(active: np.ndarray, playing: np.ndarray) -> None:
    """Raises RuntimeError where an environment is to act but has no episode running."""
    wrong = active & ~playing
    if wrong.any():
        raise RuntimeError(f"environment {wrong.argmax()} has no episode running: give it a seed in reset() first")


def _task_spec(env: gymnasium.Env[Any, Any]) -> TaskSpec:
    """The specification an environment, or one it wraps, carries."""
    try:
        spec = env.get_wrapper_attr("task_spec")
    except AttributeError as error:
        raise ValueError(f"SyncVector: expected an environment with an attribute task_spec; found {env}") from error
    if not isinstance(spec, TaskSpec):
        raise ValueError(f"SyncVector: expected task_spec to be a TaskSpec; {env} has {type(spec).__name__}")
    return spec


def as_array(part: Any) -> np.ndarray:
    """A part of an observation as numpy: what a simulator on a GPU shows is copied from there."""
    return part.cpu().numpy() if isinstance(part, torch.Tensor) else np.asarray(part)
