"""What popgym.md says of look-ups in memory: `python -m docs.measure_lookup CHECKPOINT [--seeds FROM TO]`.

The expert at Concentration plays. Whenever it turns over a card that it has seen before, other than the last one, the
policy of the checkpoint, which sees the same, is asked as well. Counted by how many segments ago that card was seen.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from elmur.checkpoint import load_policy
from envs.experts.popgym import expert_for
from envs.popgym import make_vector


def main(checkpoint: str, seeds: range) -> None:
    """Write the table of look-ups, and the share of attention that each head gives to slots that were never written."""
    policy = load_policy(checkpoint)
    task, context = policy.model.spec.name, policy.context_length
    env, expert = make_vector(len(seeds), task), expert_for(task)
    heads = Heads(policy)
    observation, active = env.reset(list(seeds)), np.ones(len(seeds), np.bool_)
    policy.start(len(seeds))
    expert.start(len(seeds))
    last_seen = np.full((len(seeds), env.spec.action.sizes[0]), -1)  # type: ignore[union-attr]
    found = defaultdict(list)
    for step in range(env.spec.horizon or 0):
        first = np.full(len(seeds), step == 0)
        turned = observation["previous_action"][:, 0] - 1
        last_seen[turned >= 0, turned[turned >= 0]] = step
        wanted, said = expert.act(observation, first), policy.act(observation, first)
        ago = step // context - last_seen[np.arange(len(seeds)), wanted] // context
        known = active & (last_seen[np.arange(len(seeds)), wanted] >= 0) & (wanted != turned)
        for row in np.flatnonzero(known):
            found[int(ago[row])].append(bool(said[row] == wanted[row]))
            if ago[row] > 0:
                heads.note(row)
        policy.observe(wanted, np.zeros(len(seeds), np.float32))
        result = env.step(wanted, active)
        observation, active = result.observation, active & ~(result.terminated | result.truncated)
    sys.stdout.write("| segments ago | asked | found |\n|---|---|---|\n")
    for ago_, answers in sorted(found.items()):
        sys.stdout.write(f"| {ago_} | {len(answers)} | {np.mean(answers):.2f} |\n")
    sys.stdout.write(heads.table())


class Heads:
    """What every reading head gave to never-written slots, at the steps that were noted."""

    def __init__(self, policy: Any) -> None:
        self.policy, self.weights, self.shares = policy, {}, defaultdict(list)  # type: ignore[var-annotated]

    def see(self, what: str, layer: int, weights: Tensor) -> None:
        """Keep the reading attention of the newest token [N, H, M]."""
        if what == "read":
            self.weights[layer] = weights[:, :, -1]

    def note(self, row: int) -> None:
        """Count the present step of this row."""
        for layer, weights in self.weights.items():
            bank = self.policy.memory()[layer]
            empty = bank.written_at[row] < 0
            self.shares[layer].append(weights[row][:, empty].sum(dim=-1).tolist())

    def table(self) -> str:
        """A line per layer."""
        lines = [
            f"layer {layer + 1}: on never-written slots {np.mean(shares, axis=0).round(2).tolist()}"
            for layer, shares in sorted(self.shares.items())
        ]
        return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--seeds", nargs=2, type=int, default=(500_000, 500_032), metavar=("FROM", "TO"))
    given = parser.parse_args()
    with torch.no_grad():
        main(given.checkpoint, range(*given.seeds))
