"""How often a policy does what the expert would do, by who acts: `python -m docs.measure_agreement CHECKPOINT ...`.

On steps to which the expert leads, and on steps to which the policy leads itself, both are asked. Where the first share
is low, the policy cannot tell what the expert does; where only the second is low, errors compound. POPGym's tasks;
--seeds FROM TO are others than 0 to 199, which no data are collected from.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np
import torch

from elmur.checkpoint import load_policy
from envs.experts.popgym import expert_for
from envs.popgym import make_vector
from envs.rollout import Observer, Policy, PreferringPolicy, Wave, rollout

SIDE_BY_SIDE = 100
COLUMNS = ("task", "acts", "steps", "same action", "equally good", "worth", "return")


class Beside(Observer):
    """Asks another policy at every step of a wave, and compares the answers of the expert and the learner."""

    def __init__(self, asked: Policy, expert: Policy) -> None:
        self.asked, self.expert = asked, expert
        self.same: list[Any] = []
        self.worth: list[Any] = []

    def on_reset(self, wave: Wave) -> None:
        self.asked.start(wave.env.num_envs)

    def on_action(self, wave: Wave, action: np.ndarray) -> np.ndarray:
        said = self.asked.act(wave.observation, np.full(wave.env.num_envs, wave.count == 0))
        shown, learned = (said, action) if self.asked is self.expert else (action, said)
        held = np.zeros((len(action), wave.env.spec.action.sizes[0]))  # type: ignore[union-attr]
        held[np.arange(len(action)), shown] = 1.0
        if isinstance(self.expert, PreferringPolicy):
            held = self.expert.preferences()
        self._row = shown == learned, held[np.arange(len(action)), learned] / held.max(axis=1), wave.active
        return action

    def on_step(self, wave: Wave) -> None:
        self.asked.observe(wave.action, wave.step.reward)
        same, worth, active = self._row
        counted = active & wave.step.loss_mask
        self.same += same[counted].tolist()
        self.worth += worth[counted].tolist()


def rows(checkpoint: str, seeds: range) -> list[str]:
    """Two rows of the table: the expert acts, the policy acts."""
    learner = load_policy(checkpoint)
    task = learner.model.spec.name
    found = []
    for who in ("expert", "policy"):
        expert, env = expert_for(task), make_vector(min(SIDE_BY_SIDE, len(seeds)), task)
        acts, asked = (expert, learner) if who == "expert" else (learner, expert)
        beside = Beside(asked, expert)
        returns = np.array([episode.episode_return for episode in rollout(env, acts, seeds, observers=[beside])])
        env.close()
        worth, error = np.array(beside.worth), returns.std() / np.sqrt(len(returns))
        shares = f"{np.mean(beside.same):.3f} | {np.mean(worth == 1):.3f} | {worth.mean():.3f}"
        name = task.removeprefix("popgym-").removesuffix("-v0")
        found.append(f"| {name} | {who} | {len(worth)} | {shares} | {returns.mean():.3f} ± {error:.3f} |")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT")
    parser.add_argument("--seeds", nargs=2, type=int, default=(0, 200), metavar=("FROM", "TO"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    sys.stdout.write(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|\n")
    with torch.no_grad():
        for path in given.checkpoints:
            sys.stdout.write("\n".join(rows(path, range(*given.seeds))) + "\n")
            sys.stdout.flush()
