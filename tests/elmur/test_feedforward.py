"""MLP and SwiGLU against numpy, and their initial weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import erf, expit

from elmur.feedforward import MLP, SwiGLU
from elmur.moe import MixtureOfExperts

X = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def array(parameter: torch.Tensor) -> np.ndarray:
    return parameter.detach().numpy()


def test_mlp() -> None:
    net = MLP(6, d_ff=10).double()
    for bias in (net.up.bias, net.down.bias):
        torch.nn.init.normal_(bias)
    hidden = X.numpy() @ array(net.up.weight).T + array(net.up.bias)
    gelu = hidden * 0.5 * (1 + erf(hidden / math.sqrt(2)))
    out, balance = net(X)
    np.testing.assert_allclose(array(out), gelu @ array(net.down.weight).T + array(net.down.bias), atol=1e-12)
    assert balance is None


def test_swiglu() -> None:
    net = SwiGLU(6, d_ff=10).double()
    gate, up = X.numpy() @ array(net.gate_up.weight[:10]).T, X.numpy() @ array(net.gate_up.weight[10:]).T
    out, balance = net(X)
    np.testing.assert_allclose(array(out), (gate * expit(gate) * up) @ array(net.down.weight).T, atol=1e-12)
    assert balance is None
    assert [name for name, _ in net.named_parameters()] == ["gate_up.weight", "down.weight"], "no biases"


def test_fused_matrices_begin_as_wide_as_if_they_were_apart() -> None:
    """Xavier-uniform of a `[48, 32]` matrix reaches sqrt(6 / 80); of gate and up as one it would be sqrt(6 / 128)."""
    weight = SwiGLU(32, d_ff=48).gate_up.weight
    for block in (weight[:48], weight[48:]):
        assert 0.95 * math.sqrt(6 / 80) < block.abs().max().item() <= math.sqrt(6 / 80)


@pytest.mark.parametrize("kind", [MLP, SwiGLU])
def test_dropout_acts_in_training_only(kind: type[MLP] | type[SwiGLU]) -> None:
    net = kind(6, dropout=0.5).double()
    assert not torch.equal(net(X)[0], net(X)[0])
    net.eval()
    assert torch.equal(net(X)[0], net(X)[0])


@pytest.mark.parametrize("routed", [1, 2])
def test_gradients_of_experts_by_finite_differences(routed: int) -> None:
    torch.manual_seed(0)
    net = MixtureOfExperts(6, 0.0, 3, routed + 1, 1, routed_d_ff=2, shared_d_ff=3).double()
    x = X.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda *_: net(x)[0], (x, *net.parameters()), fast_mode=True)
