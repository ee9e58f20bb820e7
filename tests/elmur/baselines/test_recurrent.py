"""The GRU baseline against its equations in numpy, the LSTM against torch's own cell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit

from elmur.baselines.mlp import MLPPolicy
from elmur.baselines.recurrent import GRU, LSTM
from elmur.spec import Discrete, TaskSpec, Vector
from elmur.testing import check_step_is_window
from tests.elmur.samples import SPEC, make_batch

D = 6


def make(**sizes: float) -> GRU:
    torch.manual_seed(0)
    return GRU(SPEC, d_model=D, **sizes).double().eval()  # type: ignore[arg-type]


def by_hand(model: GRU, x: np.ndarray, hidden: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Outputs `[T, D]` and the last hidden state of a one-layer GRU, reset, update and new gate in this order."""
    w = {name: value.detach().numpy() for name, value in model.net.named_parameters()}
    outputs = []
    for step in x:
        i = w["weight_ih_l0"] @ step + w["bias_ih_l0"]
        h = w["weight_hh_l0"] @ hidden + w["bias_hh_l0"]
        reset, update = expit(i[:D] + h[:D]), expit(i[D : 2 * D] + h[D : 2 * D])
        new = np.tanh(i[2 * D :] + reset * h[2 * D :])
        hidden = (1 - update) * new + update * hidden
        outputs.append(hidden)
    return np.stack(outputs), hidden


def test_two_segments_are_one_long_one() -> None:
    model, window = make(), make_batch(2, 6)
    memory, found = model.initial_memory(2), []
    for segment in window.split(3):
        output, memory = model(segment, memory)
        found.append(output.prediction)
    x = model.observation(window.observation).detach().numpy()
    head = model.head.state_dict()["linear.weight"].numpy()
    for b in range(2):
        hidden, last = by_hand(model, x[b], np.zeros(D))
        np.testing.assert_allclose(torch.cat(found, dim=1)[b].detach().numpy(), hidden @ head.T, atol=1e-12)
        np.testing.assert_allclose(memory[b, 0].detach().numpy(), last, atol=1e-12)


def test_the_state_begins_at_zero_with_the_lane_first() -> None:
    state = make(n_layer=2).initial_memory(3)
    assert state.shape == (3, 2, D) and not state.any() and state.dtype == torch.float64


def test_no_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="must be 1 or more; found 6, 0 and 6"):
        make(n_layer=0)
    with pytest.raises(ValueError, match="must be 1 or more; found 6, 1 and 0"):
        make(hidden=0)


@pytest.mark.parametrize(("token_format", "hidden"), [("s", None), ("sra", None), ("s", 9), ("sra", 4)])
def test_the_lstm_is_torchs_cell_step_by_step(token_format: str, hidden: int | None) -> None:
    torch.manual_seed(0)
    model = LSTM(SPEC, d_model=D, token_format=token_format, hidden=hidden).double().eval()
    cell, window = torch.nn.LSTMCell(D, hidden or D).double(), make_batch(2, 6)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in model.net.state_dict().items()})
    memory, found = model.initial_memory(2), []
    for segment in window.split(4):
        output, memory = model(segment, memory)
        found.append(output.prediction)
    h = c = torch.zeros(2, hidden or D, dtype=torch.float64)
    outputs = []
    for token in model.tokens(window).unbind(1):
        h, c = cell(token, (h, c))
        outputs.append(h)
    at = 0 if token_format == "s" else 1  # the state token
    expected = model.head(torch.stack(outputs, 1)[:, at :: len(token_format)])
    assert (torch.cat(found, 1) - expected).abs().max() < 1e-12
    assert all((mine[:, 0] - last).abs().max() < 1e-12 for mine, last in zip(memory, (h, c), strict=True))


def test_the_published_sizes() -> None:
    """The released models' numbers for T-Maze, less the tables that they own and do not use."""
    spec = TaskSpec("tmaze", {"state": Vector(4)}, Discrete((4,)))
    sizes: Any = {"d_model": 64, "hidden": 128}
    assert LSTM(spec, **sizes).num_parameters() == 100_480 - 5 * 64
    assert LSTM(spec, token_format="sra", **sizes).num_parameters() == 164_608 - 64_000
    assert GRU(spec, token_format="sra", **sizes).num_parameters() == 139_776 - 64_000
    assert MLPPolicy(spec, 64, (128, 128)).num_parameters() == 25_984 - 5 * 64


@torch.no_grad()
def test_tokens_of_another_width_stream_as_they_come() -> None:
    for kind in (GRU, LSTM):
        check_step_is_window(kind(SPEC, d_model=D, hidden=9, n_layer=2, token_format="sra").double().eval())
