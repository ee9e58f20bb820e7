"""Feed-forward networks applied to every token or slot by itself: `[..., D] -> [..., D]` and a balance loss or None."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from elmur.dropout import Dropout

BLOCK = 2**18  # numbers of hidden width that the backward pass of a gate takes at once, about a megabyte


class MLP(nn.Module):
    """Linear, GELU, Linear; with biases."""

    def __init__(self, d_model: int, dropout: float = 0.0, d_ff: int = 128) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, d_ff)
        self.down = nn.Linear(d_ff, d_model)
        self.dropout = Dropout(dropout)
        init_linear(self.up, self.down)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.dropout(self.down(self.dropout(F.gelu(self.up(x))))), None


class SwiGLU(nn.Module):
    """down(silu(gate x) * up x) without biases; gate and up are one product."""

    def __init__(self, d_model: int, dropout: float = 0.0, d_ff: int = 128) -> None:
        super().__init__()
        self.gate_up = nn.Linear(d_model, 2 * d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)
        self.dropout = Dropout(dropout)
        xavier_blocks(self.gate_up.weight, [d_ff, d_ff])
        init_linear(self.down)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        gate_up = self.gate_up(x)
        return self.down(gated(gate_up, self.dropout.factor(gate_up[..., : self.down.in_features]))), None


class _Gated(torch.autograd.Function):
    """`gated` with its gradient in as few passes over memory as can be: these are the widest numbers of the model."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor, factor: Tensor | None) -> Tensor:
        ctx.save_for_backward(gate_up, factor)
        return _gated(gate_up, factor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        gate_up, factor = ctx.saved_tensors
        width = grad.shape[-1]
        out = torch.empty_like(gate_up)
        # A block of rows at a time: what is computed in between stays in the processor's cache.
        block = max(1, BLOCK // width)
        grads = torch.split(grad.reshape(-1, width), block)
        factors = None if factor is None else torch.split(factor.view(-1, width), block)
        wide = zip(
            torch.split(gate_up.view(-1, 2 * width), block), torch.split(out.view(-1, 2 * width), block), strict=True
        )
        for i, (rows, of_gate_up) in enumerate(wide):
            gate, up = rows.chunk(2, dim=-1)
            of_gate, of_up = of_gate_up.chunk(2, dim=-1)
            part = grads[i] if factors is None else grads[i] * factors[i]
            torch.mul(part, F.silu(gate), out=of_up)
            torch.ops.aten.silu_backward.grad_input(part * up, gate, grad_input=of_gate)
        return out, None


def gated(gate_up: Tensor, factor: Tensor | None) -> Tensor:
    """silu(gate) * up * factor, where `gate_up` holds gates and ups side by side; `factor` is a constant."""
    if not (torch.is_grad_enabled() and gate_up.requires_grad):
        return _gated(gate_up, factor)
    out: Tensor = _Gated.apply(gate_up, factor)  # type: ignore[no-untyped-call]
    return out


def _gated(gate_up: Tensor, factor: Tensor | None) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    hidden = F.silu(gate).mul_(up)
    return hidden if factor is None else hidden.mul_(factor)


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
