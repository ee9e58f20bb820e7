"""Causal self-attention within a segment: of whole segments, or of new tokens alone with cached keys and values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from elmur.attention import attend, split_heads
from elmur.dropout import Dropout
from elmur.feedforward import init_linear
from elmur.positional import Position


@dataclass
class KeyValueCache:
    """Keys and values `[B, H, T, d]` of an open segment; filled from the left, room for the whole segment."""

    keys: Tensor
    values: Tensor


class SelfAttention(nn.Module):
    """Multi-head attention of a segment's tokens to themselves and to earlier ones, positions by the given scheme."""

    def __init__(self, d_model: int, n_head: int, position: Position, dropout: float, dropatt: float) -> None:
        super().__init__()
        self.n_head = n_head
        self.dropatt = dropatt
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.position_part = position.layer_part(d_model)
        self.out = nn.Linear(d_model, d_model, bias=position.output_bias)
        self.dropout = Dropout(dropout)
        init_linear(self.qkv, self.out)

    def forward(
        self,
        x: Float[Tensor, "B Q D"],
        position: Position,
        projected: Tensor | None,
        first: int = 0,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "B Q D"]:
        """What the tokens `first .. first + Q - 1` gather; with a cache they join it and see all in it."""
        raw, k, v = (split_heads(part, self.n_head) for part in self.qkv(x).chunk(3, dim=-1))
        q, k = position.rotate(raw, k, first)
        if cache is not None:
            end = first + x.shape[1]
            cache.keys[:, :, first:end], cache.values[:, :, first:end] = k, v
            k, v = cache.keys[:, :, :end], cache.values[:, :, :end]
        bias = position.score_bias(raw, k, projected, first)
        out: Tensor = self.dropout(self.out(attend(q, k, v, bias, self.dropatt if self.training else 0.0)))
        return out

    def empty_cache(self, batch_size: int, num_tokens: int, like: Tensor) -> KeyValueCache:
        """A cache with room for `num_tokens`."""
        shape = (batch_size, self.n_head, num_tokens, self.out.in_features // self.n_head)
        return KeyValueCache(torch.empty(shape).to(like), torch.empty(shape).to(like))
