"""Random numbers of lanes: the published generator's, evenly spread, and of no lane but its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from elmur.draws import GOLDEN, Draws, mixed, words
from tests.elmur.samples import draws

# The first five numbers of splitmix64 seeded with 1234567, as the reference implementation in C prints them.
SPLITMIX = (
    6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821,
)  # fmt: skip


def test_words_are_those_of_splitmix64() -> None:
    states = words([1234567]) + np.arange(5, dtype=np.uint64) * GOLDEN
    assert mixed(states).tolist() == list(SPLITMIX)
    assert words([-1, 2**64 + 3]).tolist() == [2**64 - 1, 3]


def test_uniform_and_normal_numbers_have_their_moments_and_are_independent() -> None:
    """4000 lanes with neighbouring seeds, at neighbouring steps; limits are five standard errors."""
    lanes, limit = 4000, 5 / 4000**0.5
    for name, mean, deviation in (("uniform", 0.5, 12**-0.5), ("normal", 0.0, 1.0)):
        columns = []
        for step in (0, 1):
            at = draws(step, lanes)
            for _ in range(2):
                drawn = at.uniform(2) if name == "uniform" else at.normal(torch.zeros(lanes, 2, dtype=torch.float64))
                columns += list(drawn.T.numpy())
        found = np.stack(columns)
        assert np.abs(found.mean(axis=1) - mean).max() < limit * deviation
        assert np.abs(found.std(axis=1) / deviation - 1).max() < limit
        apart = np.corrcoef(found) - np.eye(len(found))
        assert np.abs(apart).max() < limit, "steps, calls and dimensions"
        assert abs(np.corrcoef(found[0, 1:], found[0, :-1])[0, 1]) < limit, "neighbouring seeds"


@pytest.mark.parametrize("others", [[], [5], list(range(99))])
def test_a_lane_draws_the_same_whichever_are_beside_it(others: list[int]) -> None:
    logits, action = torch.tensor([[0.0, 1.0, 0.5]]), torch.zeros(1, 2)
    alone = Draws(words([7]), np.array([3]))
    expected = alone.choice(logits), alone.normal(action), alone.uniform(4)
    together = Draws(words([*others, 7]), np.array([*([8] * len(others)), 3]))
    rows = len(others) + 1
    found = together.choice(logits.expand(rows, -1)), together.normal(action.expand(rows, -1)), together.uniform(4)
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one[0], other[-1])


def test_choices_have_the_probabilities_of_the_softmax_and_never_what_is_impossible() -> None:
    logits = torch.tensor([-torch.inf, 0.2, 1.5, -torch.inf, -1.0]).expand(20_000, 5)
    counted = torch.bincount(draws(0, 20_000).choice(logits), minlength=5) / 20_000
    np.testing.assert_allclose(counted.numpy(), logits[0].softmax(0).numpy(), atol=0.015)
    assert counted[0] == counted[3] == 0
