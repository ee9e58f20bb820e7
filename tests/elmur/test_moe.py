"""Mixture of experts against a loop over tokens and experts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit

from elmur import moe
from elmur.moe import MixtureOfExperts

D, ROUTED, SHARED = 6, 3, 5
X = torch.randn(2, 4, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def make(num_experts: int = 4, top_k: int = 3, n_shared_experts: int = 1, **more: float) -> MixtureOfExperts:
    torch.manual_seed(1)
    return MixtureOfExperts(
        D, 0.0, num_experts, top_k, n_shared_experts, routed_d_ff=ROUTED, shared_d_ff=SHARED, **more
    ).double()


def experts_of(net: MixtureOfExperts, n_shared: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(gate, up, down) of every expert, shared ones first, cut out of the fused matrices."""
    gate_up, down = net.gate_up.weight.detach().numpy(), net.down.weight.detach().numpy()
    half, begin, found = gate_up.shape[0] // 2, 0, []
    for width in [SHARED] * n_shared + [ROUTED] * net.num_experts:
        rows = slice(begin, begin + width)
        found.append((gate_up[:half][rows], gate_up[half:][rows], down[:, rows]))
        begin += width
    assert begin == half == down.shape[1]
    return found


def run_expert(expert: tuple[np.ndarray, np.ndarray, np.ndarray], x: np.ndarray) -> np.ndarray:
    gate, up, down = expert
    return down @ ((gate @ x) * expit(gate @ x) * (up @ x))


def picks(net: MixtureOfExperts, x: np.ndarray, count: int) -> dict[int, float]:
    """The `count` experts of the largest router probability, their probabilities made to sum to 1."""
    scores = net.router.weight.detach().numpy() @ x
    probability = np.exp(scores) / np.exp(scores).sum()
    best = sorted(range(len(scores)), key=lambda e: -probability[e])[:count]
    return {e: probability[e] / sum(probability[best]) for e in best}


@pytest.mark.parametrize("least", [-(2**40), 2**40], ids=["sorted", "dense"])
@pytest.mark.parametrize(
    ("num_experts", "top_k", "n_shared", "routed"),
    [(2, 3, 2, 1), (4, 2, 1, 1), (1, 1, 1, 1), (1, 1, 2, 1), (4, 3, 1, 2), (4, 3, 0, 3), (4, 4, 0, 4)],
)
def test_output_and_balance_are_those_of_the_loop(
    num_experts: int, top_k: int, n_shared: int, routed: int, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moe, "SORTING_SAVES", least)
    net = make(num_experts, top_k, n_shared, load_balancing_loss_coef=0.5)
    out, balance = net(X)
    experts, tokens = experts_of(net, n_shared), X.reshape(-1, D).numpy()
    count, weight = [0] * num_experts, [0.0] * num_experts
    for token, found in zip(tokens, out.detach().reshape(-1, D).numpy(), strict=True):
        chosen = picks(net, token, routed)
        expected = sum((run_expert(expert, token) for expert in experts[:n_shared]), np.zeros(D))
        for e, gate in chosen.items():
            expected = expected + gate * run_expert(experts[n_shared + e], token)
            count[e] += 1
            weight[e] += gate
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    picked = len(tokens) * routed
    loss = 0.5 * num_experts * sum(c / picked * w / picked for c, w in zip(count, weight, strict=True))
    assert balance is not None
    assert balance.item() == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize(("top_k", "n_shared"), [(2, 1), (3, 1), (2, 0)])
def test_tokens_sorted_by_expert_give_the_same_gradients(
    top_k: int, n_shared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, found = make(6, top_k, n_shared), []
    for least in (-(2**40), 2**40):
        monkeypatch.setattr(moe, "SORTING_SAVES", least)
        x = X.clone().requires_grad_()
        out, balance = net(x)
        loss = (out * X.cos()).sum() + balance
        found.append(torch.autograd.grad(loss, [x, *net.parameters()], allow_unused=True))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-13)


def test_tokens_are_sorted_where_that_saves_much_of_training() -> None:
    """Many wide experts, many tokens; not while acting, and not in a program of fixed shapes."""
    wide = MixtureOfExperts(64, 0.0, 16, 2, 1, routed_d_ff=128, shared_d_ff=128)
    many, few = torch.zeros(640, 64), torch.zeros(2, 64)
    assert wide._sorting_pays(many) and not wide._sorting_pays(few)
    assert not MixtureOfExperts(64, 0.0, 2, 2, 1, routed_d_ff=128, shared_d_ff=128)._sorting_pays(many)
    with torch.no_grad():
        assert not wide._sorting_pays(many)


def test_one_expert_has_a_constant_balance_loss() -> None:
    _, balance = make(1, 1, 1, load_balancing_loss_coef=0.01)(X)
    assert balance is not None and balance.item() == pytest.approx(0.01, rel=1e-6)


def test_one_routed_expert_per_token_leaves_the_router_without_gradient() -> None:
    net = make(4, 2, 1)
    out, balance = net(X)
    (out.square().sum() + balance).backward()
    assert net.router.weight.grad is None or net.router.weight.grad.abs().max() < 1e-15


def test_several_routed_experts_give_the_router_a_gradient_from_both_losses() -> None:
    net = make(4, 3, 1)
    out, balance = net(X)
    for loss in (out.square().sum(), balance):
        (gradient,) = torch.autograd.grad(loss, net.router.weight, retain_graph=True)
        assert gradient.abs().max() > 1e-6


def test_no_balance_loss_in_evaluation_or_without_coefficient() -> None:
    assert make().eval()(X)[1] is None
    assert make(load_balancing_loss_coef=0.0)(X)[1] is None


def test_gates_sum_to_one_over_the_picked() -> None:
    gates = make(4, 3, 1).route(X)
    assert torch.allclose(gates.sum(-1), torch.ones(2, 4, dtype=torch.float64))
    assert ((gates > 0).sum(-1) == 2).all()


def test_shared_experts_can_be_left_out() -> None:
    net = make(2, 1, 0)
    assert net.gate_up.weight.shape == (2 * 2 * ROUTED, D)


def test_each_expert_begins_as_wide_as_if_it_were_alone() -> None:
    net = make()
    for expert in experts_of(net, 1):
        bound = (6 / (expert[0].shape[0] + D)) ** 0.5
        for matrix in expert:
            assert 0.5 * bound < np.abs(matrix).max() <= bound


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ((2, 4, 1), "asks for 3 routed experts per token, but num_experts=2"),
        ((0, 1, 1), "num_experts must be 1 or more"),
        ((2, 1, -1), "n_shared_experts 0 or more"),
    ],
)
def test_impossible_numbers_of_experts_are_refused(sizes: tuple[int, int, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make(*sizes)
