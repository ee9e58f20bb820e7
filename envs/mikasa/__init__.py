"""MIKASA-Robo's 32 tasks as vector environments: on the CPU in several processes, or on a GPU in one batch."""

from __future__ import annotations

import difflib
import multiprocessing
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from envs import suites
from envs.hidden import Demand
from envs.mikasa.hidden import demand
from envs.mikasa.sim import MikasaError, Simulation, require
from envs.processes import ProcessVector
from envs.seeded import Seeded
from envs.vector import (
    Observation,
    SyncVector,
    TimeStep,
    VectorEnv,
    as_array,
    check_action,
    check_active,
    check_playing,
    check_seeds,
)

TASKS = tuple(suites.read("mikasa32").tasks)
LENGTHS = {"Remember": 60, "ShellGame": 90, "Intercept": 90, "Rotate": 90, "TakeItBack": 180}  # others: 120
METRICS = ("success", "success_at_end")  # the goal was met at some step, the published measure; is met at the last one
STEP_SECONDS = 120.0  # that a step may take in a process of its own; rendering on a busy CPU is slow


class _Simulated:
    """What a task has of its simulator, be it one environment or a batch of them."""

    metrics = METRICS
    simulation: Simulation

    def demand(self) -> Demand:
        """What has to be held from the first steps to the last."""
        return demand(self.simulation.spec.name, self.simulation.horizon)

    def close(self) -> None:
        """Free the simulator."""
        self.simulation.close()


class Mikasa(_Simulated, Seeded):
    """One task on the CPU; `task_spec` says what an observation is.

    Every episode lasts as long as the suite says, whatever is reached on the way. An action out of bounds is clipped;
    `clipped` counts how often.
    """

    def __init__(self, id: str, **options: Any) -> None:
        check_task(id)
        self.simulation = Simulation(id, **options)
        super().__init__(self.simulation.spec)
        self.privileged = self.simulation.privileged
        self.clipped = self._steps = 0
        self._once = False

    def begin(self, seed: int) -> Observation:
        """The first observation of the episode of this seed."""
        self._steps, self._once = 0, False
        shown = self.simulation.reset([seed])
        return _first_row(shown)

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One step of 0.05 seconds; the episode is cut at the suite's length."""
        given = torch.as_tensor(np.asarray(action, np.float32))
        executed = given.clamp(-1.0, 1.0)
        self.clipped += not torch.equal(executed, given)
        shown, reward, success = self.simulation.step(executed.unsqueeze(0))
        self._steps += 1
        now = bool(success)
        self._once = self._once or now
        info = dict(zip(METRICS, (self._once, now), strict=True))
        return _first_row(shown), float(reward), False, self._steps >= self.simulation.horizon, info

    def hidden(self) -> dict[str, np.ndarray]:
        """What is hidden of the episode now, `[k]` by name (see envs/mikasa/hidden.py)."""
        return {name: field[0] for name, field in self.simulation.hidden().items()}

    def twin(self) -> Observation | None:
        """The first observation of the same episode with another cue, which is played from here on; None: no twins."""
        shown = self.simulation.twin()
        return None if shown is None else _first_row(shown)

    def render(self) -> Any:
        """A frame for people, uint8 [h, w, 3], where the task was made with render=True."""
        return self.simulation.frames()[0]


