"""Retention valves, each written out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from elmur.baselines.valve import CrossAttentionValve, GateValve, GRUValve, LSTMValve, PublishedValve, Valve

B, N, D = 3, 4, 6


def rand(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


READ, WRITTEN = rand(B, N, D, seed=1), rand(B, N, D, seed=2)


def noisy(valve: Any) -> Any:
    for name, parameter in valve.named_parameters():
        parameter.data = rand(*parameter.shape, seed=len(name))
    return valve.eval()


def test_no_valve_hands_on_what_was_written() -> None:
    assert Valve(D)(READ, WRITTEN, None) == (WRITTEN, None)


@torch.no_grad()
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("queries", ["read", "written"])
@pytest.mark.parametrize("name", ["relu", "leaky_relu", "elu", "tanh", "no_act"])
def test_cross_attention(name: str, queries: str, heads: int) -> None:
    valve = noisy(CrossAttentionValve(D, heads, mrv_act=name, queries=queries).double())
    weights, width = valve.attention, D // heads
    activation = {
        "relu": lambda x: max(x, 0.0), "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
        "elu": lambda x: x if x > 0 else math.exp(x) - 1, "tanh": math.tanh, "no_act": lambda x: x,
    }[name]  # fmt: skip
    asking, asked = (READ, WRITTEN) if queries == "read" else (WRITTEN, READ)
    source = asked.clone().apply_(activation)
    found, _ = valve(READ, WRITTEN, None)
    for lane in range(B):
        q = asking[lane] @ weights.query.weight.T + weights.query.bias
        k, v = (source[lane] @ weights.key_value.weight.T + weights.key_value.bias).split(D, dim=1)
        mixed = torch.zeros(N, D, dtype=torch.float64)
        for head in range(heads):
            own = slice(head * width, (head + 1) * width)
            for i in range(N):
                score = [float(q[i, own] @ k[j, own]) / math.sqrt(width) for j in range(N)]
                share = [math.exp(s) / sum(math.exp(t) for t in score) for s in score]
                mixed[i, own] = sum(share[j] * v[j, own] for j in range(N))
        expected = mixed @ weights.out.weight.T + weights.out.bias
        torch.testing.assert_close(found[lane], expected, rtol=1e-10, atol=1e-12)


def test_gate() -> None:
    valve = noisy(GateValve(D).double())
    w, b = valve.gate.weight, valve.gate.bias
    g = 1 / (1 + torch.exp(-(READ @ w[:, :D].T + WRITTEN @ w[:, D:].T + b)))
    torch.testing.assert_close(valve(READ, WRITTEN, None)[0], WRITTEN + g * (READ - WRITTEN))


def test_gru_is_torchs_layer_over_two_steps() -> None:
    """What was read as the hidden state, what was written as the input: one step of torch's own recurrent layer."""
    valve, layer = noisy(GRUValve(D).double()), torch.nn.GRU(D, D, batch_first=True).double()
    layer.load_state_dict({f"{name.removeprefix('cell.')}_l0": w for name, w in valve.state_dict().items()})
    expected, _ = layer(WRITTEN.view(B * N, 1, D), READ.view(1, B * N, D))
    torch.testing.assert_close(valve(READ, WRITTEN, None)[0], expected.view(B, N, D))


def test_lstm_carries_its_cell() -> None:
    valve, layer = noisy(LSTMValve(D).double()), torch.nn.LSTM(D, D, batch_first=True).double()
    layer.load_state_dict({f"{name.removeprefix('cell.')}_l0": w for name, w in valve.state_dict().items()})
    inputs = torch.stack([WRITTEN, rand(B, N, D, seed=3)], dim=2).view(B * N, 2, D)
    first, cell = valve(READ, WRITTEN, valve.initial(READ, None))
    second, _ = valve(first, rand(B, N, D, seed=3), cell)
    expected, _ = layer(inputs, (READ.view(1, B * N, D), torch.zeros(1, B * N, D, dtype=torch.float64)))
    torch.testing.assert_close(torch.stack([first, second], dim=2).view(B * N, 2, D), expected)


@torch.no_grad()
def test_published_dropout_is_on_while_acting_and_each_lanes_own() -> None:
    valve = PublishedValve(D, 2, dropatt=0.4).double()
    noisy(valve)
    seeds = valve.initial(READ, torch.Generator().manual_seed(0))
    before = torch.get_rng_state()
    found, after = valve(READ, WRITTEN, seeds)
    assert torch.equal(torch.get_rng_state(), before), "acting draws nothing from the generator of training"
    alone, _ = valve(READ[1:2], WRITTEN[1:2], seeds[1:2])
    torch.testing.assert_close(found[1:2], alone)
    again, _ = valve(READ, WRITTEN, after)
    assert (again - found).abs().amax(dim=(1, 2)).min() > 1e-3, "other noise in the next segment"
    clean, _ = CrossAttentionValve.forward(valve, READ, WRITTEN, seeds)
    # Dropout keeps the mean: what is dropped is made up for by what is kept.
    draws = torch.stack([valve(READ, WRITTEN, seeds + 10 * i)[0] for i in range(400)])
    spread = draws.std(0) / 400**0.5
    assert (spread > 0).all() and ((draws.mean(0) - clean).abs() < 5 * spread).all()


@torch.no_grad()
def test_published_valve_without_dropout_is_the_valve() -> None:
    valve = PublishedValve(D, 2).double()
    noisy(valve)
    torch.testing.assert_close(
        valve(READ, WRITTEN, torch.zeros(B, dtype=torch.int64))[0],
        CrossAttentionValve.forward(valve, READ, WRITTEN, 0)[0],
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mrv_act": "gelu"}, "mrv_act must be one of relu, leaky_relu, elu, tanh, no_act; found 'gelu'"),
        ({"queries": "both"}, "queries must be read or written; found 'both'"),
        ({"n_head_ca": 4}, "n_head_ca must be 1 or more and divide d_model=6; found 4"),
    ],
)
def test_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CrossAttentionValve(D, **changes)  # type: ignore[arg-type]
