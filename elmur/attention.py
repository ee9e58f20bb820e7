"""Multi-head attention over torch's scaled dot product: causal within a segment, and across to or from memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from elmur.dropout import Dropout
from elmur.feedforward import init_linear, xavier_blocks
from elmur.positional import Position

KeyValue = tuple[Tensor, Tensor]
Beside = tuple[KeyValue, Tensor | None]  # keys and values, and what is added to their scores `[.., Q, K]`


def split_heads(x: Float[Tensor, "B T D"], n_head: int) -> Float[Tensor, "B H T d"]:
    """Each head's share of the width, heads as a dimension of their own."""
    return x.view(*x.shape[:2], n_head, x.shape[2] // n_head).transpose(1, 2)


def merge_heads(x: Float[Tensor, "B H T d"]) -> Float[Tensor, "B T D"]:
    """The heads side by side again."""
    x = x.transpose(1, 2)
    if torch.compiler.is_exporting():  # where the program runs, attention may lay its numbers out otherwise
        x = x.clone(memory_format=torch.contiguous_format)
    return x.flatten(-2)


def attend(
    q: Float[Tensor, "B H Q d"],
    k: Float[Tensor, "B H K d"],
    v: Float[Tensor, "B H K d"],
    bias: Tensor | None,
    dropout: float = 0.0,
) -> Float[Tensor, "B Q D"]:
    """softmax(q k / sqrt(d) + bias) v, heads side by side again; `bias` broadcasts to `[B, H, Q, K]`."""
    if bias is not None:
        bias = bias.to(q.dtype)
    return merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout))


class CrossAttention(nn.Module):
    """Attention of one sequence to another, with an additive bias: tokens to slots (read), slots to tokens (write).

    d_head: width of a head where it is not d_model / n_head. bias, out_bias: whether the maps in and out have biases.
    """

    def __init__(
        self,
        d_model: int,
        n_head: int,
        dropout: float = 0.0,
        dropatt: float = 0.0,
        d_head: int | None = None,
        bias: bool = False,
        out_bias: bool = True,
    ) -> None:
        super().__init__()
        self.n_head = n_head
        self.dropatt = dropatt
        width = n_head * (d_head or d_model // n_head)
        self.query = nn.Linear(d_model, width, bias=bias)
        self.key_value = nn.Linear(d_model, 2 * width, bias=bias)
        self.out = nn.Linear(width, d_model, bias=out_bias)
        self.dropout = Dropout(dropout)
        init_linear(self.query, self.out)
        xavier_blocks(self.key_value.weight, [width, width])
        if bias:
            nn.init.zeros_(self.key_value.bias)

    def project(self, source: Float[Tensor, "B K D"]) -> KeyValue:
        """Keys and values `[B, H, K, d]` of what is attended to; computed once while it does not change."""
        k, v = self.key_value(source).chunk(2, dim=-1)
        return split_heads(k, self.n_head), split_heads(v, self.n_head)

    def forward(
        self,
        x: Float[Tensor, "B Q D"],
        source: KeyValue,
        bias: Tensor | None,
        sees_any: Bool[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B Q D"]:
        """What `x` gathers from `source`; exactly zero in lanes that `sees_any` leaves out, None: in no lane."""
        q = split_heads(self.query(x), self.n_head)
        mixed = attend(q, *source, bias, self.dropatt if self.training else 0.0)
        out: Tensor = self.dropout(self.out(mixed))
        return out if sees_any is None else torch.where(sees_any.view(-1, 1, 1), out, 0.0)


def joined(
    beside: Beside, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keys, values and bias of one softmax: first what is seen beside, then the tokens."""
    (keys, values), scores = beside
    biases = [
        (q.new_zeros(()) if part is None else part.to(q.dtype)).expand(*q.shape[:3], width)
        for part, width in ((scores, keys.shape[2]), (bias, k.shape[2]))
    ]
    together = None if scores is None and bias is None else torch.cat(biases, dim=-1)
    return torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2), together


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
        beside: Beside | None = None,
    ) -> Float[Tensor, "B Q D"]:
        """What the tokens `first .. first + Q - 1` gather; with a cache they join it and see all in it.

        beside: what they see as well as each other, in one softmax, by the same queries.
        """
        raw, k, v = (split_heads(part, self.n_head) for part in self.qkv(x).chunk(3, dim=-1))
        q, k = position.rotate(raw, k, first)
        if cache is not None:
            end = first + x.shape[1]
            cache.keys[:, :, first:end], cache.values[:, :, first:end] = k, v
            k, v = cache.keys[:, :, :end], cache.values[:, :, :end]
        bias = position.score_bias(raw, k, projected, first)
        if beside is not None:
            k, v, bias = joined(beside, q, k, v, bias)
        return self.dropout(self.out(attend(q, k, v, bias, self.dropatt if self.training else 0.0)))

    def project(self, source: Float[Tensor, "B K D"]) -> KeyValue:
        """Keys and values `[B, H, K, d]` of what is seen beside the tokens, by the maps that theirs are made with."""
        _, k, v = self.qkv.weight.chunk(3)
        return split_heads(F.linear(source, k), self.n_head), split_heads(F.linear(source, v), self.n_head)

    def empty_cache(self, batch_size: int, num_tokens: int, like: Tensor) -> KeyValueCache:
        """A cache with room for `num_tokens`."""
        shape = (batch_size, self.n_head, num_tokens, self.out.in_features // self.n_head)
        return KeyValueCache(like.new_empty(shape), like.new_empty(shape))
