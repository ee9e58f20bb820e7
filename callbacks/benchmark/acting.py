"""Speed of acting: streaming beside recomputing the open segment, environments, and what a step costs and keeps."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product as every
from typing import Any

import numpy as np
import torch

from callbacks.benchmark.timing import CPU, GPU, SECONDS, Rows, Work, take_turns
from callbacks.benchmark.training import MAZE_CONTEXT, ROBOT_CONTEXT, maze_model, robot_model
from callbacks.evaluation.device import operations, threads
from elmur.batch import SegmentBatch
from elmur.compiled import has_compiler
from elmur.module import SequenceModule
from elmur.policy import StreamingPolicy
from elmur.sequence_model import SequenceModel, Wrapping
from elmur.spec import TaskSpec
from elmur.state import bytes_of, tensors_of
from envs.observers import Recorder
from envs.rollout import Policy, rollout

MOST_STEPS, TASK_ENVS = 100, 64
TIMED = 60  # steps at least that a figure is the mean of, where the history has so many
Players = Mapping[str, tuple[SequenceModel, int, tuple[int, ...]]]


class Recomputing(Wrapping):
    """A model with the streaming that every model has by default: forward on the open segment at each step."""


def players(module: SequenceModule, device: torch.device) -> Players:
    """Models that act: each with its context length and numbers of environments; the one with images on a GPU alone."""
    many = (1, 100) if device == CPU else (20, 100, 4096)
    found: dict[str, tuple[SequenceModel, int, tuple[int, ...]]] = {
        "published T-Maze": (maze_model(), MAZE_CONTEXT, many),
        "recipe": (module.model, module.context_length, many),
    }
    return found if device == CPU else {**found, "published RememberColor": (robot_model(), ROBOT_CONTEXT, many[:1])}


def blank(spec: TaskSpec, num_envs: int) -> dict[str, np.ndarray]:
    """An observation of zeros."""
    return {name: part[:, 0].numpy() for name, part in SegmentBatch.zeros(spec, num_envs, 1).observation.items()}


def segment_of_acting(policy: Policy, spec: TaskSpec, num_envs: int, steps: int) -> Work:
    """Acting through one more segment, with all that goes with it: numpy in and out, a write, the next one opened."""
    observation = blank(spec, num_envs)
    reward, first = np.zeros(num_envs, np.float32), np.ones(num_envs, np.bool_)
    policy.start(num_envs)
    policy.observe(policy.act(observation, first), reward)

    def act() -> None:
        for _ in range(steps):
            policy.observe(policy.act(observation, ~first), reward)

    return act


def measure_acting(players: Players, device: torch.device, seconds: float = SECONDS) -> Rows:
    """Steps of a policy, numpy in and out, on one thread: streaming, compiled where that can be, and recomputing.

    On a GPU streaming alone, on both devices, on the CPU only where that may be faster.
    """
    rows: Rows = []
    for name, (model, length, numbers) in players.items():
        for num_envs, place in every(numbers, (device, CPU) if device == GPU else (CPU,)):
            if device == GPU and place == CPU and num_envs > 100:
                continue
            torch.compiler.reset()  # else the second number of environments would get the code for any number
            model.to(place).eval()
            policies = {"streaming": StreamingPolicy(model, length)}
            if device == CPU:
                policies["recomputing"] = StreamingPolicy(Recomputing(model).eval(), length)
                if has_compiler():
                    policies["compiled"] = StreamingPolicy(model, length, compiled=True)
            with threads(1):
                works = {
                    how: segment_of_acting(policy, model.spec, num_envs, length) for how, policy in policies.items()
                }
                spent = take_turns(works, seconds, least=3)
            slow = spent.get("recomputing")
            rows += [{
                "acting": name, "envs": num_envs, "on": place.type, "how": how,
                "MFLOP a step": operations(model, length) * num_envs / 1e6,
                "ms a step": time / length * 1e3, "policy steps/s": num_envs * length / time,
                "times recomputing": None if slow is None else slow / time,
            } for how, time in spent.items()]  # fmt: skip
        model.to(CPU)
    return rows


def measure_tasks(module: SequenceModule, tasks: Sequence[Mapping[str, Any]], seconds: float = SECONDS) -> Rows:
    """Rates of collecting and of acting with the recipe's model, untrained, on one thread; a row for each task.

    tasks: `make`, `expert`, a function that gives it, and `envs`, their number, of each. The module's model is another
    one afterwards.
    """
    rows = []
    for task in tasks:
        num_envs = task.get("envs", TASK_ENVS)
        vector = task["make"](num_envs=num_envs)
        module.build_model(vector.spec)
        play = partial(rollout, vector, seeds=range(num_envs), max_steps=MOST_STEPS)
        works = {
            "collecting": partial(play, policy=task["expert"](), observers=[Recorder()]),
            "acting": partial(play, policy=StreamingPolicy(module.model, module.context_length)),
        }
        with threads(1):
            spent = take_turns(works, seconds, least=2)
            steps = {name: sum(episode.length for episode in work()) for name, work in works.items()}
        vector.close()
        rates = {f"{name}, env steps/s": steps[name] / spent[name] for name in works}
        rows.append({"task": vector.spec.name, "envs": num_envs, **rates})
    return rows


@dataclass(frozen=True)
class ActingCost:
    """After `history` steps: `ms` of a step of all environments together, and `state_bytes` of each of them.

    The milliseconds are of processor time, which other work on the machine leaves as they are. The bytes are those of
    all that the next action depends on (a snapshot of the policy), the most of the steps timed.
    """

    history: int
    ms: float
    state_bytes: int


def cost_of_acting(
    model: SequenceModel, context_length: int, num_envs: int = 1, histories: Sequence[int] = (TIMED,)
) -> Iterator[ActingCost]:
    """The cost at each length of history, all of one long episode, numpy in and out, on one thread.

    histories: numbers of steps, rising. Timed are the last steps on the way there, whole segments of them where the
    history has so many: the writing of memory has its share.
    """
    policy = StreamingPolicy(model.eval(), context_length)
    policy.start(num_envs)
    observation = blank(model.spec, num_envs)
    reward, timed, done = np.zeros(num_envs, np.float32), -(-TIMED // context_length) * context_length, 0
    with threads(1):
        for history in histories:
            last, took, held = min(timed, history - done), 0.0, 0
            while done < history:
                begin = time.process_time()
                policy.observe(policy.act(observation, np.full(num_envs, done == 0)), reward)
                done += 1
                if history - done < last:
                    took += time.process_time() - begin
                    held = max(held, bytes_of(tensors_of(policy.snapshot())) // num_envs)
            yield ActingCost(history, 1e3 * took / last, held)
