"""Those who look on while a policy acts: what is told, recorded, disturbed, and kept to go on from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from envs.rollout import Episode, Observer, Policy, Trajectory, Wave, uniform_action
from envs.vector import VectorEnv, as_array


class Telling(Observer):
    """Calls `tell(steps of this wave, episodes still running)` after every step."""

    def __init__(self, tell: Callable[[int, int], object]) -> None:
        self._tell = tell

    def on_step(self, wave: Wave) -> None:
        self._tell(wave.count, wave.running)


class Noise(Observer):
    """Replaces an executed action by a uniform one, with probability `share` for each step and episode."""

    def __init__(self, share: float, rng: np.random.Generator) -> None:
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"noise: expected a probability from 0 to 1; found {share}")
        self.share, self._rng = share, rng

    def on_action(self, wave: Wave, action: np.ndarray) -> np.ndarray:
        action, number = np.asarray(action), wave.env.num_envs
        # Both draws are made for every row, so the stream does not depend on who is still running.
        replaced = self._rng.random(number) < self.share
        uniform = uniform_action(wave.env.spec, number, self._rng)
        if action.shape != uniform.shape:
            raise ValueError(f"action: expected {list(uniform.shape)}; the policy gave {list(action.shape)}")
        return np.where(replaced.reshape(-1, *[1] * (action.ndim - 1)), uniform, action)


class Recorder(Observer):
    """Gives every episode its `steps`; those of a wave stand in arrays `[capacity, N, ...]` that double when full.

    What a GPU shows stays there until its episode is over. labelled: the policy's answers are recorded beside what was
    executed, and count in the loss wherever the environment says so. preferences: so is what the policy, a
    PreferringPolicy, holds of each action.
    """

    def __init__(self, labelled: bool = False, preferences: bool = False) -> None:
        self.labelled, self.preferences = labelled, preferences

    def on_reset(self, wave: Wave) -> None:
        self._arrays: dict[str, Any] = {}

    def on_step(self, wave: Wave) -> None:
        own, action, answer = wave.step.loss_mask, wave.action, wave.answer
        if action is not answer and not self.labelled:
            # Imitating noise would teach it, so only the policy's own choices count.
            same = action == answer
            own = own & (same if same.ndim == 1 else same.all(axis=-1))
        row = {f"observation/{part}": value for part, value in wave.observation.items()}
        row |= {"action": np.asarray(action), "reward": wave.step.reward, "loss_mask": own}
        if self.labelled:
            row["label"] = np.asarray(answer)
        if self.preferences:  # still of this observation
            row["preference"] = wave.policy.preferences()  # type: ignore[attr-defined]
        if not self._arrays:
            self._arrays = {name: _room(64, value) for name, value in row.items()}
        elif wave.count > len(self._arrays["action"]):
            larger = {name: _room(2 * len(old), old[0]) for name, old in self._arrays.items()}
            for name, old in self._arrays.items():
                larger[name][: len(old)] = old
            self._arrays = larger
        for name, value in row.items():
            self._arrays[name][wave.count - 1] = value

    def on_end(self, wave: Wave, episodes: list[Episode]) -> None:
        for row, episode in enumerate(episodes):
            taken = {name: as_array(array[: episode.length, row]).copy() for name, array in self._arrays.items()}
            prefix = "observation/"
            seen = {name.removeprefix(prefix): taken[name] for name in taken if name.startswith(prefix)}
            ends = bool(wave.terminated[row]), bool(wave.truncated[row])
            more = taken.get("label"), taken.get("preference")
            episode.steps = Trajectory(seen, taken["action"], taken["reward"], *ends, taken["loss_mask"], *more)
        self._arrays = {}


def _room(steps: int, like: Any) -> Any:
    """Room for so many arrays or tensors like this one, where it lies."""
    if isinstance(like, torch.Tensor):
        return like.new_empty((steps, *like.shape))
    return np.empty((steps, *like.shape), like.dtype)


class Keep(Observer):
    """Goes on from the state that `load` gives, and saves one whenever it is `due` and the policy can give its own.

    For one wave, played by an environment and a policy that have `snapshot` and `restore`, undisturbed and unrecorded.
    """

    @abstractmethod
    def load(self) -> dict[str, Any] | None:
        """The state to go on from, None to begin."""

    @abstractmethod
    def due(self) -> bool:
        """Whether to save; asked after every step."""

    @abstractmethod
    def save(self, state: dict[str, Any]) -> None:
        """Keep a state, a nest of arrays and plain values."""

    def on_reset(self, wave: Wave) -> None:
        if any(isinstance(observer, Noise | Recorder) for observer in wave.observers):
            raise ValueError("keep: expected a wave without noise that is not recorded")
        if (state := self.load()) is not None:
            wave.restore(state)
            wave.env.restore(state["env"])  # type: ignore[attr-defined]
            wave.policy.restore(state["policy"])  # type: ignore[attr-defined]

    def on_step(self, wave: Wave) -> None:
        if wave.running and self.due():
            policy, env = wave.policy.snapshot(), wave.env.snapshot()  # type: ignore[attr-defined]
            self.save({**wave.state(), "policy": policy, "env": env})


def can_keep(env: VectorEnv, policy: Policy) -> bool:
    """Whether both can give their state, as `Keep` asks for it."""
    return all(callable(getattr(thing, "snapshot", None)) for thing in (env, policy))
