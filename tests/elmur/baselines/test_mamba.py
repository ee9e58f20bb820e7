"""The selective state space against its equations, one step at a time, in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit

from elmur.baselines.mamba import Mamba, SelectiveStateSpace
from elmur.optim import adamw
from elmur.state import tensors_of
from tests.elmur.samples import SPEC

D, N, E, K, STEPS = 6, 3, 12, 4, 9


def silu(x: np.ndarray) -> np.ndarray:
    return x * expit(x)


def by_hand(mixer: SelectiveStateSpace, u: np.ndarray) -> np.ndarray:
    """Outputs `[T, D]` for inputs `[T, D]` from an empty state."""
    w = {name: value.detach().numpy() for name, value in mixer.named_parameters()}
    rank = w["step.weight"].shape[1]
    A = -np.exp(w["A_log"].reshape(E, N))
    h, seen, outputs = np.zeros((E, N)), np.zeros((K, E)), []
    for token in u:
        x, z = np.split(w["into.weight"] @ token, 2)
        seen = np.concatenate([seen[1:], x[None]])
        x = silu((seen * w["convolution.weight"].T).sum(0) + w["convolution.bias"])
        low, write, read = np.split(w["select.weight"] @ x, [rank, rank + N])
        step = np.logaddexp(0, w["step.weight"] @ low + w["step.bias"])
        h = np.exp(step[:, None] * A) * h + (step * x)[:, None] * write[None]
        outputs.append(w["out.weight"] @ ((h @ read + w["skip"] * x) * silu(z)))
    return np.stack(outputs)


def test_its_equations() -> None:
    torch.manual_seed(0)
    mixer, u = SelectiveStateSpace(D, N, K).double(), torch.randn(2, STEPS, D, dtype=torch.float64)
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    out, state = mixer(u, mixer.initial(u, 2))
    for lane in range(2):
        np.testing.assert_allclose(out[lane].detach().numpy(), by_hand(mixer, u[lane].numpy()), atol=1e-12)
    assert state.space.shape == (2, N, E) and state.window.shape == (2, K - 1, E)


def test_time_steps_begin_between_a_thousandth_and_a_tenth() -> None:
    """So that the slowest numbers of a new model remember a thousand steps."""
    torch.manual_seed(0)
    mixer = SelectiveStateSpace(64)
    steps = torch.nn.functional.softplus(mixer.step.bias)
    assert 1e-3 <= steps.min() < 2e-3 and 0.05 < steps.max() <= 0.1
    assert torch.exp(-steps.min() * 1000) > 0.1


def test_what_decays_the_state_does_not_decay_itself() -> None:
    model = Mamba(SPEC, d_model=8)
    _, spared = adamw(model).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {"layers.0.mixer.A_log", "layers.0.mixer.skip", "layers.0.mixer.step.bias"} <= {
        names[id(parameter)] for parameter in spared["params"]
    }


def test_a_long_episode_stays_finite() -> None:
    torch.manual_seed(0)
    model = Mamba(SPEC, d_model=8, d_state=4)
    state = model.initial_memory(1)
    with torch.no_grad():
        for _ in range(10):
            x, state = model.recur(10 * torch.randn(1, 10_000, 8), state)
    assert x.isfinite().all() and all(tensor.isfinite().all() for tensor in tensors_of(state))


def test_the_norm_before_a_mixer_is_a_choice() -> None:
    model = Mamba(SPEC, d_model=D, n_layer=1, d_state=N, d_ff=8, norm_type="rmsnorm").double()
    layer, x = model.layers[0], torch.randn(1, STEPS, D, dtype=torch.float64)
    gain = torch.nn.init.normal_(layer.get_parameter("mixer_residual.norm.weight")).detach().numpy()
    mixer, seen = layer.get_submodule("mixer"), []
    layer.get_submodule("feedforward_residual").register_forward_hook(lambda module, given, out: seen.append(given[0]))
    layer(x, layer.initial(x, 1))
    u = x[0].numpy()
    normed = u / np.sqrt((u**2).mean(-1, keepdims=True) + 1e-5) * gain
    assert isinstance(mixer, SelectiveStateSpace)
    np.testing.assert_allclose(seen[0][0].detach().numpy(), u + by_hand(mixer, normed), atol=1e-12)
    assert isinstance(model.norm, torch.nn.LayerNorm)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"norm_type": "batch"}, "norm_type must be one of .*; found 'batch'"),
        ({"n_layer": 0}, "must be 1 or more; found 96, 0, 16 and 2"),
        ({"d_conv": 1}, "d_conv must be 2 or more; found 1"),
    ],
)
def test_sizes_that_cannot_be(sizes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Mamba(SPEC, **sizes)
