"""Stable Hadamard memory against its equations, one step at a time, in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit

from elmur.baselines.shm import SEQUENCE, SHM, HadamardMemory, HadamardState
from elmur.state import tensors_of
from tests.elmur.samples import SPEC

D, H, L, STEPS = 6, 4, 5, 9


def make() -> HadamardMemory:
    torch.manual_seed(0)
    mixer = HadamardMemory(D, H, L).double()
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter)
    return mixer


def test_its_equations() -> None:
    mixer, tokens = make(), torch.randn(2, STEPS, D, dtype=torch.float64)
    matrices = torch.randn(2, H, H, dtype=torch.float64)
    out, state = mixer(tokens, HadamardState(matrices, torch.tensor([0, 700])))
    w = {name: value.detach().numpy() for name, value in mixer.named_parameters()}
    for lane, seen in enumerate((0, 700)):
        M = matrices[lane].numpy()
        for t in range(STEPS):
            x = tokens[lane, t].numpy()
            x = (x - x.mean()) / np.sqrt(x.var() + 1e-5) * w["norm.weight"] + w["norm.bias"]
            k, q = (np.maximum(w[f"{name}.weight"] @ x, 0) for name in ("key", "query"))
            k, q = k / (1e-5 + k.sum()), q / (1e-5 + q.sum())
            row = int(mixer.order[seen + t])
            calibration = 1 + np.tanh(np.outer(w["theta.weight"][row], w["calibrate.weight"] @ x))
            strength = expit(w["strength.weight"] @ x)
            M = M * calibration + np.outer(strength * (w["value.weight"] @ x), k)
            read = M @ q + w["shortcut.weight"] @ x + w["shortcut.bias"]
            expected = w["out.weight"] @ read + w["out.bias"]
            np.testing.assert_allclose(out[lane, t].detach().numpy(), expected, atol=1e-11)
        np.testing.assert_allclose(state.matrix[lane].detach().numpy(), M, atol=1e-11)
    assert state.seen.tolist() == [STEPS, 700 + STEPS]


def test_rows_are_drawn_evenly_and_are_the_same_in_every_model() -> None:
    order = HadamardMemory(D, H, L).order
    assert torch.equal(order, make().order) and len(order) == SEQUENCE
    assert (order.bincount() / SEQUENCE - 1 / L).abs().max() < 0.02
    mixer, x = make(), torch.randn(1, 3, D, dtype=torch.float64)
    state = mixer.initial(x, 1)
    again = mixer(x, HadamardState(state.matrix, state.seen + SEQUENCE))[0]
    assert torch.equal(mixer(x, state)[0], again)


def test_a_long_episode_stays_finite() -> None:
    torch.manual_seed(0)
    model = SHM(SPEC, d_model=8, memory_size=H)
    state = model.initial_memory(1)
    with torch.no_grad():
        for _ in range(10):
            x, state = model.recur(10 * torch.randn(1, 10_000, 8), state)
    assert x.isfinite().all() and all(tensor.isfinite().all() for tensor in tensors_of(state))


def test_sizes_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="must be 1 or more; found 256, 64, 0"):
        SHM(SPEC, rows=0)
