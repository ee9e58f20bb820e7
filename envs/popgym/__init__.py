"""POPGym's 48 tasks as Gymnasium environments whose observation is a dict of parts (Morad et al., ICLR 2023)."""

from __future__ import annotations

import difflib
import importlib.metadata
import importlib.util
import random
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from elmur.spaces import leaves
from elmur.spec import Discrete, Field, TaskSpec, Vector
from envs import suites
from envs.hidden import Demand
from envs.popgym.hidden import FAMILIES as FAMILIES_HIDDEN
from envs.seeded import Seeded
from envs.spaces import described
from envs.vector import Observation, SyncVector

EXPECTED_VERSION = "1.0.7"
LABYRINTHS = ("LabyrinthEscape", "LabyrinthExplore")
FAMILIES = {name: task.family for name, task in suites.read("popgym48").tasks.items()}  # of each task
TASKS = tuple(FAMILIES)

# Whatever is done there, the same is seen next.
SPECTATING = ("Autoencode", "RepeatFirst", "RepeatPrevious", "CountRecall", "HigherLower")

# No task has its length in `spec.max_episode_steps`; most have the attribute max_episode_length, these do not mean it.
_HORIZON: dict[str, Callable[[Any], int]] = {
    "Concentration": lambda env: env.episode_length,
    "HigherLower": lambda env: env.deck_size - 1,
    "LabyrinthEscape": lambda env: env.max_episode_length - 1,
    "LabyrinthExplore": lambda env: env.max_episode_length - 1,
}
# The first step whose action the task judges; whatever was done before earns exactly 0.
_FIRST_JUDGED: dict[str, Callable[[Any], int]] = {
    "Autoencode": lambda env: env.deck.num_cards - 1,  # the watching phase
    "RepeatPrevious": lambda env: env.k - 1,  # nothing was dealt k - 1 steps ago
}


class PopGymError(RuntimeError):
    """A POPGym task that cannot be made, and what to do about it."""


class PopGym(Seeded):
    """One POPGym task; `task_spec` says what an observation and an action are.

    observation parts:
      observation      what POPGym shows: Discrete, MultiDiscrete and Tuple as components of `Discrete`, Box as `Vector`
      previous_action  the action just executed. Discrete: 0 at the first step, else action + 1. Pendulum: the torque.
                       Absent from tasks that no action changes (SPECTATING): there it tells nothing but what the
                       policy thought, and an imitator learns to copy it, mistakes included
      first            where `previous_action` does not tell: 1 at the first step
    action: int, a pair (row, column) counted row by row as one choice; or float [A], clipped to the bounds (`clipped`
    counts how often).
    info holds `loss_mask` (False on steps that the task never judges) and, for continuous actions, `clipped`. What
    POPGym puts there is dropped, for it leaks the hidden state.

    A seed determines the episode completely. Without one, the seed is drawn from the environment's own generator.
    """

    def __init__(self, id: str) -> None:
        family, _ = family_and_level(id)
        self._env: Any = _make(id)
        self._shape = _product_shape(self._env.action_space)
        parts, action = _fields(self._env.observation_space, self._env.action_space, family in SPECTATING)
        horizon = _HORIZON.get(family, lambda env: env.max_episode_length)(self._env)
        super().__init__(TaskSpec(name=id, observation=parts, action=action, horizon=int(horizon)))
        self._quiet = _own_globals if family in LABYRINTHS else None
        self._first_judged = _FIRST_JUDGED.get(family, lambda env: 0)(self._env)
        self._hidden = FAMILIES_HIDDEN[family]
        self._discrete_observation = isinstance(parts["observation"], Discrete)
        self._steps = 0
        self.clipped = 0

    def begin(self, seed: int) -> Observation:
        """The first observation of the episode of this seed."""
        if self._quiet is None:
            observation, _ = self._env.reset(seed=seed)
        else:
            with self._quiet():
                observation, _ = self._env.reset(seed=seed)
        self._steps = 0
        return self._parts(observation, None)

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """What the action leads to. ValueError unless the action fits `task_spec`."""
        info: dict[str, Any] = {"loss_mask": self._steps >= self._first_judged}
        if isinstance(self.task_spec.action, Discrete):
            executed: Any = self._choice(action)
            given = executed if self._shape is None else divmod(executed, self._shape[1])
        else:
            executed = given = self._bounded(action, info)
        observation, reward, terminated, truncated, _ = self._env.step(given)
        self._steps += 1
        return self._parts(observation, executed), float(reward), bool(terminated), bool(truncated), info

    def hidden(self) -> dict[str, np.ndarray]:
        """What the observation hides now (see envs/popgym/hidden.py)."""
        return self._hidden.fields(self._env)

    def demand(self) -> Demand:
        """What has to be held."""
        return self._hidden.demand(self._env)

    def twin(self) -> Observation | None:
        """The first observation of the same episode with another card, which is played from here on; None: no twins."""
        if self._hidden.twin is None:
            return None
        if self._steps:
            raise RuntimeError("twin: expected an episode at its first observation; call reset() first")
        return self._parts(self._hidden.twin(self._env), None)

    def picture(self, row: int = 0) -> list[list[str]]:
        """The cards or the board now; empty where there is nothing to draw but numbers."""
        return self._hidden.picture(self._env) if self._hidden.picture else []

    def close(self) -> None:
        """Free what POPGym's environment holds."""
        self._env.close()

    def _choice(self, action: Any) -> int:
        size = self.action_space.n  # type: ignore[attr-defined]
        choice = int(action)
        if choice != action or not 0 <= choice < size:
            raise ValueError(f"{self.task_spec.name}: expected an action from 0 to {size - 1}; found {action}")
        return choice

    def _bounded(self, action: Any, info: dict[str, Any]) -> np.ndarray:
        space: Any = self.action_space
        wish = np.asarray(action, np.float32)
        if wish.shape != space.shape or not np.isfinite(wish).all():
            raise ValueError(
                f"{self.task_spec.name}: expected {space.shape[0]} finite number(s) as action; found {action}"
            )
        executed = wish.clip(space.low, space.high)
        info["clipped"] = bool((executed != wish).any())
        self.clipped += info["clipped"]
        return executed

    def _parts(self, observation: Any, executed: Any) -> Observation:
        """POPGym's observation and the executed action (None at the first step) as the parts of `task_spec`."""
        kind = np.int64 if self._discrete_observation else np.float32
        parts = {"observation": np.array(observation, kind, ndmin=1)}
        if "first" in self.task_spec.observation:
            parts["first"] = np.array([executed is None], np.int64)
        if isinstance(self.task_spec.observation.get("previous_action"), Vector):
            nothing = np.zeros(self.task_spec.action.shape, np.float32)
            parts["previous_action"] = nothing if executed is None else executed
        elif "previous_action" in self.task_spec.observation:
            parts["previous_action"] = np.array([0 if executed is None else executed + 1], np.int64)
        return parts


