"""What episode i of a collection is: its seed, and how far it is not the expert's own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FIRST_SEED = 1_000_000  # seeds below are for evaluation, so that no evaluated episode was trained on
MIXTURE_STREAM = 3  # apart from the streams of collection


@dataclass(frozen=True)
class Disturbed:
    """How far episodes are not the expert's own, so that their returns differ.

    noise: probability that an expert's action is replaced by a random one; those steps are masked out of the loss.
    mixture: share of whole episodes that are random play; these count in the loss, for a policy that is asked for a
    return is to learn what a low one looks like.
    """

    noise: float = 0.0
    mixture: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name}: expected a share from 0 to 1, found {value}")

    def random_play(self, seed: int, number: int) -> bool:
        """Whether episode `number` is random play: a function of the arguments alone."""
        return bool(np.random.default_rng([seed, number, MIXTURE_STREAM]).random() < self.mixture)


def episode_seed(seed: int, number: int) -> int:
    """The env's seed of episode `number`, FIRST_SEED to 2**31 - 1, a function of the two arguments alone.

    Its parity is that of `number`, so that what an environment ties to the parity of its seed (the T-Maze's goal side)
    is balanced in every run of consecutive episodes.
    """
    word = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    drawn = FIRST_SEED + word % (2**31 - FIRST_SEED)
    return drawn - drawn % 2 + number % 2
