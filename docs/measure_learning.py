"""CPU time of one update by each way of learning, on one thread: `python -m docs.measure_learning`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from elmur.baselines.diffusion_policy import DiffusionPolicy
from elmur.baselines.recurrent import GRU
from elmur.batch import Outcome
from elmur.module import SequenceModule
from elmur.objectives.cql import CQL
from elmur.objectives.iql import IQL
from elmur.objectives.objective import Cloning, Objective
from elmur.optim import adamw
from elmur.spec import Discrete, TaskSpec, Vector
from elmur.testing import random_steps

UPDATES = 7
TMAZE = TaskSpec("T-Maze", {"state": Vector(4)}, Discrete((4,))), (64, 10, 3)  # lanes, steps, segments
PENDULUM = TaskSpec("Pendulum", {"state": Vector(3)}, Vector(1, (-2.0,), (2.0,))), (16, 32, 4)
GRU_128 = partial(GRU, d_model=128)
ROWS: list[tuple[tuple[TaskSpec, tuple[int, int, int]], Callable[..., Any], Objective]] = [
    *((task, GRU_128, objective()) for task in (TMAZE, PENDULUM) for objective in (Cloning, CQL, IQL)),
    (PENDULUM, DiffusionPolicy, Cloning()),
]


def measure(spec: TaskSpec, sizes: tuple[int, int, int], model: Callable[..., Any], objective: Objective) -> str:
    """A row of the table: the median of some updates, forward, backward, optimizer and target."""
    lanes, length, segments = sizes
    module = SequenceModule(model, length, objective=objective)
    module.build_model(spec)
    window, after = random_steps(spec, lanes, length * segments + 1, dtype=torch.float32).split(length * segments)
    no = torch.zeros(lanes, dtype=torch.bool)
    batch = replace(window, is_last=no, outcome=Outcome(torch.zeros(window.mask.shape), no, after))
    optimizer, noise, seconds = adamw(module.model), torch.Generator().manual_seed(0), []
    for _ in range(UPDATES):
        begin = time.process_time()
        found = module.run_window(batch, "train", noise)
        optimizer.zero_grad()
        (found.loss / found.counted).backward()
        optimizer.step()
        module.objective.after_update(module.model)
        seconds.append(time.process_time() - begin)
    names = spec.name, type(module.model).__name__, type(objective).__name__
    return f"| {' | '.join(names)} | {module.model.num_parameters():,} | {1000 * sorted(seconds)[UPDATES // 2]:.0f} |"


if __name__ == "__main__":
    torch.set_num_threads(1)
    lines = ["| task | model | objective | parameters | ms |", "|---|---|---|--:|--:|"]
    sys.stdout.write("\n".join([*lines, *(measure(*task, model, objective) for task, model, objective in ROWS)]) + "\n")
