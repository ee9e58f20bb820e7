"""The experts' table in mikasa.md, measured on this machine: `python -m docs.measure_experts [TASK ...]`.

A task is one such as ChainOfColors7-v0; without one all that need no download are measured, in some 20 minutes on one
core. --seeds FROM TO are others than 100 to 149.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np

from envs.experts.mikasa import expert_for
from envs.mikasa import METRICS, TASKS, in_this_process
from envs.observers import Recorder
from envs.rollout import rollout

SIDE_BY_SIDE = 10


def main(asked: list[str], seeds: range) -> None:
    """A row of the table per task."""
    columns = ("task", "steps", "once", "at end", "seeds", "at a bound", "s")
    sys.stdout.write(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|\n")
    for task in asked:
        sys.stdout.write(row(task, seeds) + "\n")
        sys.stdout.flush()


def row(task: str, seeds: range) -> str:
    """How the expert of a task does: success at any step and at the last one, and what its actions are."""
    begin = time.perf_counter()
    env = in_this_process(min(SIDE_BY_SIDE, len(seeds)), task)
    episodes = rollout(env, expert_for(task), list(seeds), observers=[Recorder()])
    env.close()
    actions = np.concatenate([episode.steps.action for episode in episodes if episode.steps is not None])
    if np.abs(actions).max() > 1.0:
        raise ValueError(f"{task}: the expert left the bounds, {np.abs(actions).max()}")
    once, at_end = (np.mean([episode.metrics[key] for episode in episodes]) for key in METRICS)
    at_bound = (np.abs(actions[:, :7]) >= 1.0).any(axis=1).mean()
    failed = [episode.seed for episode in episodes if not episode.success]
    sys.stderr.write(f"{task}: failed {failed}\n")
    seconds = time.perf_counter() - begin
    return (
        f"| {task.removesuffix('-v0')} | {episodes[0].length} | {once:.2f} | {at_end:.2f} | {len(seeds)} "
        f"| {at_bound:.2f} | {seconds:.0f} |"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="such as ChainOfColors7-v0")
    parser.add_argument("--seeds", nargs=2, type=int, default=(100, 150), metavar=("FROM", "TO"))
    given = parser.parse_args()
    main(given.tasks or [task for task in TASKS if not task.startswith("ShellGame")], range(*given.seeds))
