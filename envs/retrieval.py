"""Associative retrieval: n pairs of a key and a value are shown, then the value of one of the keys is asked for.

A pair takes five steps: one that shows both, and four in which nothing is shown. After all pairs three more steps show
nothing, and in the last one a key is shown with the question; an episode has 5 n + 4 steps. Only the last action
counts: reward 1 for the key's value. Keys differ within an episode, values are drawn independently; all follows from
the seed.

Success against n says how many pairs a memory holds: one that holds m of them and guesses otherwise reaches
m / n + (1 - m / n) / values.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from elmur.spec import Discrete, TaskSpec
from envs.seeded import Seeded
from envs.vector import SUCCESS, Observation, SyncVector

PART = "shown"
KEY, VALUE, ASKED = range(3)  # components: 0 for none, else 1 + the number; the question is 0 or 1
STEPS_PER_PAIR, STEPS_AFTER = 5, 4
KEYS, VALUES = 32, 8
_STREAM = 0xA550C  # apart from what else draws by the episode's seed


class Retrieval(Seeded):
    """An episode of n pairs, n drawn from `least` to `pairs`. `info["success"]` says whether the answer was right."""

    def __init__(self, pairs: int, least: int | None = None, keys: int = KEYS, values: int = VALUES) -> None:
        self._least, self._most, self._keys, self._values = least or pairs, pairs, keys, values
        part = Discrete((keys + 1, values + 1, 2))
        horizon = STEPS_PER_PAIR * pairs + STEPS_AFTER
        super().__init__(TaskSpec("retrieval", {PART: part}, Discrete((values,)), horizon=horizon))

    def begin(self, seed: int) -> Observation:
        """The first pair of the episode of this seed."""
        rng = np.random.default_rng([_STREAM, seed])
        number = int(rng.integers(self._least, self._most, endpoint=True))
        keys, values = rng.permutation(self._keys)[:number], rng.integers(self._values, size=number)
        asked = int(rng.integers(number))
        self._answer, self._step = int(values[asked]), 0
        self._shown = np.zeros((STEPS_PER_PAIR * number + STEPS_AFTER, 3), np.int64)
        pairs = self._shown[: STEPS_PER_PAIR * number].reshape(number, STEPS_PER_PAIR, 3)
        pairs[:, 0, KEY], pairs[:, 0, VALUE] = 1 + keys, 1 + values
        self._shown[-1, [KEY, ASKED]] = 1 + keys[asked], 1
        return {PART: self._shown[0]}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """The next step; what the action was matters in the last one alone, as `info["loss_mask"]` says."""
        last = self._step == len(self._shown) - 1
        right = last and int(action) == self._answer
        self._step += 1
        shown = self._shown[min(self._step, len(self._shown) - 1)]
        return {PART: shown}, float(right), last, False, {SUCCESS: right, "loss_mask": last}


def make_vector(
    num_envs: int, pairs: int, least: int | None = None, keys: int = KEYS, values: int = VALUES
) -> SyncVector:
    """`num_envs` environments in which `least` to `pairs` pairs are shown, `pairs` where `least` is not given."""
    if not 1 <= (least or pairs) <= pairs <= keys:
        raise ValueError(f"pairs: expected 1 <= least <= pairs <= keys={keys}; found least={least}, pairs={pairs}")
    if values < 2:
        raise ValueError(f"values: expected 2 or more; found {values}")
    return SyncVector([partial(Retrieval, pairs, least, keys, values)] * num_envs)


def variants(numbers: Sequence[int]) -> dict[str, dict[str, int]]:
    """Arguments of `make_vector` for each number of pairs, by the name that results carry."""
    return {f"n={number}": {"pairs": number} for number in numbers}
