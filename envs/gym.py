"""Any environment that is registered with Gymnasium, by its id: its TaskSpec follows from its spaces."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import error as gymnasium_error

from elmur.registry import plugin_of
from elmur.spaces import Spaces
from elmur.spec import TaskSpec, Vector
from envs.processes import ProcessVector
from envs.rollout import uniform_action
from envs.spaces import SpaceError, action_of
from envs.vector import SUCCESS, Observation, SyncVector, VectorEnv

log = logging.getLogger(__name__)
SUCCESS_KEYS = (SUCCESS, "is_success")  # of an info, where none is named
MOST_STEPS = 10_000  # of an episode whose environment states no limit
TRIED_STEPS = 1_000  # of an episode that is played to find something out
STEP_SECONDS = 300.0  # that a step may take in a process of its own
_says_success: dict[str, str | None] = {}  # an environment -> the key of its info, where it was looked for


class GymError(ValueError):
    """An environment that cannot be made or carried; the message says which and what to do."""


class GymEnv(gymnasium.Env[Any, Any]):
    """A Gymnasium environment whose observation is a dict of the parts of its `task_spec`.

    wrappers: are put around it in this order. without: parts of the observation to leave out. success: the key of the
    last info that says whether the goal was met, at the end of every episode; None: nothing says it. The other
    arguments are those of `make_vector`. Actions outside a Box are moved to its bounds, `info["clipped"]` says when.
    """

    def __init__(
        self,
        id: str,
        arguments: Mapping[str, Any],
        wrappers: Sequence[Callable[..., gymnasium.Env[Any, Any]]] = (),
        without: Sequence[str] = (),
        max_episode_steps: int | None = None,
        success: str | None = None,
    ) -> None:
        self.id, self._success = id, success
        self._seed: int | None = None
        self._steps = 0
        self._env = made(id, arguments, max_episode_steps)
        try:
            for wrapper in wrappers:
                self._env = wrapper(self._env)
            seen, done = self._env.observation_space, self._env.action_space
            self.spaces = Spaces(id, seen, done, without, self._horizon(max_episode_steps), "env.make.without")
            self._action = action_of(done)
        except SpaceError as error:
            raise GymError(f"{id}: {error}") from error
        except Exception as error:
            raise GymError(f"{id}: env.make.wrappers: {error}") from error
        self.metrics = () if success is None else (SUCCESS,)
        self.task_spec = self.spaces.spec
        self.observation_space, self.action_space = seen, done
        self.render_mode = self._env.render_mode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """The first observation of the episode of this seed."""
        self._seed, self._steps = seed, 0
        with self._blaming("reset", "reset(self, *, seed=None, options=None) that gives observation, info"):
            observation, info = _of_two(self._env.reset(seed=seed, options=options))
            return self._shown(observation), info

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """What an action of the `task_spec` leads to."""
        given, clipped = self._action.give(action)
        shown, reward, terminated, truncated, info = self.play(given)
        return shown, reward, terminated, truncated, {**info, "clipped": clipped}

    def play(self, given: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """What a value of the environment's own action space leads to."""
        self._steps += 1
        with self._blaming("step", "step(self, action) that gives observation, reward, terminated, truncated, info"):
            observation, reward, terminated, truncated, info = self._env.step(given)
            shown, gained = self._shown(observation), float(reward)
        if self._success is not None and (terminated or truncated):
            info = {**info, SUCCESS: self._succeeded(info)}
        return shown, gained, bool(terminated), bool(truncated), info

    def render(self) -> Any:
        """A frame for people, where it was made with render=True."""
        return self._env.render()

    def close(self) -> None:
        """Free what the environment holds."""
        self._env.close()

    def _shown(self, observation: Any) -> Observation:
        return {part.name: part.of(observation) for part in self.spaces.parts}

    @contextmanager
    def _blaming(self, what: str, expected: str) -> Iterator[None]:
        """What is raised within is said to be the environment's own, where it was, beside what is expected of it."""
        try:
            yield
        except Exception as error:
            where, text = f"seed {self._seed}, step {self._steps}", " ".join(str(error).split())
            raise GymError(
                f"env.id={self.id}: {what} ({where}) raised {type(error).__name__}: {text}; expected {expected}"
            ) from error

    def _horizon(self, asked: int | None) -> int | None:
        """The most steps of an episode, None where the environment states no limit and none is asked for."""
        limit = self._env.spec.max_episode_steps if self._env.spec is not None else None
        return None if limit == MOST_STEPS and asked is None else limit

    def _succeeded(self, info: Mapping[Any, Any]) -> bool:
        if self._success not in info:
            raise GymError(
                f"{self.id}: env.make.success={self._success}: an episode ended without it; its info has "
                f"{', '.join(map(str, info))}"
            )
        return bool(np.all(info[self._success]))


def _of_two(found: Any) -> tuple[Any, dict[str, Any]]:
    """An observation and what is said of it. Raises TypeError for anything else, as an observation of two numbers."""
    if not isinstance(found, tuple) or len(found) != 2 or not isinstance(found[1], dict):
        raise TypeError(f"found {type(found).__name__} alone" if not isinstance(found, tuple) else "found other values")
    return found


