"""What docs/gpu.md says of when a policy knows where to go: `python -m docs.measure_choice CHECKPOINT`.

On episodes of RememberColor that nobody was trained on, or with --trained on the first that are collected, the expert
acts and the policy is asked beside it. For the steps around the one at which the cubes appear: the correlation of the
two commands to the first joint, which turns the arm to its cube, and the mean squared difference of all commands. From
two cameras; without a GPU a step takes 0.15 s.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from data.disturbed import episode_seed
from docs.measure_lookup import write
from elmur.checkpoint import load_policy
from envs.experts.mikasa import expert_for
from envs.mikasa import make_vector

SHOWN = range(9, 14)  # steps; the cubes are shown from step 10 on
FIRST_SEED = 600_000


def main() -> None:
    """The table of a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--renderer", choices=["cpu", "gpu"], default="cpu", help="what makes the pictures")
    parser.add_argument("--trained", action="store_true", help="the episodes that a collection begins with")
    given = parser.parse_args()
    policy, count = load_policy(given.checkpoint), given.episodes
    task = policy.model.spec.name
    env = make_vector(count, task, "rgb", privileged=True, renderer=given.renderer)
    expert, alive, nothing = expert_for(task), np.ones(count, np.bool_), np.zeros(count, np.float32)
    shown = env.reset([episode_seed(0, i) if given.trained else FIRST_SEED + i for i in range(count)])
    lines: list[list[Any]] = []
    for actor in (expert, policy):
        actor.start(count)
    for step in range(SHOWN.stop):
        begins = np.full(count, step == 0)
        done = expert.act(shown, begins)
        policy.act({name: shown[name] for name in env.spec.observation}, begins)
        said = policy.prediction.reshape(count, -1)[:, : done.shape[1]].numpy()
        if step in SHOWN:
            same = np.corrcoef(done[:, 0], said[:, 0])[0, 1]
            lines.append([step, float(same), f"{np.square(done - said).mean():.4f}"])
        for actor in (expert, policy):
            actor.observe(done, nothing)
        shown = env.step(done, alive).observation
    env.close()
    write("step | correlation, first joint | squared difference", lines)


if __name__ == "__main__":
    main()