class MikasaBatch(_Simulated):
    """A VectorEnv in one simulator; on a GPU, observations are tensors that stay there.

    All rows begin together: the suite cannot begin one episode anew inside a batch. A row without a seed idles.
    """

    def __init__(self, id: str, num_envs: int, **options: Any) -> None:
        check_task(id)
        self.simulation = Simulation(id, num_envs=num_envs, **options)
        self.num_envs, self.spec = num_envs, self.simulation.spec
        self._playing, self._once = np.zeros((2, num_envs), np.bool_)
        self._steps = 0
        self._shown: Any = None

    def reset(self, seeds: Sequence[int | None]) -> Observation:
        """First observations. Raises ValueError where a row is to keep an episode that is running."""
        found = check_seeds(seeds, self.num_envs)
        given = np.array([seed is not None for seed in found])
        if (self._playing & ~given).any():
            raise ValueError("seeds: expected one for every environment that is playing: a batch begins together")
        if given.any():
            self._shown = self.simulation.reset([0 if seed is None else seed for seed in found])
            self._playing, self._once, self._steps = given, np.zeros(self.num_envs, np.bool_), 0
        if self._shown is None:
            raise ValueError("seeds: expected one at least before the first episode")
        return dict(self._shown)

    def step(self, action: np.ndarray, active: np.ndarray) -> TimeStep:
        """One step of the batch; what it did to rows that are not active is not reported."""
        check_active(active, self.num_envs)
        check_playing(active, self._playing)
        action = np.where(active[:, None], check_action(self.spec, action, active), 0.0)
        chosen = torch.as_tensor(action, dtype=torch.float32, device=self.simulation.env.device).clamp(-1.0, 1.0)
        self._shown, gained, success = self.simulation.step(chosen)
        now = success.cpu().numpy() & active
        self._once = self._once | now
        self._steps += 1
        over = active & (self._steps >= self.simulation.horizon)
        self._playing = self._playing & ~over
        reward = np.where(active, gained.cpu().numpy(), 0.0).astype(np.float32)
        none, every = np.zeros(self.num_envs, np.bool_), np.ones(self.num_envs, np.bool_)
        return TimeStep(
            dict(self._shown), reward, none, over, every, dict(zip(METRICS, (self._once, now), strict=True))
        )

    def hidden(self) -> dict[str, np.ndarray]:
        """What is hidden of the episodes now, `[N, k]` by name (see envs/mikasa/hidden.py)."""
        return self.simulation.hidden()

    def twin(self) -> Observation | None:
        """See Twinned."""
        shown: Any = self.simulation.twin()
        if shown is None:
            return None
        self._shown = shown
        return dict(self._shown)

    def render(self) -> np.ndarray:
        """Frames for people, uint8 [N, h, w, 3], where the task was made with render=True."""
        return self.simulation.frames()


def make_vector(
    num_envs: int,
    id: str,
    observation: str = "vector",
    backend: str = "cpu",
    processes: int | None = None,
    joints: bool = False,
    privileged: bool = False,
    render: bool = False,
    renderer: str | None = None,
) -> VectorEnv:
    """`num_envs` environments of one task, e.g. id="RememberColor3-v0".

    processes: those that simulate side by side on the CPU, 0: this one does; None: one per core.
    The other arguments are those of `envs.mikasa.sim.Simulation`.
    """
    check_task(id)
    require(id, observation, backend, renderer)  # here rather than in every process
    shown = {"observation": observation, "joints": joints, "privileged": privileged}
    options = {**shown, "render": render, "renderer": renderer}
    if backend == "gpu":
        return MikasaBatch(id, num_envs, backend=backend, **options)
    if multiprocessing.current_process().daemon:  # which may have no children
        processes = 0
    processes = min(num_envs, (os.cpu_count() or 1) if processes is None else processes)
    if processes == 0:
        return in_this_process(num_envs, id, backend=backend, **options)
    arguments = {"id": id, "backend": backend, **options}
    held = demand(id, length_of(id))
    return ProcessVector(in_this_process, num_envs, processes, arguments, STEP_SECONDS, held)


def in_this_process(num_envs: int, id: str, **options: Any) -> SyncVector:
    """`num_envs` environments of one task, each with a simulator of its own, one after another."""
    torch.set_num_threads(1)  # a batch of one gains nothing from more
    return SyncVector([partial(Mikasa, id, **options)] * num_envs)


def check_task(id: str) -> None:
    """Raises MikasaError, with the nearest names, where the suite has no such task."""
    if id not in TASKS:
        near = difflib.get_close_matches(id, TASKS, n=3, cutoff=0.5)
        raise MikasaError(f"MIKASA-Robo has no task {id!r}; nearest: {', '.join(near or TASKS[:1])}")


def length_of(id: str) -> int:
    """How many steps every episode of a task has."""
    return next((length for family, length in LENGTHS.items() if id.startswith(family)), 120)


def _first_row(parts: dict[str, torch.Tensor]) -> Observation:
    return {name: as_array(part[0]) for name, part in parts.items()}
