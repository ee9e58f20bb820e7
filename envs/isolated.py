"""Environments in a process of their own, which may raise, crash or hang there without harm to who acts in them.

An episode that is lost so is played once more, alone and with the same seed; if it is lost again it is given back with
its `error`, to be counted as such and never as a failure of the policy.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from elmur.spaces import Spaces
from elmur.spec import TaskSpec
from envs.hidden import hidden_of, twins_of
from envs.rollout import Episode, Observer, Policy, rollout
from envs.vector import Observation, Spaced, TimeStep, VectorEnv

log = logging.getLogger(__name__)
START_SECONDS = 300.0  # to import and build a simulator
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
LOOKING: dict[str, Callable[[VectorEnv], Any]] = {"hidden": hidden_of, "twin": twins_of}  # of any VectorEnv, see there


class EnvError(RuntimeError):
    """An environment raised, did not answer in time, or its process ended."""


class IsolatedVector:
    """A VectorEnv in a child process: `make_env(num_envs=num_envs, **arguments)`, which must be picklable.

    timeout: seconds that one reset or step may take. Whatever goes wrong raises EnvError and kills the child with all
    that it started; the next reset begins a new one. The child dies with this process as well.
    """

    def __init__(
        self, make_env: Callable[..., VectorEnv], num_envs: int, arguments: Mapping[str, Any], timeout: float
    ) -> None:
        if not timeout > 0:
            raise ValueError(f"timeout: expected more than 0 seconds; found {timeout}")
        self.num_envs, self.timeout = num_envs, timeout
        self._make, self._arguments = make_env, dict(arguments)
        self._process: Any = None
        self._pipe: Any = None
        self._about: tuple[TaskSpec, tuple[str, ...], Spaces | None]

    @property
    def spec(self) -> TaskSpec:
        """The task; starts the child where it does not run yet."""
        self._start()
        return self._about[0]

    @property
    def metrics(self) -> Sequence[str]:
        """See VectorEnv."""
        self._start()
        return self._about[1]

    @property
    def spaces(self) -> Spaces | None:
        """See Spaced."""
        self._start()
        return self._about[2]

    def alone(self) -> IsolatedVector:
        """The same with one environment."""
        return IsolatedVector(self._make, 1, self._arguments, self.timeout)

    def reset(self, seeds: Sequence[int | None]) -> Observation:
        """See VectorEnv."""
        self._start()
        return self._ask("reset", list(seeds))

    def step(self, action: np.ndarray, active: np.ndarray) -> TimeStep:
        """See VectorEnv."""
        return self._ask("step", action, active)

    def hidden(self) -> dict[str, np.ndarray]:
        """See Revealing; empty where the environments tell nothing."""
        return self._ask("hidden")

    def twin(self) -> Observation | None:
        """See Twinned; None where the environments have none."""
        shown: Observation | None = self._ask("twin")
        return shown

    def render(self) -> np.ndarray:
        """See Rendered; for environments that can."""
        return self._ask("render")

    def close(self) -> None:
        """End the child and everything that it started."""
        if self._process is None:
            return
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)  # it leads a process group of its own
        self._process.kill()
        self._process.join()
        self._pipe.close()
        self._process = None

    def _start(self) -> None:
        if self._process is not None:
            return
        # spawn: a fork would copy the locks of whatever threads this process has
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, os.getpid(), self._make, {"num_envs": self.num_envs, **self._arguments})
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self._about = self._receive("make", START_SECONDS)

    def _ask(self, name: str, *arguments: Any) -> Any:
        if self._process is None:
            raise EnvError(f"{name}: the environment's process has ended; reset first")
        with contextlib.suppress(OSError):  # what ended it is found out below
            self._pipe.send((name, arguments))
        return self._receive(name, self.timeout)

    def _receive(self, name: str, timeout: float) -> Any:
        """The child's answer. Raises EnvError, with the child gone, where there is none."""
        try:
            if not self._pipe.poll(timeout):
                raise EnvError(f"{name}: no answer within {timeout:g} seconds")
            raised, answer = self._pipe.recv()
            if raised:
                raise EnvError(f"{name}: {answer}")
            return answer
        except (EOFError, OSError):
            self._process.join(1.0)
            raise EnvError(f"{name}: its process ended with exit code {self._process.exitcode}") from None
        except EnvError:
            self.close()
            raise
        finally:
            if self._process is not None and not self._process.is_alive():
                self.close()


def rollout_isolated(
    env: IsolatedVector,
    policy: Policy,
    seeds: Sequence[int],
    *,
    observers: Sequence[Observer] = (),
) -> list[Episode]:
    """The same as `rollout`; where the environment is lost, every episode once more by itself, in the seeds' order.

    A model draws by the episode's seed, so that it draws the same again; RandomPolicy does not.
    """
    try:
        return rollout(env, policy, seeds, observers=observers)
    except EnvError as error:
        log.warning("an environment was lost (%s): %d episodes are repeated one by one", error, len(seeds))
    episodes = []
    alone = env.alone()
    try:
        for seed in seeds:
            try:
                episodes += rollout(alone, policy, [seed], observers=observers)
            except EnvError as error:
                log.warning("the episode of seed %d is counted as env_error (%s)", seed, error)
                episodes.append(Episode(int(seed), 0, 0.0, {}, error=str(error)))
    finally:
        alone.close()
    return episodes


def _serve(pipe: Connection, parent: int, make_env: Callable[..., VectorEnv], arguments: dict[str, Any]) -> None:
    """The child: build the environments, then answer one request after another until there are no more."""
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before it could be tied to us
        return
    env = None
    try:
        env = make_env(**arguments)
        pipe.send((False, (env.spec, tuple(env.metrics), env.spaces if isinstance(env, Spaced) else None)))
        while True:
            name, given = pipe.recv()
            asked = LOOKING.get(name)
            pipe.send((False, getattr(env, name)(*given) if asked is None else asked(env)))
    except (EOFError, BrokenPipeError):
        pass  # nobody is left to ask
    except Exception as error:
        with contextlib.suppress(OSError):
            pipe.send((True, " ".join(f"{type(error).__name__}: {error}".split())))
