"""The trunk that models with a cache or with memory tokens share: Transformer-XL's layers, opened segment by segment.

The sequence is `[cache | read tokens | segment | write tokens]`. Tokens of the segment see the cache, the read tokens
and their own past. Read tokens see each other, write tokens see everything but the cache. Scores depend on the signed
distance between two tokens (Dai et al., 2019, section 3.3), so that a segment may grow token by token: what has been
computed of it stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from elmur.attention import CrossAttention, KeyValue, attend, split_heads
from elmur.feedforward import MLP
from elmur.kernels import times_codes
from elmur.model import added
from elmur.model import check_sizes as check_sizes_of_heads
from elmur.positional import Relative
from elmur.residual import PostNorm, Residual


@dataclass
class LayerStream:
    """One layer's open segment.

    keys and values `[B, H, K, d]` so far, those of the cache first. distances `[1, H, most, d]`: the vectors by which
    scores see distances, the largest first. inputs `[B, K - C, D]`: what came into the layer behind the cache.
    """

    keys: Tensor
    values: Tensor
    distances: Tensor
    inputs: Tensor


@dataclass
class Stream:
    """An open segment.

    cached `[B, n_layer, C, D]`. absent `[B]`: how many of the first keys stand for nothing; None: none does. most:
    tokens that there is room for, cache included. total `[B]`: as in `forward_scores`, None where it does not matter.
    read `[B, n, D]`: the read tokens after all layers.
    """

    layers: tuple[LayerStream, ...]
    cached: Tensor
    absent: Tensor | None
    most: int
    total: Tensor | None
    read: Tensor


class RelativeAttention(CrossAttention):
    """Attention of some tokens to a sequence that they are the last of."""

    def __init__(
        self, d_model: int, n_head: int, position: Relative, dropout: float, dropatt: float, d_head: int | None
    ) -> None:
        super().__init__(d_model, n_head, dropout, dropatt, d_head, out_bias=False)
        self.distances = position.layer_part(d_model)

    def relative(
        self,
        x: Float[Tensor, "B Q D"],
        source: KeyValue,
        position: Relative,
        codes: Float[Tensor, "one H W d"],
        mask: Tensor | None,
        total: Int[Tensor, " B"] | None,
    ) -> Float[Tensor, "B Q D"]:
        """What the tokens gather from `source`, whose last keys are their own.

        codes: vectors of the distances K - 1, K - 2, ... down to one below 0 at least. total: as in `forward_scores`.
        """
        q, num_keys = split_heads(self.query(x), self.n_head), source[0].shape[2]
        scaled = (q + position.distance_bias.unsqueeze(1)) * q.shape[-1] ** -0.5
        scores = aligned(times_codes(scaled, codes), num_keys)
        if total is not None and x.shape[1] > 1:
            scores = forward_scores(scores, scaled, total, lambda d: self.code(position, d, x))
        if mask is not None:
            scores = scores + mask.to(scores.dtype)
        q = q + position.content_bias.unsqueeze(1)
        return self.dropout(self.out(attend(q, *source, scores, self.dropatt if self.training else 0.0)))

    def code(self, position: Relative, distance: Int[Tensor, "b W"], like: Tensor) -> Float[Tensor, "b H W d"]:
        """The vectors by which scores see a distance."""
        return position.project(position.sinusoids(distance, like), self.distances)


def aligned(scores: Float[Tensor, "B H Q W"], num_keys: int) -> Float[Tensor, "B H Q K"]:
    """Scores by key from scores by distance: column j of row i is what stood at column j + Q - 1 - i.

    The columns stand for the distances K - 1 downwards; those that a row has none for hold garbage.
    """
    queries, width = scores.shape[-2:]
    if queries == 1:
        return scores[..., :num_keys]
    # In a row that is one number shorter, every row begins one column earlier.
    flat = scores.flatten(-2)[..., queries - 1 : queries * width - 1]
    return torch.unflatten(flat, -1, (queries, width - 1))[..., :num_keys]


def forward_scores(
    scores: Float[Tensor, "B H n K"],
    scaled: Float[Tensor, "B H n d"],
    total: Int[Tensor, " B"],
    code: Callable[[Tensor], Tensor],
) -> Float[Tensor, "B H n K"]:
    """The scores with what the published code has where one memory token looks forward at another.

    Its shift of rows knows no distance below 0 and wraps around: query i sees key i + 1 with 0, and key i + d with
    query i + 1's score at distance `total` + 1 - d, where `total` counts the whole sequence, cache included.
    """
    size = scores.shape[2]
    ahead = torch.arange(size, device=scores.device)
    by_distance = times_codes(scaled, code(total.unsqueeze(1) + 1 - ahead)) * (ahead != 1)
    of_the_next = F.pad(by_distance[:, :, 1:], (0, 0, 0, 1))
    distance = ahead - ahead.unsqueeze(1)
    wrapped = of_the_next.gather(3, distance.clamp(min=0).expand(*scores.shape[:3], -1))
    return torch.cat([scores[..., :-size], torch.where(distance > 0, wrapped, scores[..., -size:])], dim=-1)


@dataclass
class Scope:
    """What some new tokens see, of all layers alike: not the first `unseen` keys, nor what `mask [.., Q, K]` hides.

    nearest: of the stored distances, the first that they need. total: as in `forward_scores`.
    """

    unseen: int
    mask: Tensor | None
    nearest: int
    total: Tensor | None


class XLLayer(nn.Module):
    """Attend, then feed-forward where there is one."""

    def __init__(
        self,
        attention: RelativeAttention,
        attention_residual: Residual,
        feedforward: nn.Module | None,
        feedforward_residual: Residual | None,
    ) -> None:
        super().__init__()
        self.attention, self.attention_residual = attention, attention_residual
        self.feedforward, self.feedforward_residual = feedforward, feedforward_residual

    def open(self, cached: Float[Tensor, "B C D"], codes: Tensor, position: Relative) -> LayerStream:
        """A stream in which nothing but the cache stands."""
        keys, values = self.attention.project(self.attention_residual.cached(cached))
        distances = position.project(codes, self.attention.distances)
        return LayerStream(keys, values, distances, cached[:, :0])

    def forward(
        self, x: Float[Tensor, "B Q D"], stream: LayerStream, position: Relative, scope: Scope
    ) -> tuple[Float[Tensor, "B Q D"], Tensor | None]:
        """The new tokens after the layer, and the balance loss; they have joined the stream."""
        stream.inputs = torch.cat([stream.inputs, x], 1)
        x = self.attention_residual(x, lambda y: self.gather(y, stream, position, scope))
        if self.feedforward is None or self.feedforward_residual is None:
            return x, None
        return self.feedforward_residual(x, self.feedforward)

    def gather(
        self, y: Float[Tensor, "B Q D"], stream: LayerStream, position: Relative, scope: Scope
    ) -> Float[Tensor, "B Q D"]:
        """What the attention of tokens adds to them, after they have joined the stream."""
        k, v = self.attention.project(y)
        stream.keys, stream.values = torch.cat([stream.keys, k], 2), torch.cat([stream.values, v], 2)
        source = stream.keys[:, :, scope.unseen :], stream.values[:, :, scope.unseen :]
        codes = stream.distances[:, :, scope.nearest :]
        return self.attention.relative(y, source, position, codes, scope.mask, scope.total)


class TransformerXL(nn.Module):
    """`n_layer` layers over open segments. The biases of scores are shared by all of them, as published.

    d_head: width of a head where it is not d_model / n_head. feedforward: builds it from (d_model, dropout), None for
    layers without one. residual: builds, from d_model, how each of the two joins the stream; attention_residual: the
    same for attention alone.
    """

    def __init__(
        self,
        d_model: int = 64,
        n_layer: int = 2,
        n_head: int = 2,
        dropout: float = 0.1,
        dropatt: float = 0.1,
        d_head: int | None = None,
        feedforward: Callable[..., nn.Module] | None = MLP,
        residual: Callable[..., Residual] = PostNorm,
        attention_residual: Callable[..., Residual] | None = None,
    ) -> None:
        super().__init__()
        check_sizes(d_model, n_layer, n_head, d_head)
        self.d_model = d_model
        self.position = Relative(d_model, n_head, dropout, d_head)
        layers = nn.ModuleList(
            XLLayer(
                RelativeAttention(d_model, n_head, self.position, dropout, dropatt, d_head),
                (attention_residual or residual)(d_model),
                feedforward and feedforward(d_model, dropout),
                residual(d_model) if feedforward else None,
            )
            for _ in range(n_layer)
        )
        self.layers = cast("Sequence[XLLayer]", layers)  # a ModuleList does not tell what it holds

    def open(
        self,
        read: Float[Tensor, "B n D"],
        cached: Float[Tensor, "B n_layer C D"],
        absent: Int[Tensor, " B"] | None,
        num_tokens: int,
        wraps: bool = False,
    ) -> Stream:
        """A segment with the cache and the read tokens in it, and room for `num_tokens` more.

        absent: how many of the first keys stand for nothing. wraps: memory tokens look forward as published; all
        `num_tokens` are then to come.
        """
        num_read, num_cached = read.shape[1], cached.shape[2]
        most = num_cached + num_read + num_tokens
        lowest = -max(num_read, 1)
        codes = self.position.sinusoids(torch.arange(most - 1, lowest - 1, -1, device=read.device).unsqueeze(0), read)
        layers = tuple(layer.open(cached[:, i], codes, self.position) for i, layer in enumerate(self.layers))
        total = None
        if wraps:
            full = torch.full(read.shape[:1], most, device=read.device)
            total = full if absent is None else full - absent
        stream = Stream(layers, cached, absent, most, total, read)
        if num_read:
            stream.read, _ = self.memory_tokens(stream, read)
        return stream

    def append(self, stream: Stream, x: Float[Tensor, "B Q D"]) -> tuple[Float[Tensor, "B Q D"], Tensor | None]:
        """The segment's next tokens after all layers, and the balance loss."""
        queries = x.shape[1]
        num_keys = stream.layers[0].keys.shape[2] + queries
        mask = visible(queries, num_keys, stream.absent, x)
        return self.through(x, stream, Scope(0, mask, stream.most - num_keys, None))

    def memory_tokens(self, stream: Stream, x: Float[Tensor, "B n D"]) -> tuple[Float[Tensor, "B n D"], Tensor | None]:
        """Memory tokens after all layers, and the balance loss: they see all but the cache, and each other."""
        num_cached = stream.cached.shape[2]
        num_keys = stream.layers[0].keys.shape[2] + x.shape[1] - num_cached
        return self.through(x, stream, Scope(num_cached, None, stream.most - num_keys, stream.total))

    def through(self, x: Tensor, stream: Stream, scope: Scope) -> tuple[Tensor, Tensor | None]:
        """New tokens through all layers."""
        balances: list[Tensor | None] = []
        for layer, layer_stream in zip(self.layers, stream.layers, strict=True):
            x, balance = layer(x, layer_stream, self.position, scope)
            balances.append(balance)
        return x, reduce(added, balances)

    def next_cache(self, stream: Stream) -> Float[Tensor, "B n_layer C D"]:
        """The cache for the next segment: of every layer's inputs, the last C; no gradient passes."""
        capacity = stream.cached.shape[2]
        rows = [torch.cat([stream.cached[:, i], s.inputs], 1)[:, -capacity:] for i, s in enumerate(stream.layers)]
        return torch.stack(rows, 1).detach()


def visible(queries: int, num_keys: int, absent: Int[Tensor, " B"] | None, like: Tensor) -> Tensor | None:
    """0 where one of the last `queries` tokens may see a key, -inf where it may not: a later one, an absent one.

    An absent token sees itself, lest its softmax be over nothing. None where everything is seen.
    """
    if queries == 1 and absent is None:
        return None
    key = torch.arange(num_keys, device=like.device)
    query = key[num_keys - queries :].unsqueeze(1)
    hidden = key > query
    if absent is not None:
        hidden = hidden | ((key < absent.view(-1, 1, 1, 1)) & (key != query))
    return torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill(hidden, -torch.inf)


def check_sizes(d_model: int, n_layer: int, n_head: int, d_head: int | None) -> None:
    """Raises ValueError where the sizes cannot make a transformer."""
    if d_head is None:
        check_sizes_of_heads(d_model, n_layer, n_head)
    elif min(d_model, n_layer, n_head, d_head) < 1 or d_model % 2:
        raise ValueError(
            "d_model, n_layer, n_head and d_head must be 1 or more and d_model even; found "
            f"{d_model}, {n_layer}, {n_head} and {d_head}"
        )
