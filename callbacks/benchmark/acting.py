"""Speed of acting: streaming beside recomputing the open segment, and environments with an expert or a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from envs.observers import Recorder
from envs.rollout import Policy, rollout

MOST_STEPS, TASK_ENVS = 100, 64
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


def segment_of_acting(policy: Policy, spec: TaskSpec, num_envs: int, steps: int) -> Work:
    """Acting through one more segment, with all that goes with it: numpy in and out, a write, the next one opened."""
    batch = SegmentBatch.zeros(spec, num_envs, 1)
    observation = {name: part[:, 0].numpy() for name, part in batch.observation.items()}
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
