"""Attention against loops over heads, queries and keys."""

from __future__ import annotations

import math

import pytest
import torch

from elmur.attention import CrossAttention, SelfAttention, attend, merge_heads, split_heads
from elmur.positional import Position

G = torch.Generator().manual_seed(0)


def rand(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=G, dtype=torch.float64)


def attend_by_loop(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor, heads: int) -> torch.Tensor:
    """`[B, Q, D]` from `[B, Q, D]`, `[B, K, D]` twice and `[B, H, Q, K]`; head h owns columns h d .. (h + 1) d."""
    q, k, v = q.detach(), k.detach(), v.detach()
    out, width = torch.zeros_like(q), q.shape[2] // heads
    for b in range(q.shape[0]):
        for h in range(heads):
            own = slice(h * width, (h + 1) * width)
            for i in range(q.shape[1]):
                score = [
                    float(q[b, i, own] @ k[b, j, own]) / math.sqrt(width) + float(bias[b, h, i, j])
                    for j in range(k.shape[1])
                ]
                share = [math.exp(s - max(score)) for s in score]
                for j, part in enumerate(share):
                    out[b, i, own] += part / sum(share) * v[b, j, own]
    return out


def test_heads_are_neighbouring_columns() -> None:
    x = rand(2, 3, 6)
    heads = split_heads(x, 2)
    assert heads.shape == (2, 2, 3, 3)
    assert torch.equal(heads[1, 1, 2], x[1, 2, 3:])
    assert torch.equal(merge_heads(heads), x)


def test_attend() -> None:
    q, k, v, bias = rand(2, 3, 6), rand(2, 5, 6), rand(2, 5, 6), rand(2, 2, 3, 5)
    bias[0, 1, 2, 4] = -torch.inf
    found = attend(split_heads(q, 2), split_heads(k, 2), split_heads(v, 2), bias)
    torch.testing.assert_close(found, attend_by_loop(q, k, v, bias, 2), rtol=1e-10, atol=1e-12)


def test_cross_attention() -> None:
    torch.manual_seed(0)
    net = CrossAttention(6, 3).double().eval()
    torch.nn.init.normal_(net.out.bias)
    x, source, bias = rand(2, 4, 6), rand(2, 5, 6), rand(2, 3, 4, 5)
    key, value = net.key_value.weight[:6], net.key_value.weight[6:]
    mixed = attend_by_loop(x @ net.query.weight.T, source @ key.T, source @ value.T, bias, 3)
    expected = mixed @ net.out.weight.T + net.out.bias
    torch.testing.assert_close(net(x, net.project(source), bias), expected, rtol=1e-10, atol=1e-12)


def self_attention() -> SelfAttention:
    torch.manual_seed(0)
    return SelfAttention(6, 3, Position(), 0.0, 0.0).double().eval()


def test_self_attention_is_causal() -> None:
    net, x = self_attention(), rand(2, 4, 6)
    query, key, value = net.qkv.weight.split_with_sizes([6, 6, 6])
    later = torch.ones(4, 4, dtype=torch.float64).triu(1).mul(-1e9).expand(2, 3, 4, 4)
    mixed = attend_by_loop(x @ query.T, x @ key.T, x @ value.T, later, 3)
    expected = mixed @ net.out.weight.T + net.out.bias
    torch.testing.assert_close(net(x, Position(), None), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("pieces", [[1, 1, 1, 1], [2, 2], [1, 3], [4]])
def test_with_a_cache_tokens_may_come_in_pieces(pieces: list[int]) -> None:
    net, x, at, found = self_attention(), rand(2, 4, 6), 0, []
    cache = net.empty_cache(2, 4, x)
    for size in pieces:
        found.append(net(x[:, at : at + size], Position(), None, at, cache))
        at += size
    torch.testing.assert_close(torch.cat(found, dim=1), net(x, Position(), None), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("knob", ["dropout", "dropatt"])
@pytest.mark.parametrize("kind", ["self", "cross"])
def test_both_dropouts_act_in_training_only(kind: str, knob: str) -> None:
    x, source, chances = rand(1, 4, 6), rand(1, 5, 6), [0.5 * (knob == name) for name in ("dropout", "dropatt")]
    cross = CrossAttention(6, 3, chances[0], chances[1]).double()
    own = SelfAttention(6, 3, Position(), chances[0], chances[1]).double()

    def run() -> torch.Tensor:
        return cross(x, cross.project(source), None) if kind == "cross" else own(x, Position(), None)

    assert not torch.equal(run(), run())
    cross.eval()
    own.eval()
    assert torch.equal(run(), run())
