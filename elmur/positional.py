"""Six ways to tell tokens of one segment apart, behind one protocol: embed, rotate, score_bias.

Positions count tokens from the start of the segment; where a scheme depends on differences alone this equals absolute
positions. `first` is the segment-relative position of the first token of what is passed in: 0 for a whole segment,
p for the token that streaming adds as the p-th.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from elmur.dropout import Dropout
from elmur.feedforward import init_linear
from elmur.kernels import relative_shift, times_codes


class Position(nn.Module):
    """Base: tokens are not told apart except by causality. Subclasses override what they need."""

    output_bias = True  # whether self-attention's output projection has a bias (the published relative form has none)

    def layer_part(self, d_model: int) -> nn.Module | None:
        """Parameters of the scheme that every layer owns for itself, or None."""
        return None

    def codes(self, num_tokens: int, start_token: Tensor, like: Tensor) -> Tensor | None:
        """What all layers share for one segment of `num_tokens` tokens that begins at token `start_token [B]`."""
        return None

    def project(self, codes: Tensor | None, part: nn.Module | None) -> Tensor | None:
        """The codes as one layer uses them."""
        return None

    def embed(self, x: Float[Tensor, "B T D"], first: int) -> Float[Tensor, "B T D"]:
        """Tokens with their position added."""
        return x

    def rotate(self, q: Tensor, k: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """Queries and keys `[B, H, T, d]` with their position turned into them."""
        return q, k

    def score_bias(
        self, q: Float[Tensor, "B H Q d"], k: Float[Tensor, "B H K d"], projected: Tensor | None, first: int
    ) -> Tensor | None:
        """Additive scores `[.., Q, K]`, `K = first + Q`, causal; None where a single query sees every key alike.

        `q` as it was before `rotate`, `k` as it is after, those of earlier tokens included.
        """
        return causal(first, q.shape[2], q)


def causal(first: int, num_queries: int, like: Tensor) -> Tensor | None:
    """0 where key j is not later than query i, -inf where it is; None for one query, which is the newest."""
    if num_queries == 1:
        return None
    rows = torch.arange(first, first + num_queries, device=like.device).unsqueeze(1)
    keys = torch.arange(first + num_queries, device=like.device)
    return torch.zeros(rows.shape[0], keys.shape[0], dtype=like.dtype, device=like.device).masked_fill(
        keys > rows, -torch.inf
    )


def frequencies(dim: int, base: float = 10000.0) -> Float[Tensor, " half"]:
    """base^(-2i/dim), i = 0 .. dim/2 - 1, rounded to float32 so that every precision sees the same angles."""
    return 1.0 / base ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)


def at_least_float32(like: Tensor) -> torch.dtype:
    """float64 for float64, else float32: half precision cannot count past 256."""
    return torch.float64 if like.dtype == torch.float64 else torch.float32


class Relative(Position):
    """Transformer-XL (Dai et al., 2019): scores see the distance i - j by sinusoids, r_net and two learned biases.

    d_head: width of a head where it is not d_model / n_head.
    """

    output_bias = False

    def __init__(self, d_model: int, n_head: int, dropout: float = 0.0, d_head: int | None = None) -> None:
        super().__init__()
        self.n_head, self.d_head = n_head, d_head or d_model // n_head
        self.content_bias = nn.Parameter(0.02 * torch.randn(n_head, self.d_head))  # r_w
        self.distance_bias = nn.Parameter(0.02 * torch.randn(n_head, self.d_head))  # r_r
        self.dropout = Dropout(dropout)
        self.frequencies = nn.Buffer(frequencies(d_model), persistent=False)

    def layer_part(self, d_model: int) -> nn.Module:
        r_net = nn.Linear(d_model, self.n_head * self.d_head, bias=False)
        init_linear(r_net)
        return r_net

    def codes(self, num_tokens: int, start_token: Tensor, like: Tensor) -> Float[Tensor, "one T D"]:
        """Sinusoids of the distances T-1 .. 0, in that order."""
        return self.sinusoids(torch.arange(num_tokens - 1, -1, -1, device=like.device).unsqueeze(0), like)

    def sinusoids(self, distance: Int[Tensor, "b T"], like: Tensor) -> Float[Tensor, "b T D"]:
        """sin and cos, side by side, of distance times frequency; with dropout."""
        dtype = at_least_float32(like)
        angle = distance.unsqueeze(-1).to(dtype) * self.frequencies.to(dtype)
        return self.dropout(torch.cat([angle.sin(), angle.cos()], dim=-1).to(like.dtype))

    def project(self, codes: Tensor | None, part: nn.Module | None) -> Float[Tensor, "_ H T d"]:
        assert codes is not None and part is not None
        projected: Tensor = part(codes)
        return torch.unflatten(projected, -1, (self.n_head, -1)).transpose(1, 2)

    def rotate(self, q: Tensor, k: Tensor, first: int) -> tuple[Tensor, Tensor]:
        return q + self.content_bias.unsqueeze(1), k

    def score_bias(self, q: Tensor, k: Tensor, projected: Tensor | None, first: int) -> Tensor:
        assert projected is not None
        num_tokens, num_queries = projected.shape[2], q.shape[2]
        keys = first + num_queries
        scaled = (q + self.distance_bias.unsqueeze(1)) * (q.shape[-1] ** -0.5)
        # Row i needs distances i .. 0 for keys 0 .. i: in the stored order they begin at num_tokens - 1 - i.
        if num_queries == 1:
            return times_codes(scaled, projected[:, :, num_tokens - keys :])
        scores = times_codes(scaled, projected)
        if num_queries == num_tokens:
            shifted = relative_shift(scores)
        else:
            rows = torch.arange(first, keys, device=q.device).unsqueeze(1)
            column = num_tokens - 1 - rows + torch.arange(keys, device=q.device)
            index = column.clamp(max=num_tokens - 1).expand(*scores.shape[:2], -1, -1)
            shifted = scores.gather(3, index)
        mask = causal(first, num_queries, q)
        assert mask is not None
        return shifted + mask.to(shifted.dtype)


class Rope(Position):
    """Rotary positions (Su et al., 2021), rotate-half convention."""

    def __init__(self, d_model: int, n_head: int, dropout: float = 0.0, base: float = 10000.0) -> None:
        super().__init__()
        if (d_model // n_head) % 2:
            raise ValueError(f"rotary positions need an even head width; found d_model/n_head = {d_model // n_head}")
        self.frequencies = nn.Buffer(frequencies(d_model // n_head, base), persistent=False)
        self.scale = 1.0  # of both queries and keys

    def rotate(self, q: Tensor, k: Tensor, first: int) -> tuple[Tensor, Tensor]:
        dtype = at_least_float32(q)
        position = torch.arange(first, first + q.shape[2], device=q.device, dtype=dtype)
        angle = position.unsqueeze(1) * self.frequencies.to(dtype)
        angle = torch.cat([angle, angle], dim=-1)
        cos, sin = (self.scale * angle.cos()).to(q.dtype), (self.scale * angle.sin()).to(q.dtype)
        return q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin


def rotate_half(x: Tensor) -> Tensor:
    """(x1, x2) -> (-x2, x1), the halves of the last dimension."""
    left, right = x.chunk(2, dim=-1)
    return torch.cat([-right, left], dim=-1)


class Yarn(Rope):
    """YaRN (Peng et al., 2023): rotary positions stretched by `factor`, high frequencies left alone, with temperature.

    max_seq_len: the length the unstretched frequencies were meant for. Frequencies that turn more than `beta_fast`
    times in it are kept, those below `beta_slow` turns are divided by `factor`, with a ramp between ("by parts",
    equation 17 onwards; linear in the index of the frequency, as in its authors' code); queries and keys are scaled
    by 0.1 ln(factor) + 1.
    """

    def __init__(
        self,
        d_model: int,
        n_head: int,
        dropout: float = 0.0,
        base: float = 10000.0,
        factor: float = 4.0,
        max_seq_len: int = 1024,
        beta_fast: float = 32.0,
        beta_slow: float = 1.0,
    ) -> None:
        super().__init__(d_model, n_head, dropout, base)
        dim = d_model // n_head
        low = max(math.floor(_dimension_of(beta_fast, dim, base, max_seq_len)), 0)
        high = min(math.ceil(_dimension_of(beta_slow, dim, base, max_seq_len)), dim - 1)
        ramp = ((torch.arange(dim // 2, dtype=torch.float32) - low) / max(high - low, 0.001)).clamp(0, 1)
        stretched = self.frequencies * (1 - ramp) + self.frequencies / factor * ramp
        self.frequencies = nn.Buffer(stretched, persistent=False)
        self.scale = 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0


def _dimension_of(turns: float, dim: int, base: float, max_seq_len: int) -> float:
    """The (fractional) frequency index that turns `turns` times within max_seq_len positions."""
    return dim * math.log(max_seq_len / (turns * 2 * math.pi)) / (2 * math.log(base))


class Alibi(Position):
    """Attention with linear biases (Press et al., 2021): -slope_h (i - j)."""

    def __init__(self, d_model: int, n_head: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.slopes = nn.Buffer(torch.tensor(alibi_slopes(n_head), dtype=torch.float64), persistent=False)

    def score_bias(self, q: Tensor, k: Tensor, projected: Tensor | None, first: int) -> Tensor:
        rows = torch.arange(first, first + q.shape[2], device=q.device).unsqueeze(1)
        distance = rows - torch.arange(first + q.shape[2], device=q.device)
        bias = -self.slopes.to(at_least_float32(q)).view(-1, 1, 1) * distance
        return bias.masked_fill(distance < 0, -torch.inf).to(q.dtype)


def alibi_slopes(n_head: int) -> list[float]:
    """2^(-8/H), 2^(-16/H), ...; for H not a power of two, the lower power's and every second of the next one's."""
    power = 2 ** math.floor(math.log2(n_head))
    slopes = [2 ** (-8 * (head + 1) / power) for head in range(power)]
    between = [2 ** (-8 * (head + 1) / (2 * power)) for head in range(0, 2 * power, 2)]
    return slopes + between[: n_head - power]


class Sinusoidal(Position):
    """Fixed sinusoids added to the tokens (Vaswani et al., 2017): even columns sine, odd columns cosine."""

    def __init__(self, d_model: int, n_head: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.frequencies = nn.Buffer(frequencies(d_model), persistent=False)

    def embed(self, x: Float[Tensor, "B T D"], first: int) -> Float[Tensor, "B T D"]:
        dtype = at_least_float32(x)
        position = torch.arange(first, first + x.shape[1], device=x.device, dtype=dtype)
        angle = position.unsqueeze(1) * self.frequencies.to(dtype)
        return x + torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2).to(x.dtype)


class Learnable(Position):
    """A learned vector per position in the segment, added to the tokens."""

    def __init__(self, d_model: int, n_head: int, dropout: float = 0.0, max_seq_len: int = 1024) -> None:
        super().__init__()
        self.table = nn.Embedding(max_seq_len, d_model)
        nn.init.normal_(self.table.weight, std=0.02)

    def embed(self, x: Float[Tensor, "B T D"], first: int) -> Float[Tensor, "B T D"]:
        last = first + x.shape[1]
        if last > self.table.num_embeddings:
            raise ValueError(
                f"a segment of {last} tokens does not fit max_seq_len={self.table.num_embeddings} learned positions; "
                "raise model.position.max_seq_len or lower context_length"
            )
        return x + self.table.weight[first:last]