def make_vector(num_envs: int, id: str) -> SyncVector:
    """`num_envs` environments of one POPGym task, e.g. id="popgym-AutoencodeEasy-v0"."""
    return SyncVector([partial(PopGym, id)] * num_envs)


def family_and_level(task: str) -> tuple[str, str]:
    """("Autoencode", "Easy") of "popgym-AutoencodeEasy-v0". PopGymError names the nearest tasks if there is none."""
    if task not in TASKS:
        simple = {re.sub(r"[^a-z]", "", name.lower().removesuffix("-v0")): name for name in TASKS}
        near = difflib.get_close_matches(
            re.sub(r"[^a-z]", "", task.lower().removesuffix("-v0")), simple, n=3, cutoff=0.5
        )
        hint = f"nearest: {', '.join(simple[name] for name in near)}" if near else f"e.g. {TASKS[0]}"
        raise PopGymError(f"POPGym has no task {task!r}; {hint}")
    family = FAMILIES[task]
    return family, task.removeprefix(f"popgym-{family}").removesuffix("-v0")


def _make(task: str) -> Any:
    """POPGym's own environment, bare of Gymnasium's wrappers."""
    require_popgym(task)
    with warnings.catch_warnings():
        # The labyrinths say on construction that they hardly need memory.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        return gymnasium.make(task, disable_env_checker=True).unwrapped


def require_popgym(task: str) -> None:
    """Raises PopGymError when a package that the task needs is missing; warns of an unexpected version of POPGym."""
    if importlib.util.find_spec("popgym") is None:
        raise PopGymError(f"{task} needs the package popgym: pip install -e '.[popgym]'")
    if family_and_level(task)[0] in LABYRINTHS and importlib.util.find_spec("mazelib") is None:
        six = ", ".join(name for name in TASKS if name.startswith("popgym-Labyrinth"))
        raise PopGymError(f"{task} needs the package mazelib: pip install -e '.[popgym]' (only these six do: {six})")
    _check_version()


@lru_cache(maxsize=1)
def _check_version() -> None:
    """Registers POPGym's tasks, once; warns when the version is not the expected one."""
    import popgym  # noqa: F401

    found = importlib.metadata.version("popgym")
    if found != EXPECTED_VERSION:
        warnings.warn(
            f"popgym {found} is installed, expected {EXPECTED_VERSION}: CountRecall has another number of actions and "
            "MineSweeper another length in other versions, so data sets and scores do not compare; "
            "pip install -e '.[popgym]' installs the expected one",
            stacklevel=2,
        )


@contextmanager
def _own_globals() -> Iterator[None]:
    """Inside, the global generators may be reseeded and drawn from; outside nobody notices (mazelib does both)."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (it is what must be kept)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def _fields(
    observation: spaces.Space[Any], action: spaces.Space[Any], spectating: bool
) -> tuple[dict[str, Field], Discrete | Vector]:
    """The parts of an observation and the action, from POPGym's two spaces."""
    shown = _field(observation)
    if isinstance(action, spaces.Box):
        chosen = _field(action)
        assert isinstance(chosen, Vector)
        return {"observation": shown, "previous_action": chosen, "first": Discrete((2,))}, chosen
    size = int(np.prod(_field(action).sizes))  # type: ignore[union-attr]
    if spectating:
        return {"observation": shown, "first": Discrete((2,))}, Discrete((size,))
    return {"observation": shown, "previous_action": Discrete((size + 1,))}, Discrete((size,))


def _field(space: spaces.Space[Any]) -> Discrete | Vector:
    """A space as one field, whose components are those of all its parts."""
    parts = leaves(described(space))
    sizes = [size for part in parts if part.choices is not None for size in part.choices[0]]
    return Discrete(tuple(sizes)) if sizes else parts[0].action_field


def _product_shape(space: spaces.Space[Any]) -> tuple[int, int] | None:
    """(rows, columns) of an action that is a pair, None of any other."""
    return tuple(space.nvec.tolist()) if isinstance(space, spaces.MultiDiscrete) else None
