"""Where the norm of a sub-layer sits (before it or after the sum), which norm it is, and how its output joins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from elmur.feedforward import init_linear, xavier_blocks

NORMS: dict[str, type[nn.LayerNorm] | type[nn.RMSNorm]] = {"layer": nn.LayerNorm, "rmsnorm": nn.RMSNorm}


class Residual(nn.Module):
    """Base: `residual(x, f)` adds what `f` makes of the stream to the stream `x`; `f` maps `[..., D]` to `[..., D]`.

    Where `f` gives a pair, as a feed-forward does with its balance loss, so does the residual: the new stream, and
    what `f` gave beside it.
    """

    def __init__(self, d_model: int, norm_type: str = "layer", eps: float = 1e-5) -> None:
        super().__init__()
        if norm_type not in NORMS:
            raise ValueError(f"norm_type must be one of {sorted(NORMS)}; found {norm_type!r}")
        self.norm = NORMS[norm_type](d_model, eps=eps)

    def source(self, x: Tensor) -> Tensor:
        """The stream as `f` sees it."""
        return x

    def cached(self, x: Tensor) -> Tensor:
        """The stream of before, out of a cache, as `f` sees it."""
        return self.source(x)

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        """The stream after `y` came out of `f`."""
        raise NotImplementedError

    def forward(self, x: Tensor, f: Callable[[Tensor], Any]) -> Any:
        made = f(self.source(x))
        if isinstance(made, tuple):
            y, beside = made
            return self.join(x, y), beside
        return self.join(x, made)


class PostNorm(Residual):
    """norm(x + f(x)), as published."""

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        return self.norm(x + y)


class PreNorm(Residual):
    """x + f(norm(x))."""

    def source(self, x: Tensor) -> Tensor:
        return self.norm(x)

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class Gate(nn.Module):
    """(1 - z) x + z h, between a stream x and a candidate y (Parisotto et al., 2020, equations 13 to 16).

    r = sigmoid(W_r y + U_r x), z = sigmoid(W_z y + U_z x - bias), h = tanh(W_g y + U_g (r x)). With a `bias` above 0
    the stream passes almost unchanged at first.
    """

    def __init__(self, d_model: int, bias: float = 2.0) -> None:
        super().__init__()
        self.of_candidate = nn.Linear(d_model, 3 * d_model, bias=False)  # W_r, W_z, W_g
        self.of_stream = nn.Linear(d_model, 2 * d_model, bias=False)  # U_r, U_z
        self.of_reset = nn.Linear(d_model, d_model, bias=False)  # U_g
        self.bias = nn.Parameter(torch.full((d_model,), bias))
        xavier_blocks(self.of_candidate.weight, [d_model] * 3)
        xavier_blocks(self.of_stream.weight, [d_model] * 2)
        init_linear(self.of_reset)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        reset, update, candidate = self.of_candidate(y).chunk(3, dim=-1)
        stream_reset, stream_update = self.of_stream(x).chunk(2, dim=-1)
        z = torch.sigmoid(update + stream_update - self.bias)
        h = torch.tanh(candidate + self.of_reset(torch.sigmoid(reset + stream_reset) * x))
        return (1 - z) * x + z * h


class Gated(PreNorm):
    """gate(x, relu(f(norm(x)))): the sum of PreNorm made a gate (GTrXL, Parisotto et al., 2020, section 3.2)."""

    def __init__(self, d_model: int, norm_type: str = "layer", eps: float = 1e-5, bias: float = 2.0) -> None:
        super().__init__(d_model, norm_type, eps)
        self.gate = Gate(d_model, bias)

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        return self.gate(x, torch.relu(y))
