"""Feed-forward networks applied to every token or slot by itself: `[..., D] -> [..., D]` and a balance loss or None."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elmur.dropout import Dropout
from elmur.kernels import gated

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu}


class MLP(nn.Module):
    """Linear, activation (gelu or relu), Linear; with biases."""

    def __init__(self, d_model: int, dropout: float = 0.0, d_ff: int = 128, activation: str = "gelu") -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}; found {activation!r}")
        self.activation = ACTIVATIONS[activation]
        self.up = nn.Linear(d_model, d_ff)
        self.down = nn.Linear(d_ff, d_model)
        self.dropout = Dropout(dropout)
        init_linear(self.up, self.down)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.dropout(self.down(self.dropout(self.activation(self.up(x))))), None


class SwiGLU(nn.Module):
    """down(dropout(silu(gate x) * up x)) without biases; gate and up are one product."""

    def __init__(self, d_model: int, dropout: float = 0.0, d_ff: int = 128) -> None:
        super().__init__()
        self.gate_up = nn.Linear(d_model, 2 * d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)
        self.dropout = Dropout(dropout)
        xavier_blocks(self.gate_up.weight, [d_ff, d_ff])
        init_linear(self.down)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.down(gated(self.gate_up(x), self.dropout.rate)), None


def init_linear(*layers: nn.Linear) -> None:
    """Xavier-uniform weights and zero biases, as published."""
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


@torch.no_grad()
def xavier_blocks(weight: Tensor, rows: list[int]) -> None:
    """Xavier-uniform on each block of rows by itself: several matrices that are stored as one."""
    for block in weight.split_with_sizes(rows):
        nn.init.xavier_uniform_(block)
