"""Random numbers of lanes that act side by side: each lane's are a function of its episode's seed and step alone.

There is no stream that lanes take turns at, so an episode goes the same way whichever act beside it, and on whatever
device: numbers are hashed on the CPU from a counter, by splitmix64 (Steele, Lea, Flood 2014).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

Words = npt.NDArray[np.uint64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MULTIPLIERS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31)
UNIT = 2.0**-53  # of a uniform number: float64 has 53 bits


def words(numbers: Sequence[int] | npt.NDArray[np.int64]) -> Words:
    """Whole numbers as 64-bit words, larger and negative ones by their last 64 bits."""
    return np.array([int(number) & (2**64 - 1) for number in numbers], dtype=np.uint64)


def mixed(state: Words) -> Words:
    """What splitmix64 says in these states; the state after it is `state + GOLDEN`."""
    z = state + GOLDEN
    z = (z ^ (z >> SHIFTS[0])) * MULTIPLIERS[0]
    z = (z ^ (z >> SHIFTS[1])) * MULTIPLIERS[1]
    return z ^ (z >> SHIFTS[2])


class Draws:
    """The random numbers of one step in N lanes. What is asked first is drawn first, by each lane for itself.

    episodes: the seed of each lane's episode `[N]`; steps: each lane's step within it `[N]`.
    """

    def __init__(self, episodes: Words, steps: npt.NDArray[np.int64]) -> None:
        self._states = mixed(mixed(episodes) + steps.astype(np.uint64))
        self._drawn = 0

    def uniform(self, *shape: int) -> Float[Tensor, "N ..."]:
        """Numbers from 0 up to below 1, float64 on the CPU, of this shape for every lane."""
        count = math.prod(shape)
        places = np.arange(self._drawn, self._drawn + count, dtype=np.uint64) * GOLDEN
        self._drawn += count
        drawn = (mixed(self._states[:, None] + places) >> np.uint64(11)) * UNIT
        return torch.from_numpy(drawn.reshape(-1, *shape))

    def normal(self, like: Float[Tensor, "N ..."]) -> Float[Tensor, "N ..."]:
        """Numbers from N(0, 1), with the shape, device and type of `like`, by the formula of Box and Muller."""
        radius, angle = self.uniform(*like.shape[1:]), self.uniform(*like.shape[1:])
        drawn = (-2 * torch.log1p(-radius)).sqrt() * torch.cos(2 * math.pi * angle)
        return drawn.to(like.device, like.dtype, non_blocking=True)  # ordinary memory: it is read before this returns

    def choice(self, logits: Float[Tensor, "N A"]) -> Int[Tensor, " N"]:
        """One of A for every lane, from the softmax: where a uniform number lies among the summed probabilities."""
        summed = logits.double().softmax(dim=-1).cumsum(dim=-1)
        place = self.uniform(1).to(logits.device, non_blocking=True) * summed[:, -1:]
        return (summed <= place).sum(dim=-1).clamp(max=logits.shape[-1] - 1)
