"""Pre- and post-norm around a sub-layer, the norms computed by numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from elmur.residual import PostNorm, PreNorm, Residual


def normed(x: np.ndarray, norm_type: str, gain: np.ndarray, shift: np.ndarray | None, eps: float) -> np.ndarray:
    if norm_type == "layer":
        assert shift is not None
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * gain + shift
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * gain


@pytest.mark.parametrize("norm_type", ["layer", "rmsnorm"])
@pytest.mark.parametrize("eps", [1e-8, 0.1])
@pytest.mark.parametrize("kind", [PreNorm, PostNorm])
def test_where_the_norm_sits(kind: type[Residual], norm_type: str, eps: float) -> None:
    torch.manual_seed(0)
    residual = kind(6, norm_type, eps).double()
    for parameter in residual.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    gain = residual.norm.weight.detach().numpy()
    shift = residual.state_dict()["norm.bias"].numpy() if norm_type == "layer" else None
    data = x.numpy()
    if kind is PreNorm:
        expected = data + 2 * normed(data, norm_type, gain, shift, eps) ** 2
    else:
        expected = normed(data + 2 * data**2, norm_type, gain, shift, eps)
    np.testing.assert_allclose(residual(x, lambda y: 2 * y**2).detach().numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", [PreNorm, PostNorm])
def test_what_is_given_beside_comes_out_beside(kind: type[Residual]) -> None:
    residual, x, beside = kind(6), torch.randn(2, 6), torch.tensor(3.0)
    stream, found = residual(x, lambda y: (2 * y, beside))
    assert found is beside and torch.equal(stream, residual(x, lambda y: 2 * y))


def test_rmsnorm_has_no_shift() -> None:
    assert [name for name, _ in PostNorm(4, "rmsnorm").named_parameters()] == ["norm.weight"]


def test_another_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="norm_type must be one of"):
        PreNorm(4, "batch")
