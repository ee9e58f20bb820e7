"""Positional schemes: each against its formula by a loop, and the property that makes it what it is."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from elmur.positional import (
    Alibi,
    Learnable,
    Position,
    Relative,
    Rope,
    Sinusoidal,
    Yarn,
    alibi_slopes,
    causal,
    frequencies,
)
from elmur.published.quirks import PublishedRelative

D, H, T, B = 12, 3, 5, 2
WIDTH = D // H
SCHEMES: list[Callable[..., Position]] = [Relative, PublishedRelative, Rope, Yarn, Alibi, Sinusoidal, Learnable]


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(kind: Callable[..., Position], **more: float) -> Position:
    torch.manual_seed(0)
    return kind(D, H, **more).double().eval()


def scores(
    position: Position, part: torch.nn.Module | None, q: torch.Tensor, k: torch.Tensor, start: torch.Tensor
) -> torch.Tensor:
    """All scores `[B, H, Q, K]` before the softmax, as self-attention adds them up."""
    projected = position.project(position.codes(q.shape[2], start, q), part)
    turned, keys = position.rotate(q, k, 0)
    bias = position.score_bias(q, keys, projected, 0)
    assert bias is not None
    return turned @ keys.transpose(2, 3) / math.sqrt(WIDTH) + bias


def sinusoid(distance: int) -> np.ndarray:
    angle = [distance * 10000 ** (-2 * i / D) for i in range(D // 2)]
    return np.array([math.sin(a) for a in angle] + [math.cos(a) for a in angle])


@pytest.mark.parametrize("published", [False, True])
def test_relative_scores_by_pairs(published: bool) -> None:
    position = make(PublishedRelative if published else Relative)
    part = position.layer_part(D)
    assert isinstance(position, Relative) and isinstance(part, torch.nn.Linear)
    part.double()
    for bias in (position.content_bias, position.distance_bias):
        torch.nn.init.normal_(bias)
    q, k, start = rand(B, H, T, WIDTH), rand(B, H, T, WIDTH, seed=1), torch.tensor([0, 30])
    found = scores(position, part, q, k, start).detach()
    r_net = part.weight.detach().numpy()
    for b in range(B):
        for h in range(H):
            u, v = position.content_bias[h].detach().numpy(), position.distance_bias[h].detach().numpy()
            for i in range(T):
                for j in range(T):
                    if j > i:
                        assert found[b, h, i, j] == -math.inf
                        continue
                    distance = i - j + (int(start[b]) if published else 0)
                    code = (r_net @ sinusoid(distance))[h * WIDTH : (h + 1) * WIDTH]
                    query, key = q[b, h, i].numpy(), k[b, h, j].numpy()
                    expected = ((query + u) @ key + (query + v) @ code) / math.sqrt(WIDTH)
                    assert found[b, h, i, j].item() == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("kind", [Relative, PublishedRelative, Rope, Yarn, Alibi])
def test_scores_depend_on_the_distance_alone(kind: Callable[..., Position]) -> None:
    """The same query and the same key at all places: every diagonal of the scores is constant, not all equal."""
    position = make(kind)
    part = position.layer_part(D)
    if part is not None:
        part.double()
    q = rand(1, H, 1, WIDTH).expand(1, H, T, WIDTH)
    k = rand(1, H, 1, WIDTH, seed=1).expand(1, H, T, WIDTH)
    found = scores(position, part, q, k, torch.tensor([0])).detach()
    for distance in range(T):
        diagonal = found.diagonal(-distance, 2, 3)
        torch.testing.assert_close(diagonal, diagonal[..., :1].expand_as(diagonal), rtol=0, atol=2e-6)
    assert (found[0, :, T - 1, 0] - found[0, :, T - 1, T - 1]).abs().min() > 1e-4


@pytest.mark.parametrize("base", [10000.0, 100.0])
def test_rope_turns_pairs_as_complex_numbers(base: float) -> None:
    position = make(Rope, base=base)
    q, k = rand(B, H, T, WIDTH), rand(B, H, T, WIDTH, seed=1)
    first = 7
    for turned, raw in zip(position.rotate(q, k, first), (q, k), strict=True):
        torch.testing.assert_close(turned.norm(dim=-1), raw.norm(dim=-1))
        for i in range(T):
            for m in range(WIDTH // 2):
                before = complex(raw[1, 2, i, m], raw[1, 2, i, m + WIDTH // 2])
                after = before * cmath.exp(1j * (first + i) * base ** (-2 * m / WIDTH))
                assert turned[1, 2, i, m].item() == pytest.approx(after.real, abs=5e-6)
                assert turned[1, 2, i, m + WIDTH // 2].item() == pytest.approx(after.imag, abs=5e-6)


@pytest.mark.parametrize(("factor", "length"), [(4.0, 1024), (8.0, 256), (32.0, 4096)])
def test_yarn_by_the_paper(factor: float, length: int) -> None:
    """Wavelength by wavelength: kept where it fits `length` beta_fast times or more, stretched where less than once."""
    dim, base, fast, slow = 64, 10000.0, 32.0, 1.0
    position = Yarn(dim, 1, base=base, factor=factor, max_seq_len=length, beta_fast=fast, beta_slow=slow)
    kept = stretched = between = 0
    shares = []
    for i in range(dim // 2):
        theta = base ** (-2 * i / dim)
        turns = length / (2 * math.pi / theta)
        found = position.frequencies[i].item()
        if turns >= fast:
            assert found == pytest.approx(theta, rel=1e-5)
            kept += 1
        elif turns <= slow:
            assert found == pytest.approx(theta / factor, rel=1e-5)
            stretched += 1
        else:
            shares.append((found / theta - 1 / factor) / (1 - 1 / factor))  # 1: kept, 0: stretched
            between += 1
    assert kept > 0 and stretched > 0 and between > 3
    steps = np.diff([1.0, *shares, 0.0])
    assert (steps < 0).all(), "a ramp from kept to stretched"
    np.testing.assert_allclose(steps, steps.mean(), rtol=1e-3, err_msg="linear in the index, as its authors have it")
    assert position.scale == pytest.approx(0.1 * math.log(factor) + 1)


def test_yarn_temperature_scales_scores_by_its_square() -> None:
    position = make(Yarn, factor=4.0)
    q, k = rand(1, H, 1, WIDTH), rand(1, H, 1, WIDTH, seed=1)
    turned, keys = position.rotate(q, k, 0)  # nothing is turned at place 0
    ratio = (turned @ keys.transpose(2, 3)) / (q @ k.transpose(2, 3))
    torch.testing.assert_close(ratio, torch.full_like(ratio, (0.1 * math.log(4) + 1) ** 2), rtol=1e-6, atol=0)


def test_yarn_without_stretching_is_rope() -> None:
    q, k = rand(B, H, T, WIDTH), rand(B, H, T, WIDTH, seed=1)
    for ours, plain in zip(make(Yarn, factor=1.0).rotate(q, k, 3), make(Rope).rotate(q, k, 3), strict=True):
        torch.testing.assert_close(ours, plain)


SLOPES = {
    1: [2**-8],
    2: [2**-4, 2**-8],
    8: [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256],
    6: [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8],
    12: [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256, 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5],
}


@pytest.mark.parametrize("n_head", SLOPES)
def test_alibi_slopes(n_head: int) -> None:
    assert alibi_slopes(n_head) == pytest.approx(SLOPES[n_head], rel=1e-12)


def test_alibi_scores_fall_with_distance() -> None:
    position, q = Alibi(16, 8), rand(1, 8, 4, 2)
    bias = position.score_bias(q, q, None, 0)
    assert bias is not None
    for h in range(8):
        for i in range(4):
            for j in range(4):
                assert bias[h, i, j].item() == (-SLOPES[8][h] * (i - j) if j <= i else -math.inf)


def test_sinusoids_are_added() -> None:
    x = rand(B, T, D)
    added = make(Sinusoidal).embed(x, 3) - x
    for t in range(T):
        for i in range(D // 2):
            angle = (3 + t) / 10000 ** (2 * i / D)
            assert added[1, t, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert added[1, t, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


def test_learned_positions_are_added_and_end() -> None:
    position = make(Learnable, max_seq_len=8)
    assert isinstance(position, Learnable)
    x = rand(B, T, D)
    assert torch.allclose(position.embed(x, 3) - x, position.table.weight[3:8].expand(B, T, D))
    with pytest.raises(ValueError, match="a segment of 9 tokens does not fit max_seq_len=8"):
        position.embed(x, 4)


@pytest.mark.parametrize("kind", SCHEMES)
@pytest.mark.parametrize("pieces", [[1, 1, 1, 1, 1], [2, 1, 2], [3, 2], [4, 1]])
def test_in_pieces_as_in_one(kind: Callable[..., Position], pieces: list[int]) -> None:
    position = make(kind)
    part = position.layer_part(D)
    if part is not None:
        part.double()
    q, k, x, start = rand(B, H, T, WIDTH), rand(B, H, T, WIDTH, seed=1), rand(B, T, D), torch.tensor([0, 30])
    projected = position.project(position.codes(T, start, x), part)
    whole_q, whole_k = position.rotate(q, k, 0)
    whole = position.score_bias(q, whole_k, projected, 0)
    assert whole is not None
    whole, first = whole.expand(B, H, T, T), 0
    for size in pieces:
        rows, seen = slice(first, first + size), first + size
        turned, keys = position.rotate(q[:, :, rows], k[:, :, rows], first)
        torch.testing.assert_close(turned, whole_q[:, :, rows])
        torch.testing.assert_close(keys, whole_k[:, :, rows])
        bias = position.score_bias(q[:, :, rows], whole_k[:, :, :seen], projected, first)
        expected = whole[:, :, rows, :seen]
        bias = torch.zeros_like(expected) if bias is None else bias.expand_as(expected)
        torch.testing.assert_close(bias, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(position.embed(x[:, rows], first), position.embed(x, 0)[:, rows])
        first = seen


def test_causal_mask() -> None:
    mask = causal(1, 2, rand(1))
    assert mask is not None and mask.tolist() == [[0, 0, -math.inf], [0, 0, 0]]
    assert causal(4, 1, rand(1)) is None


def test_frequencies() -> None:
    np.testing.assert_allclose(frequencies(6).numpy(), [1, 10000 ** (-2 / 6), 10000 ** (-4 / 6)], rtol=1e-6)


def test_rotary_positions_need_an_even_head_width() -> None:
    with pytest.raises(ValueError, match="even head width"):
        Rope(6, 2)
