"""Heads: losses against numpy, acting, and which steps count."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from elmur.heads import CategoricalHead, ContinuousHead, head_for
from elmur.spec import Discrete, TaskSpec, Vector
from tests.elmur.samples import draws

D, A = 6, 4
G = torch.Generator().manual_seed(0)
MASK = torch.tensor([[True, True, False], [False, True, True]])


@pytest.mark.parametrize("smoothing", [0.0, 0.16, 1.0])
def test_cross_entropy_with_label_smoothing_and_mask(smoothing: float) -> None:
    head = CategoricalHead(D, Discrete((A,)))
    logits = torch.randn(2, 3, A, generator=G, dtype=torch.float64)
    action = torch.randint(A, (2, 3), generator=G)
    expected = 0.0
    for b, t in MASK.nonzero().tolist():
        z = logits[b, t].numpy()
        log_probability = z - np.log(np.exp(z).sum())
        target = np.full(A, smoothing / A)
        target[action[b, t]] += 1 - smoothing
        expected -= float(target @ log_probability)
    assert head.loss(logits, action, MASK, smoothing).item() == pytest.approx(expected, rel=1e-12)


def test_what_stands_behind_the_mask_does_not_count() -> None:
    head = CategoricalHead(D, Discrete((A,)))
    logits, action = torch.randn(2, 3, A, generator=G), torch.randint(A, (2, 3), generator=G)
    changed = torch.where(MASK.unsqueeze(-1), logits, 50.0)
    other = torch.where(MASK, action, -10)  # not even an action
    assert head.loss(logits, action, MASK, 0.1) == head.loss(changed, other, MASK, 0.1)
    assert head.score(logits, action, MASK) == head.score(changed, other, MASK)


def test_a_batch_of_padding_has_no_loss() -> None:
    nothing = torch.zeros_like(MASK)
    categorical, continuous = CategoricalHead(D, Discrete((A,))), ContinuousHead(D, Vector(2))
    assert categorical.loss(torch.randn(2, 3, A), torch.zeros(2, 3, dtype=torch.int64), nothing, 0.1).item() == 0
    assert continuous.loss(torch.randn(2, 3, 2), torch.zeros(2, 3, 2), nothing, 0.0).item() == 0


def test_categorical_score_counts_the_likeliest() -> None:
    logits = torch.eye(A)[torch.tensor([[0, 1, 2], [3, 0, 1]])]
    action = torch.tensor([[0, 2, 2], [1, 0, 0]])
    assert CategoricalHead(D, Discrete((A,))).score(logits, action, MASK).item() == 2, "one more is right but masked"


def test_greedy_and_sampled_actions() -> None:
    head = CategoricalHead(D, Discrete((3,)))
    probability = torch.tensor([0.6, 0.3, 0.1])
    logits = probability.log().expand(4000, 3)
    assert head.act(logits[:2], None).tolist() == [0, 0]
    drawn = head.act(logits, draws(5, 4000))
    assert torch.equal(drawn, head.act(logits, draws(5, 4000))), "the random numbers decide alone"
    np.testing.assert_allclose(np.bincount(drawn.numpy(), minlength=3) / 4000, probability.numpy(), atol=0.03)


def test_a_categorical_head_is_a_matrix() -> None:
    head = CategoricalHead(D, Discrete((A,)))
    x = torch.randn(2, 3, D, generator=G)
    torch.testing.assert_close(head(x), x @ head.linear.weight.T)
    assert [name for name, _ in head.named_parameters()] == ["linear.weight"], "no bias, as published"


def test_bounded_actions_stay_within_their_bounds() -> None:
    head = ContinuousHead(D, Vector(2, low=(-1.0, 2.0), high=(1.0, 6.0)))
    x = torch.randn(2, 3, D, generator=G)
    raw = (x @ head.linear.weight.T + head.linear.bias).detach().numpy()
    expected = np.stack([np.tanh(raw[..., 0]), 4 + 2 * np.tanh(raw[..., 1])], axis=-1)
    np.testing.assert_allclose(head(x).detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    far = head(1e4 * x)
    assert (far[..., 0].abs() <= 1).all() and (far[..., 1] >= 2).all() and (far[..., 1] <= 6).all()


@pytest.mark.parametrize("action", [Vector(2), Vector(2, low=(0.0, 0.0)), Vector(2, high=(0.0, 0.0))])
def test_unbounded_actions_are_linear(action: Vector) -> None:
    head = ContinuousHead(D, action)
    x = torch.randn(2, 3, D, generator=G)
    torch.testing.assert_close(head(x), x @ head.linear.weight.T + head.linear.bias)


def test_squared_error_is_a_mean_over_dimensions_and_a_sum_over_steps() -> None:
    head = ContinuousHead(D, Vector(2))
    found, wanted = torch.randn(2, 3, 2, generator=G), torch.randn(2, 3, 2, generator=G)
    loss = score = 0.0
    for b, t in MASK.nonzero().tolist():
        apart = (found[b, t] - wanted[b, t]).double().numpy()
        loss += float(apart @ apart) / 2
        score -= float(np.abs(apart).mean())
    assert head.loss(found, wanted, MASK, 0.0).item() == pytest.approx(loss, rel=1e-5)
    assert head.score(found, wanted, MASK).item() == pytest.approx(score, rel=1e-5)
    assert torch.equal(head.act(found[:, 0], None), found[:, 0])


def test_the_head_fits_the_action() -> None:
    observation = {"o": Vector(1)}
    assert isinstance(head_for(TaskSpec("t", observation, Discrete((2,))), D), CategoricalHead)
    assert isinstance(head_for(TaskSpec("t", observation, Vector(2)), D), ContinuousHead)
