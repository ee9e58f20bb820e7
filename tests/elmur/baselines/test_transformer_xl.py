"""The trunk of cached states and memory tokens, against one attention over the whole sequence, written out in loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from elmur.baselines.transformer_xl import TransformerXL, XLLayer, aligned, forward_scores
from elmur.residual import Gated, PreNorm

D, HEADS, CACHED, TOKENS, SEGMENT = 8, 2, 4, 3, 5
Part = tuple[str, int]


def trunk(n_layer: int = 2, **changes: Any) -> TransformerXL:
    torch.manual_seed(0)
    model = TransformerXL(D, n_layer, HEADS, 0.0, 0.0, **changes).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def rand(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def may_see(query: Part, key: Part) -> bool:
    """The rule of the sequence `[cache | read | segment | write]`, by the kind of two tokens and their place."""
    (asks, i), (asked, j) = query, key
    if asks == "read":
        return asked == "read"
    if asks == "write":
        return asked != "cache"
    return asked in ("cache", "read") or (asked == "segment" and j <= i)


def sinusoid(distance: int) -> Tensor:
    """In exact arithmetic; the model rounds its frequencies to float32."""
    angles = [distance / 10000.0 ** (2 * i / D) for i in range(D // 2)]
    return torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles], dtype=torch.float64)


def one_by_one(model: TransformerXL, layer: XLLayer, cached: Tensor, rows: Tensor, kinds: list[Part]) -> Tensor:
    """Attention's output for each row of one lane, a pair of tokens at a time (Dai et al., 2019, section 3.3)."""
    attention, position = layer.attention, model.position
    width = attention.query.out_features // HEADS
    everything, out = torch.cat([cached, rows]), []
    keys, values = (part.view(-1, HEADS, width) for part in attention.key_value(everything).chunk(2, dim=-1))
    for i in range(len(cached), len(everything)):
        query, heads = attention.query(everything[i]).view(HEADS, width), []
        for head in range(HEADS):
            scores = []
            for j in range(len(everything)):
                distance = attention.distances(sinusoid(i - j)).view(HEADS, width)[head]
                content = (query[head] + position.content_bias[head]) @ keys[j, head]
                place = (query[head] + position.distance_bias[head]) @ distance
                score = (content + place) / math.sqrt(width)
                scores.append(score if may_see(kinds[i], kinds[j]) else torch.tensor(-torch.inf).double())
            heads.append(torch.stack(scores).softmax(0) @ values[:, head])
        out.append(attention.out(torch.cat(heads)))
    return torch.stack(out)


def kinds_of(absent: int) -> list[Part]:
    counts = {"cache": CACHED - absent, "read": TOKENS, "segment": SEGMENT, "write": TOKENS}
    return [(kind, i) for kind, count in counts.items() for i in range(count)]


@pytest.mark.parametrize("changes", [{}, {"d_head": 6, "feedforward": None, "residual": Gated}, {"residual": PreNorm}])
def test_open_segment_is_one_attention_over_everything(changes: dict[str, Any]) -> None:
    model, lanes = trunk(**changes), 2
    read, cached = rand(lanes, TOKENS, D, seed=2), rand(lanes, 2, CACHED, D, seed=3)
    x, absent = rand(lanes, SEGMENT, D, seed=4), torch.tensor([0, 3])
    stream = model.open(read, cached, absent, SEGMENT + TOKENS)
    steps = [model.append(stream, part)[0] for part in x.split([2, 1, 2], dim=1)]
    written = model.memory_tokens(stream, read)[0]
    for lane in range(lanes):
        rows, gone = torch.cat([read[lane], x[lane], read[lane]]), int(absent[lane])
        for depth, layer in enumerate(model.layers):
            before = layer.attention_residual.cached(cached[lane, depth, gone:])
            mixed = one_by_one(model, layer, before, layer.attention_residual.source(rows), kinds_of(gone))
            rows = layer.attention_residual(rows, lambda _, mixed=mixed: mixed)
            if layer.feedforward is not None and layer.feedforward_residual is not None:
                rows, _ = layer.feedforward_residual(rows, layer.feedforward)
        torch.testing.assert_close(torch.cat(steps, 1)[lane], rows[TOKENS:-TOKENS], rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(written[lane], rows[-TOKENS:], rtol=1e-7, atol=1e-7)
    newest = torch.cat([cached[:, 0], read, x, read], dim=1)[:, -CACHED:]
    assert torch.equal(model.next_cache(stream)[:, 0], newest)


def test_no_gradient_passes_through_the_cache() -> None:
    model = trunk()
    x = rand(1, SEGMENT, D, seed=4).requires_grad_()
    nothing, cached = x.new_empty(1, 0, D), x.new_zeros(1, 2, CACHED, D)
    first = model.open(nothing, cached, torch.tensor([CACHED]), SEGMENT)
    model.append(first, x)
    second = model.open(nothing, model.next_cache(first), torch.tensor([0]), SEGMENT)
    out = model.append(second, rand(1, SEGMENT, D, seed=5))[0]
    assert out.requires_grad and torch.autograd.grad(out.sum(), x, allow_unused=True)[0] is None


def test_scores_by_distance_find_their_keys() -> None:
    scores = torch.arange(24.0).view(1, 1, 3, 8)
    found = aligned(scores, 5)[0, 0]
    for i in range(3):
        for j in range(5 - 2 + i):  # up to the query's own key
            assert found[i, j] == scores[0, 0, i, 4 - (2 + i - j)], "column 4 - distance"


def published_shift(scores: Tensor) -> Tensor:
    """The shift of Transformer-XL's code on `[Q, K]`: a column of zeros in front, read again in shorter rows."""
    queries, keys = scores.shape
    padded = torch.cat([scores.new_zeros(queries, 1), scores], dim=1).reshape(keys + 1, queries)
    return padded[1:].reshape(queries, keys)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_forward_scores_are_what_the_published_shift_wraps_around(size: int) -> None:
    earlier, width = 6, 4
    keys = earlier + size
    scaled, code = rand(1, 1, size, width), rand(keys + 3, width, seed=2)  # by distance
    by_distance = scaled[0, 0] @ code[torch.arange(keys - 1, -1, -1)].T
    expected = published_shift(by_distance)

    def vector(distance: Tensor) -> Tensor:
        return code[distance].unsqueeze(1)

    below_0 = torch.cat([by_distance, rand(size, size, seed=3)], dim=1)[None, None]
    found = forward_scores(aligned(below_0, keys), scaled, torch.tensor([keys]), vector)
    torch.testing.assert_close(found[0, 0], expected)


def test_sizes_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="n_head must divide d_model; found n_head=3 and d_model=8"):
        TransformerXL(8, 1, 3)
    with pytest.raises(ValueError, match="d_head must be 1 or more and d_model even; found 7, 1, 3 and 4"):
        TransformerXL(7, 1, 3, d_head=4)
