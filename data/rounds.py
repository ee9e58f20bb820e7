"""Rounds of data set aggregation: the policy acts, the expert labels, and training goes on over all data so far."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

FOLDER = "rounds"  # in the folder of a run
SEED_STREAM = 0xDA66E12  # apart from the seeds of the expert's own episodes


@dataclass(frozen=True)
class Rounds:
    """When rounds take place, and what is done in each (Ross, Gordon and Bagnell 2011, algorithm 3.1).

    number: of rounds. episodes: labelled in each. updates: made after each; None: all updates of the run in equal parts
    before, between and after the rounds. expert_share: p; in round k every step is the expert's own with probability
    p ** k, so that 0 leaves all acting to the policy, and with 1 the expert acts alone.
    """

    number: int = 3
    episodes: int = 1000
    updates: int | None = None
    expert_share: float = 0.0

    def __post_init__(self) -> None:
        for name in ("number", "episodes", "updates"):
            value = getattr(self, name)
            if (type(value) is not int or value < 1) and not (name == "updates" and value is None):
                raise ValueError(f"rounds.{name}: expected 1 or more, found {value!r}")
        if not 0.0 <= self.expert_share <= 1.0:
            raise ValueError(f"rounds.expert_share: expected a share from 0 to 1, found {self.expert_share}")

    def updates_before(self, total: int) -> list[int]:
        """The updates made when each round takes place, in a run of so many, and at last all of them.

        Raises ValueError where they are too few.
        """
        of_each = self.updates or total // (self.number + 1)
        first = total - self.number * of_each if self.updates else of_each
        if min(of_each, first) < 1:
            wanted = f"more than {self.number * (self.updates or 1)}, some before each of {self.number} rounds"
            raise ValueError(
                f"trainer.max_steps={total}: expected {wanted} and some after; lower rounds.number or rounds.updates"
            )
        return [*(first + number * of_each for number in range(self.number)), total]

    def share_of_expert(self, number: int) -> float:
        """The probability that a step of round `number`, from 1, is the expert's own."""
        return float(self.expert_share**number)

    def seed(self, seed: int, number: int) -> int:
        """What the seeds of a round's episodes follow from, in a run of this seed."""
        return int(np.random.SeedSequence([seed, number, SEED_STREAM]).generate_state(1)[0])


def folder_of(run: Path, number: int) -> Path:
    """Where the shards of a round lie."""
    return run / FOLDER / f"round-{number}"
