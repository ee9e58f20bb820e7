"""Environments spread over several processes; one that is lost is begun anew and brought to where it was."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np

from elmur.spaces import Spaces
from elmur.spec import TaskSpec
from envs.hidden import Demand
from envs.isolated import EnvError, IsolatedVector
from envs.vector import Observation, TimeStep, VectorEnv, check_seeds

log = logging.getLogger(__name__)
TRIES = 3
LOOKS = ("render", "hidden")  # what changes nothing


class ProcessVector:
    """A VectorEnv whose rows are shared among child processes: `make_env(num_envs=rows, **arguments)` in each.

    A child that crashes, raises or takes more than `timeout` seconds for a step is started again, and its episodes are
    repeated from their seeds with the actions they had, so that the caller notices nothing but the time; `restarts`
    counts them. What is lost at the same place TRIES times raises EnvError. demand: what the environments ask a policy
    to hold, known without starting a process.
    """

    def __init__(
        self,
        make_env: Callable[..., VectorEnv],
        num_envs: int,
        processes: int,
        arguments: Mapping[str, Any],
        timeout: float,
        demand: Demand | None = None,
    ) -> None:
        if not 1 <= processes <= num_envs:
            raise ValueError(f"processes: expected 1 to {num_envs}, the number of environments; found {processes}")
        self.num_envs, self.restarts, self._demand = num_envs, 0, demand
        edges = [num_envs * i // processes for i in range(processes + 1)]
        self._rows = [slice(begin, end) for begin, end in pairwise(edges)]
        self._children = [IsolatedVector(make_env, rows.stop - rows.start, arguments, timeout) for rows in self._rows]
        # What each child was asked since all of its rows were last given a seed.
        self._asked: list[list[tuple[str, tuple[Any, ...]]]] = [[] for _ in self._rows]
        # A thread for each child, for as long as it lives: Linux ends a child with the thread that started it.
        self._threads = ThreadPoolExecutor(processes)

    @property
    def spec(self) -> TaskSpec:
        """The task; starts the processes where they do not run yet."""
        first, *_ = list(self._threads.map(lambda child: child.spec, self._children))  # all: one thread to a child
        return first

    @property
    def metrics(self) -> Sequence[str]:
        """See VectorEnv."""
        first, *_ = list(self._threads.map(lambda child: child.metrics, self._children))
        return first

    @property
    def spaces(self) -> Spaces | None:
        """See Spaced."""
        first, *_ = list(self._threads.map(lambda child: child.spaces, self._children))
        return first

    def reset(self, seeds: Sequence[int | None]) -> Observation:
        """See VectorEnv."""
        found = check_seeds(seeds, self.num_envs)
        parts: list[Observation] = self._everywhere("reset", [(found[rows],) for rows in self._rows])
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def step(self, action: np.ndarray, active: np.ndarray) -> TimeStep:
        """See VectorEnv."""
        parts: list[TimeStep] = self._everywhere("step", [(action[rows], active[rows]) for rows in self._rows])
        shown = {name: np.concatenate([part.observation[name] for part in parts]) for name in parts[0].observation}
        arrays = zip(*((p.reward, p.terminated, p.truncated, p.loss_mask) for p in parts), strict=True)
        reward, terminated, truncated, loss_mask = (np.concatenate(array) for array in arrays)
        measured = {name: part.metrics[name] for part in parts for name in part.metrics}
        whole = {
            name: np.concatenate([p.metrics.get(name, np.zeros(len(p.reward), kind.dtype)) for p in parts])
            for name, kind in measured.items()
        }
        return TimeStep(shown, reward, terminated, truncated, loss_mask, whole)

    def hidden(self) -> dict[str, np.ndarray]:
        """See Revealing; empty where the environments tell nothing."""
        parts: list[dict[str, np.ndarray]] = self._everywhere("hidden", [()] * len(self._rows))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def twin(self) -> Observation | None:
        """See Twinned."""
        parts: list[Observation | None] = self._everywhere("twin", [()] * len(self._rows))
        shown = [part for part in parts if part is not None]
        if len(shown) < len(parts):
            return None
        return {name: np.concatenate([part[name] for part in shown]) for name in shown[0]}

    def demand(self) -> Demand | None:
        """See Revealing."""
        return self._demand

    def render(self) -> np.ndarray:
        """See Rendered; for environments that can."""
        return np.concatenate(self._everywhere("render", [()] * len(self._rows)))

    def close(self) -> None:
        """End all processes."""
        for child in self._children:
            child.close()
        self._threads.shutdown()
        if self.restarts:
            log.warning("%d processes of environments were lost and replaced", self.restarts)

    def _everywhere(self, name: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The answers of all children, which work side by side."""
        return list(self._threads.map(lambda i: self._ask(i, name, arguments[i]), range(len(self._children))))

    def _ask(self, i: int, name: str, arguments: tuple[Any, ...]) -> Any:
        child, asked = self._children[i], self._asked[i]
        if name == "reset" and None not in arguments[0]:
            asked.clear()
        looks = name in LOOKS
        if not looks:
            asked.append((name, arguments))
        for number in range(TRIES):
            try:
                if number == 0:
                    return getattr(child, name)(*arguments)
                answers = [getattr(child, earlier)(*given) for earlier, given in list(asked)]
                return getattr(child, name)() if looks else answers[-1]
            except EnvError as error:
                if number == TRIES - 1:
                    raise
                self.restarts += 1
                log.warning("an environment was lost (%s): its episodes are repeated up to here", error)
        raise AssertionError("unreachable")
