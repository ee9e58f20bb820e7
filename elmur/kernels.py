"""What is written for speed alone: each function names its plain form, and tests/elmur/test_kernels.py compares."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

LEVELS = 2**16  # 16 random bits per number that may be dropped
BLOCK = 2**18  # numbers of hidden width that the backward pass of a gate takes at once, about a megabyte
LARGEST_PRODUCT = 1024  # rows of a table up to which a sum of embeddings is taken by a product


def dropped(x: Tensor, p: float) -> Tensor:
    """`F.dropout(x, p)`, on a CPU with `p` rounded to a multiple of 2^-16: torch draws 64 bits a number there."""
    if x.device.type != "cpu":
        return F.dropout(x, p, training=p > 0)
    factor = dropout_factor(x, p)
    return x if factor is None else x * factor


def dropout_factor(x: Tensor, p: float) -> Tensor | None:
    """`F.dropout(ones_like(x), p)`: 0 where a number is dropped, 1/(1-p) where it is kept; None where p rounds to 0."""
    drop = round(p * LEVELS)
    if drop == 0:
        return None
    if drop == LEVELS or x.device.type != "cpu":
        return F.dropout(torch.ones_like(x), p)
    bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    factor = torch.empty(x.shape, dtype=x.dtype)
    torch.ge(bits[: x.numel()].view(x.shape), drop - LEVELS // 2, out=factor)
    return factor.mul_(LEVELS / (LEVELS - drop))


def gated(gate_up: Float[Tensor, "... G"], p: float) -> Float[Tensor, "... F"]:
    """dropout(silu(gate) * up), where `gate_up` holds gates and ups side by side, G = 2 F."""
    return _times(gate_up, dropout_factor(gate_up[..., : gate_up.shape[-1] // 2], p))


def gated_experts(
    gate_up: Float[Tensor, "... G"], weights: Float[Tensor, "... E"], num_shared: int, p: float
) -> Float[Tensor, "... F"]:
    """`gated`, and what stands behind the first `num_shared` columns, E blocks of one width, times its `weights`."""
    blocks = partial(_blocks, num_shared=num_shared, num_experts=weights.shape[-1])
    factor = dropout_factor(gate_up[..., : gate_up.shape[-1] // 2], p)
    if factor is not None and not weights.requires_grad:  # a constant joins the other: all is done in one pass
        blocks(factor).mul_(weights.to(factor.dtype).unsqueeze(-1))
        return _times(gate_up, factor)
    hidden = _times(gate_up, factor)
    weights = weights.to(hidden.dtype).unsqueeze(-1)
    if not hidden.requires_grad and not weights.requires_grad:
        blocks(hidden).mul_(weights)
        return hidden
    return torch.cat([hidden[..., :num_shared], (blocks(hidden) * weights).flatten(-2)], dim=-1)


def routed_experts(
    x: Float[Tensor, "N D"],
    weights: Float[Tensor, "N E"],
    picks: int,
    gate_up: Float[Tensor, "2 EF D"],
    down: Float[Tensor, "D EF"],
    p: float,
) -> Float[Tensor, "N D"]:
    """The sum over experts of `weights` times down(dropout(silu(gate x) * up x)), each computed for its tokens alone.

    A token has at most `picks` weights that are not 0. Tokens are sorted by expert; how many each gets depends on the
    data.
    """
    weight, expert = weights.topk(picks, dim=-1)
    expert, order = expert.flatten().sort(stable=True)
    token = order // picks
    number = weights.shape[1]
    counts = torch.bincount(expert, minlength=number).tolist()
    own = torch.split(x.index_select(0, token), counts)
    gates, ups = torch.unflatten(gate_up, 1, (number, -1)).unbind(0)
    gate, up = (torch.cat([t @ w.T for t, w in zip(own, side.unbind(0), strict=True)]) for side in (gates, ups))
    hidden = F.silu(gate) * up
    factor = dropout_factor(hidden, p)
    if factor is not None:
        hidden = hidden * factor
    downs = torch.unflatten(down, 1, (number, -1)).unbind(1)
    out = torch.cat([h @ w.T for h, w in zip(torch.split(hidden, counts), downs, strict=True)])
    out = out * weight.flatten()[order].to(out.dtype).unsqueeze(1)
    return out.new_zeros(x.shape).index_add(0, token, out)


def _blocks(hidden: Tensor, num_shared: int, num_experts: int) -> Tensor:
    """The columns behind the shared ones, a view with a dimension for the experts."""
    return torch.unflatten(hidden[..., num_shared:], -1, (num_experts, -1))


class _Gated(torch.autograd.Function):
    """`_times` with its gradient in as few passes over memory as can be: these are the widest numbers of the model."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor, factor: Tensor | None) -> Tensor:
        ctx.save_for_backward(gate_up, factor)
        return _product(gate_up, factor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        gate_up, factor = ctx.saved_tensors
        width = grad.shape[-1]
        out = torch.empty_like(gate_up)
        # A block of rows at a time: what is computed in between stays in the CPU's cache. A GPU takes all at once.
        block = max(1, BLOCK // width if grad.device.type == "cpu" else grad.numel() // width)
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


def _times(gate_up: Tensor, factor: Tensor | None) -> Tensor:
    """silu(gate) * up * factor; `factor` is a constant."""
    if not (torch.is_grad_enabled() and gate_up.requires_grad):
        return _product(gate_up, factor)
    return _Gated.apply(gate_up, factor)  # type: ignore[no-untyped-call]


def _product(gate_up: Tensor, factor: Tensor | None) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    hidden = F.silu(gate).mul_(up)
    return hidden if factor is None else hidden.mul_(factor)


def lookup_by_head(table: Float[Tensor, "E H"], entry: Int[Tensor, "B Q K"]) -> Float[Tensor, "B H Q K"]:
    """`F.embedding(entry, table).permute(0, 3, 1, 2)`; on a CPU the gradient of rows of a few numbers is slow."""
    if not (table.requires_grad and torch.is_grad_enabled() and table.device.type == "cpu"):
        return F.embedding(entry, table).permute(0, 3, 1, 2)
    flat = entry.flatten()
    return torch.stack([head.index_select(0, flat).view(entry.shape) for head in table.t().contiguous()], dim=1)


def embedding_sum(rows: Int[Tensor, "... C"], table: Float[Tensor, "E D"]) -> Float[Tensor, "... D"]:
    """`F.embedding(rows, table).sum(-2)`, the rows of one sum all different.

    Many components of few values, as cards on a table: one product is many times faster than sums of rows.
    """
    if rows.shape[-1] == 1:
        return F.embedding(rows.squeeze(-1), table)
    if table.shape[0] > LARGEST_PRODUCT:
        return torch.unflatten(F.embedding_bag(rows.flatten(0, -2), table, mode="sum"), 0, rows.shape[:-1])
    return table.new_zeros(*rows.shape[:-1], table.shape[0]).scatter_(-1, rows, 1.0) @ table


def times_codes(q: Float[Tensor, "B H Q d"], codes: Float[Tensor, "b H K d"]) -> Float[Tensor, "B H Q K"]:
    """`q @ codes.transpose(2, 3)`; codes that all lanes share (b = 1) are not copied for each of them."""
    if codes.shape[0] != 1:
        return q @ codes.transpose(2, 3)
    batch, heads, queries, _ = q.shape
    scores: Tensor = q.transpose(0, 1).flatten(1, 2) @ codes[0].transpose(1, 2)
    return scores.view(heads, batch, queries, -1).transpose(0, 1)


def relative_shift(scores: Float[Tensor, "B H T T"]) -> Float[Tensor, "B H T T"]:
    """Column j of row i holds `scores[..., i, T - 1 - (i - j)]` where j <= i, garbage elsewhere (Dai et al., 2019)."""
    batch, heads, size, _ = scores.shape
    padded = torch.cat([scores.new_zeros(batch, heads, size, 1), scores], dim=-1)
    return padded.view(batch, heads, size + 1, size)[:, :, 1:]
