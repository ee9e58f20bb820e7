"""Fast and forgetful memory against the sum of decayed exponentials, written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit

from elmur.baselines.ffm import FFM, FadingTrace
from elmur.state import tensors_of
from tests.elmur.samples import SPEC

D, M, C, STEPS = 6, 4, 3, 11


def test_its_equations() -> None:
    torch.manual_seed(0)
    mixer, x = FadingTrace(D, M, C).double(), torch.randn(2, STEPS, D, dtype=torch.float64)
    out, state = mixer(x, mixer.initial(x, 2))
    w = {name: value.detach().numpy() for name, value in mixer.named_parameters()}
    for lane in range(2):
        inner = x[lane].numpy() @ w["into.weight"].T + w["into.bias"]
        value, through, gate_in, gate_out = np.split(inner, [M, M + D, 2 * M + D], axis=-1)
        seen, gate = value * expit(gate_in), expit(gate_out)
        for n in range(STEPS):
            exponent = -np.abs(w["rate"])[:, None] + 1j * w["angle"][None]
            S = sum(np.exp((n - k) * exponent) * seen[k][:, None] for k in range(n + 1))
            z = w["out.weight"] @ np.stack([S.real, S.imag], -1).reshape(-1) + w["out.bias"]
            z = (z - z.mean()) / np.sqrt(z.var() + 1e-5)
            expected = z * gate[n] + through[n] * (1 - gate[n])
            np.testing.assert_allclose(out[lane, n].detach().numpy(), expected, atol=1e-11)
        np.testing.assert_allclose(torch.view_as_complex(state[lane]).detach().numpy(), S, atol=1e-11)


def test_traces_begin_forgetting_after_7_to_1024_steps() -> None:
    rate = FadingTrace(D, M, C).rate.detach().abs()
    assert torch.allclose(torch.exp(-rate[0] * 7), torch.tensor(0.01))
    assert torch.allclose(torch.exp(-rate[-1] * 1024), torch.tensor(0.01))


def test_a_long_episode_stays_finite_and_bounded() -> None:
    """Whatever the sign of what was learned: a trace never grows by itself."""
    torch.manual_seed(0)
    model = FFM(SPEC, d_model=8, memory_size=M, context_size=C)
    with torch.no_grad():
        dict(model.named_parameters())["layers.0.rate"][1] *= -1
        state = model.initial_memory(1)
        for _ in range(10):
            x, state = model.recur(10 * torch.randn(1, 10_000, 8), state)
    assert x.isfinite().all() and all(tensor.abs().max() < 1e4 for tensor in tensors_of(state))


def test_sizes_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="must be 1 or more; found 128, 0, 8 and 1024"):
        FFM(SPEC, memory_size=0)
