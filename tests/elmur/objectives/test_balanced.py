"""Balanced cloning: the loss counted out step by step, shares of actions, and what it is for."""

from __future__ import annotations

from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch

from elmur import ranks
from elmur.baselines.recurrent import GRU
from elmur.module import SequenceModule
from elmur.objectives.balanced import Balanced, step_weights
from elmur.objectives.objective import Cloning
from elmur.spec import TaskSpec, Vector
from tests.elmur.objectives.test_preferences import Fixed, given


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_each_step_counts_by_the_frequency_of_its_action(power: float) -> None:
    batch, logits, counted = given(lanes=4, steps=9)
    model = Fixed(logits)
    found, _ = Balanced(power).window(model, batch, list(batch.split(4)), (), True)
    steps = [(lane, step, int(batch.action[lane, step])) for lane, step in zip(*np.nonzero(counted), strict=True)]
    often = Counter(action for *_, action in steps)
    weights = [often[action] ** -power for *_, action in steps]
    expected = 0.0
    for (lane, step, action), weight in zip(steps, weights, strict=True):
        scores = logits[lane, step].double().numpy()
        expected += weight * len(steps) / sum(weights) * (np.log(np.exp(scores).sum()) - scores[action])
    assert float(found.loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert int(found.counted) == len(steps)
    found.loss.backward()
    assert model.logits.grad is not None
    assert ((model.logits.grad.abs().sum(-1) > 0).numpy() == counted).all()


def test_two_ranks_weigh_their_steps_as_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    action = torch.tensor([[0, 0, 1, 0], [2, 1, 1, 1]])
    mask = torch.tensor([[True, True, True, False], [True, True, False, True]])
    # By hand: 2 of the six steps are action 0, 3 are action 1 and one is action 2; each action weighs 2 in all.
    by_hand = torch.tensor([[1, 1, 2 / 3, 0], [2, 2 / 3, 0, 2 / 3]])
    torch.testing.assert_close(step_weights(action, mask, 3, 1.0), by_hand)
    both, said = Barrier(2, timeout=10), deque[torch.Tensor](maxlen=2)

    def total(values: torch.Tensor) -> torch.Tensor:
        said.append(values)
        both.wait()
        summed = said[0] + said[1]
        both.wait()
        return summed

    monkeypatch.setattr(ranks, "total", total)
    with ThreadPoolExecutor(2) as ranks_of_two:
        halves = ranks_of_two.map(lambda lane: step_weights(action[lane], mask[lane], 3, 1.0), ([0], [1]))
        torch.testing.assert_close(torch.cat(list(halves)), by_hand)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_without_power_it_is_cloning(smoothing: float) -> None:
    batch, logits, _ = given()
    cloned, _ = Cloning(smoothing).window(Fixed(logits), batch, list(batch.split(3)), (), True)
    found, _ = Balanced(0.0, smoothing).window(Fixed(logits), batch, list(batch.split(3)), (), True)
    assert float(found.loss.detach()) == pytest.approx(float(cloned.loss.detach()), rel=1e-6)
    assert int(found.score) == int(cloned.score)


def test_at_power_one_every_action_that_occurs_has_the_same_share() -> None:
    action = torch.tensor([[3] + 98 * [0] + [1], [3] + 98 * [0] + [4]])
    mask = torch.ones_like(action, dtype=torch.bool)
    mask[1, -1] = False  # the only 4 does not count
    weight = step_weights(action, mask, 5, 1.0)
    shares = [float(weight[action == a].sum() / weight.sum()) for a in range(5)]
    assert shares == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3, 0])
    assert float(weight.sum()) == pytest.approx(199)


def test_a_window_in_which_no_step_counts_has_no_loss() -> None:
    batch, logits, _ = given()
    batch.loss_mask = torch.zeros_like(batch.loss_mask)
    found, _ = Balanced().window(Fixed(logits), batch, list(batch.split(3)), (), True)
    assert (float(found.loss.detach()), int(found.counted)) == (0.0, 0)


def test_what_cannot_be_balanced_is_refused() -> None:
    with pytest.raises(ValueError, match="power must be from 0 to 1; found -1"):
        Balanced(-1)
    numbers = TaskSpec("steering", {"state": Vector(2)}, Vector(1, (-1.0,), (1.0,)))
    module = SequenceModule(lambda spec: GRU(spec, d_model=8), 3, objective=Balanced())
    with pytest.raises(ValueError, match=r"GRU ends in a ContinuousHead for .*steering; use module=imitation"):
        module.build_model(numbers)