def made(id: str, arguments: Mapping[str, Any], max_episode_steps: int | None) -> gymnasium.Env[Any, Any]:
    """The environment of an id, cut at its own limit or at this one. GymError says why there is none."""
    module, is_given, _ = id.partition(":")
    if is_given and plugin_of(f"{module}.") is None:
        package = module.partition(".")[0]
        raise GymError(
            f"env.id={id}: importing {module} is refused; a package that you trust is allowed on the command line, "
            f"plugins=[{package}]"
        )
    limit = {} if max_episode_steps is None else {"max_episode_steps": max_episode_steps}
    try:
        env = gymnasium.make(id, disable_env_checker=True, **limit, **arguments)
        if env.spec is not None and env.spec.max_episode_steps is None:
            env = gymnasium.wrappers.TimeLimit(env, MOST_STEPS)
    except (ModuleNotFoundError, gymnasium_error.DependencyNotInstalled) as error:
        raise GymError(f"env.id={id}: needs a package that is not installed here: {error}") from error
    except gymnasium_error.UnregisteredEnv as error:
        raise GymError(
            f"env.id={id}: {error}; a package that registers environments is imported by env.id=PACKAGE:ID "
            "plugins=[PACKAGE]"
        ) from error
    except Exception as error:
        given = f" with env.make.arguments={dict(arguments)}" if arguments else ""
        raise GymError(f"env.id={id}: cannot be made{given}: {type(error).__name__}: {error}") from error
    for name in ("observation_space", "action_space"):
        if not isinstance(found := getattr(env, name, None), gymnasium.Space):
            raise GymError(f"env.id={id}: {name}: found {found}, expected a space that its __init__ has set")
    return env


def make_vector(
    num_envs: int,
    id: str,
    arguments: Mapping[str, Any] | None = None,
    wrappers: Sequence[Callable[..., gymnasium.Env[Any, Any]]] = (),
    without: Sequence[str] = (),
    max_episode_steps: int | None = None,
    success: str | None = None,
    processes: int = 0,
    render: bool = False,
) -> VectorEnv:
    """`num_envs` environments of one id, e.g. id="CartPole-v1", or "package:Id-v0" of a package that is allowed.

    arguments: of gymnasium.make. wrappers: partials of classes; the first is the innermost. without: names of parts of
    the observation to leave out. max_episode_steps: where episodes are cut, instead of the environment's own limit.
    success: the key of `info` that says at an episode's end whether the goal was met; None: "success" or "is_success"
    where an episode of random play ends with one of them, else nothing does. processes: that step side by side, 0:
    this one does all. render: make them so that they can be filmed.
    """
    given = {**(arguments or {}), **({"render_mode": "rgb_array"} if render else {})}
    about: dict[str, Any] = {"id": id, "arguments": given, "wrappers": tuple(wrappers), "without": tuple(without)}
    about |= {"max_episode_steps": max_episode_steps}
    options = {**about, "success": says_success(about) if success is None else success}
    if processes and not multiprocessing.current_process().daemon:  # which may have no children
        return ProcessVector(in_this_process, num_envs, min(num_envs, processes), options, STEP_SECONDS)
    return in_this_process(num_envs, **options)


def in_this_process(num_envs: int, **options: Any) -> SyncVector:
    """`num_envs` environments that are stepped one after another; the arguments are those of GymEnv."""
    return SyncVector([partial(GymEnv, **options)] * num_envs)


def says_success(options: Mapping[str, Any]) -> str | None:
    """The key by which an environment says at an episode's end whether the goal was met, None where it does not.

    Found out once, by an episode of random play of at most TRIED_STEPS steps; the arguments are those of GymEnv.
    """
    known = repr(options)
    if known not in _says_success:
        env, over, steps = GymEnv(**options), False, 0
        info: Mapping[str, Any] = {}
        try:
            env.reset(seed=0)
            env.action_space.seed(0)
            while not over and steps < TRIED_STEPS:
                *_, terminated, truncated, info = env.play(env.action_space.sample())
                over, steps = terminated or truncated, steps + 1
        finally:
            env.close()
        _says_success[known] = next((key for key in SUCCESS_KEYS if over and key in info), None)
    return _says_success[known]


def check_reproducible(returns: Sequence[float], make_env: Callable[..., VectorEnv]) -> None:
    """Warns where an episode that is played twice from one seed, with the same actions, is not the same.

    returns: of a shard, which are not looked at. At most TRIED_STEPS steps are compared.
    """
    with closing(make_env(num_envs=1)) as env:
        actions = np.random.default_rng(0)
        drawn = [any_action(env.spec, actions) for _ in range(TRIED_STEPS)]
        once, again = (list(_shown_by(env, drawn)) for _ in range(2))
    differ = [
        (step, name)
        for step, (first, second) in enumerate(zip(once, again, strict=False))
        for name in first
        if not np.array_equal(first[name], second[name], equal_nan=True)
    ]
    if differ:
        log.warning(
            "%s is not reproducible from its seed (%s differs at step %d of an episode played twice): data and "
            "evaluations of the same seeds are of other episodes each time", env.spec.name, *differ[0][::-1],
        )  # fmt: skip


def _shown_by(env: VectorEnv, actions: Sequence[np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """What one episode of seed 0 shows and gives, step by step, until it or the actions end."""
    yield env.reset([0])
    for action in actions:
        step = env.step(action, np.ones(1, np.bool_))
        ended = {"terminated": step.terminated, "truncated": step.truncated}
        yield {**step.observation, "reward": step.reward, **ended}
        if step.terminated[0] or step.truncated[0]:
            return


def any_action(spec: TaskSpec, rng: np.random.Generator) -> np.ndarray:
    """A random action of one environment; of a vector without bounds, standard normal."""
    if isinstance(spec.action, Vector) and spec.action.low is None:
        return rng.standard_normal((1, spec.action.size), np.float32)
    return uniform_action(spec, 1, rng)
