"""What docs say of look-ups in memory: `python -m docs.measure_lookup CHECKPOINT [--seeds FROM TO]`.

The expert at Concentration plays. Whenever it turns over a card that it has seen before, other than the last one, the
policy of the checkpoint, which sees the same, is asked as well: whether it finds the card, by how many segments ago
that was seen, and where its heads look then. Last, what a slot holds of the step it was written from: the card's place
and face, by a linear map, of episodes that it was not fitted to.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from callbacks.inspect.attention import watched
from callbacks.inspect.probes import right
from elmur.banks import banks
from elmur.checkpoint import load_policy
from envs.experts.popgym import expert_for
from envs.popgym import make_vector


class Looked:
    """Where every reading head looked at the steps that were noted: at the slot of the card, at never-written ones."""

    def __init__(self, policy: Any) -> None:
        self.policy, self.weights = policy, dict[int, Tensor]()
        self.right, self.empty = defaultdict(list), defaultdict(list)  # type: ignore[var-annotated]

    def see(self, what: str, layer: int, weights: Tensor) -> None:
        """Keep the reading attention of the newest token [N, H, M]."""
        if what == "read":
            self.weights[layer] = weights[:, :, -1]

    def note(self, row: int, seen_at: int) -> None:
        """Count the present step of this row, whose card was seen at step `seen_at`."""
        for layer, weights in self.weights.items():
            dates = self.policy.memory()[layer].written_at[row]
            self.right[layer].append(weights[row][:, dates == seen_at].sum(dim=-1).tolist())
            self.empty[layer].append(weights[row][:, dates < 0].sum(dim=-1).tolist())


def main(checkpoint: str, seeds: range) -> None:
    """Write the tables."""
    policy = load_policy(checkpoint)
    task, context = policy.model.spec.name, policy.context_length
    env, expert, looked = make_vector(len(seeds), task), expert_for(task), Looked(policy)
    observation, active = env.reset(list(seeds)), np.ones(len(seeds), np.bool_)
    policy.start(len(seeds))
    expert.start(len(seeds))
    rows, horizon = np.arange(len(seeds)), env.spec.horizon or 0
    last_seen = np.full((len(seeds), env.spec.action.sizes[0]), -1)  # type: ignore[union-attr]
    cards = np.full((len(seeds), horizon, 2), -1)  # the place and the face that each step shows
    found = defaultdict(list)
    with watched(policy.model, looked.see):
        for step in range(horizon):
            first, turned = np.full(len(seeds), step == 0), observation["previous_action"][:, 0] - 1
            there = turned >= 0
            last_seen[there, turned[there]] = step
            cards[there, step] = np.stack([turned, observation["observation"][rows, turned]], axis=1)[there]
            wanted, said = expert.act(observation, first), policy.act(observation, first)
            seen_at = last_seen[rows, wanted]
            for row in np.flatnonzero(active & (seen_at >= 0) & (wanted != turned)):
                ago = step // context - seen_at[row] // context
                found[int(ago)].append(bool(said[row] == wanted[row]))
                if ago > 0:
                    looked.note(int(row), int(seen_at[row]))
            held = policy.memory()  # of the last segment, when this ends
            policy.observe(wanted, np.zeros(len(seeds), np.float32))
            result = env.step(wanted, active)
            observation, active = result.observation, active & ~(result.terminated | result.truncated)
    write("segments ago | asked | found", [[ago, len(of), np.mean(of)] for ago, of in sorted(found.items())])
    write(
        "layer | head | on the slot of the card | on never-written slots",
        [
            [
                layer + 1,
                head + 1,
                np.mean(looked.right[layer], axis=0)[head],
                np.mean(looked.empty[layer], axis=0)[head],
            ]
            for layer in sorted(looked.right)
            for head in range(len(looked.right[layer][0]))
        ],
    )
    write("layer | slots | place | face | place, shuffled | face, shuffled", list(contents(held, cards)))


def contents(memory: Any, cards: np.ndarray) -> Any:
    """For each bank how often the place and the face of the step that a slot was written from can be read from it."""
    rng = np.random.default_rng(0)
    for number, bank in enumerate(banks(memory).values()):
        if bank.written_at is None:  # of another model, which does not say from which step
            continue
        dates = bank.written_at.numpy()
        row, slot = np.nonzero(dates >= 0)
        labels = cards[row, dates[row, slot]]
        kept = labels[:, 0] >= 0
        features, labels = bank.slots.float().numpy()[row, slot][kept].astype(np.float64), labels[kept]
        shares = [right(features, of) / len(of) for of in (labels, labels[rng.permutation(len(labels))])]
        yield [number + 1, len(labels), *shares[0], *shares[1]]


def write(headings: str, lines: list[list[Any]]) -> None:
    """One table as Markdown, where there is any of it."""
    if not lines:
        return
    sys.stdout.write(f"| {headings} |\n{'|---' * (headings.count('|') + 1)}|\n")
    for line in lines:
        sys.stdout.write(f"| {' | '.join(f'{v:.2f}' if isinstance(v, float) else str(v) for v in line)} |\n")
    sys.stdout.write("\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--seeds", nargs=2, type=int, default=(500_000, 500_032), metavar=("FROM", "TO"))
    given = parser.parse_args()
    with torch.no_grad():
        main(given.checkpoint, range(*given.seeds))
