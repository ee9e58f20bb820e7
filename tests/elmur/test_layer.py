"""One ELMUR layer against the paper's steps in numpy: attend, read, transform, write."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from scipy.special import erf, softmax

from elmur.attention import CrossAttention, SelfAttention
from elmur.feedforward import MLP
from elmur.layer import ELMURLayer, Read, Segment
from elmur.memory import LRU, Memory, shares, written_slots
from elmur.memory_bias import MemoryBias
from elmur.positional import Position
from elmur.published.quirks import PublishedLRU
from elmur.residual import PostNorm, PreNorm, Residual

D, H, T, M, B = 6, 2, 4, 3, 2


class ByHand:
    """The layer for one lane, from its weights; `[T, D]` tokens, `[M, D]` slots."""

    def __init__(self, layer: ELMURLayer, pre: bool) -> None:
        self.w = {name: value.detach().numpy() for name, value in layer.state_dict().items()}
        self.pre = pre

    def norm(self, name: str, x: np.ndarray) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scale = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return centred / scale * self.w[f"{name}.norm.weight"] + self.w[f"{name}.norm.bias"]

    def around(self, name: str, x: np.ndarray, f) -> np.ndarray:
        return x + f(self.norm(name, x)) if self.pre else self.norm(name, x + f(x))

    def heads(self, q: np.ndarray, k: np.ndarray, v: np.ndarray, bias: np.ndarray) -> np.ndarray:
        width, out = D // H, []
        for h in range(H):
            own = slice(h * width, (h + 1) * width)
            out.append(softmax(q[:, own] @ k[:, own].T / np.sqrt(width) + bias[h], axis=-1) @ v[:, own])
        return np.concatenate(out, axis=-1)

    def distances(self, queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
        table = self.w["bias.table.weight"]
        reach = len(table) // 2
        index = np.clip(queries[:, None] - keys[None], -reach, reach) + reach
        return table[index].transpose(2, 0, 1)

    def cross(self, name: str, x: np.ndarray, source: np.ndarray, bias: np.ndarray) -> np.ndarray:
        k, v = np.split(source @ self.w[f"{name}.key_value.weight"].T, 2, axis=-1)
        mixed = self.heads(x @ self.w[f"{name}.query.weight"].T, k, v, bias)
        return mixed @ self.w[f"{name}.out.weight"].T + self.w[f"{name}.out.bias"]

    def attention(self, x: np.ndarray, beside: np.ndarray | None = None, bias: np.ndarray | None = None) -> np.ndarray:
        q, k, v = np.split(x @ self.w["attention.qkv.weight"].T, 3, axis=-1)
        later = np.stack([np.triu(np.full((T, T), -np.inf), 1)] * H)
        if beside is not None and bias is not None:
            _, more_k, more_v = np.split(beside @ self.w["attention.qkv.weight"].T, 3, axis=-1)
            k, v, later = np.concatenate([k, more_k]), np.concatenate([v, more_v]), np.concatenate([later, bias], -1)
        mixed = self.heads(q, k, v, later)
        return mixed @ self.w["attention.out.weight"].T + self.w["attention.out.bias"]

    def mlp(self, name: str, x: np.ndarray) -> np.ndarray:
        hidden = x @ self.w[f"{name}.up.weight"].T + self.w[f"{name}.up.bias"]
        hidden = hidden * 0.5 * (1 + erf(hidden / np.sqrt(2)))
        return hidden @ self.w[f"{name}.down.weight"].T + self.w[f"{name}.down.bias"]

    def tokens(self, x: np.ndarray, slots: np.ndarray, steps: np.ndarray, dates: np.ndarray) -> np.ndarray:
        x = self.around("attention_residual", x, self.attention)
        bias = self.distances(steps, dates)
        x = self.around("read_residual", x, lambda y: self.cross("reader", y, slots, bias))
        return self.around("feedforward_residual", x, lambda y: self.mlp("feedforward", y))

    def candidates(self, x: np.ndarray, slots: np.ndarray, steps: np.ndarray, dates: np.ndarray) -> np.ndarray:
        bias = self.distances(dates, steps)
        m = self.around("write_residual", slots, lambda y: self.cross("writer", y, x, bias))
        return self.around("memory_residual", m, lambda y: self.mlp("memory_feedforward", y))


@pytest.mark.parametrize("residual", [PostNorm, PreNorm])
@pytest.mark.parametrize("write", [LRU, PublishedLRU])
def test_the_four_steps(residual: type[Residual], write: type[LRU]) -> None:
    torch.manual_seed(0)
    rule = write(lru_blend_alpha=0.3, slots_per_write=2)
    layer = ELMURLayer(
        attention=SelfAttention(D, H, Position(), 0.0, 0.0),
        cross=partial(CrossAttention, D, H),
        feedforward=partial(MLP, D, d_ff=10),
        residual=partial(residual, D),
        bias=MemoryBias(H, max_seq_len=6, init_std=1.0),
        write_rule=rule,
    ).double()
    for parameter in layer.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter)
    x = torch.randn(B, T, D, dtype=torch.float64)
    memory = Memory(torch.randn(B, M, D, dtype=torch.float64), torch.tensor([[3, -1, 1], [0, 2, 1]]))
    segment = Segment(torch.arange(4, 8).expand(B, T), torch.tensor([7, 8]), None)

    tokens, balance = layer(x, memory, segment, Position())
    after, write_balance = layer.write(memory, tokens, segment)

    assert balance is None and write_balance is None
    hand, chosen = ByHand(layer, residual is PreNorm), [[1, 2], [0, 2]]  # oldest first
    for b in range(B):
        slots, dates, steps = memory.slots[b].numpy(), memory.written_at[b].numpy(), np.arange(4, 8)
        expected = hand.tokens(x[b].numpy(), slots, steps, dates)
        np.testing.assert_allclose(tokens[b].detach().numpy(), expected, rtol=1e-10, atol=1e-12)
        candidate, new = hand.candidates(expected, slots, steps, dates), slots.copy()
        for j in chosen[b]:
            share = 1.0 if dates[j] < 0 and write is LRU else 0.3
            new[j] = share * candidate[j] + (1 - share) * slots[j]
        np.testing.assert_allclose(after.slots[b].detach().numpy(), new, rtol=1e-10, atol=1e-12)
    assert after.written_at.tolist() == [[3, 7, 7], [8, 2, 8]]


@pytest.mark.parametrize("residual", [PostNorm, PreNorm])
def test_slots_read_in_the_attention_to_the_tokens_and_written_as_copies_of_them(residual: type[Residual]) -> None:
    """One softmax over tokens and written slots; a slot takes the mean of its share of what the layer was given."""
    torch.manual_seed(1)
    layer = ELMURLayer(
        attention=SelfAttention(D, H, Position(), 0.0, 0.0),
        cross=partial(CrossAttention, D, H),
        feedforward=partial(MLP, D, d_ff=10),
        residual=partial(residual, D),
        bias=MemoryBias(H, max_seq_len=6, init_std=1.0),
        write_rule=LRU(lru_blend_alpha=0.3, slots_per_write=2, divide_segment=True, copies=True),
        read=Read(written_slots, joint=True),
    ).double()
    assert {name.partition(".")[0] for name in layer.state_dict()} == {
        "attention", "attention_residual", "feedforward", "feedforward_residual", "bias"
    }, "no reader and no writer of its own"  # fmt: skip
    for parameter in layer.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter)
    x = torch.randn(B, T, D, dtype=torch.float64)
    memory = Memory(torch.randn(B, M, D, dtype=torch.float64), torch.tensor([[3, -1, 1], [-1, -1, -1]]))
    segment = Segment(torch.arange(4, 8).expand(B, T), torch.tensor([7, 8]), None)

    tokens, _ = layer(x, memory, segment, Position())
    after, _ = layer.write(memory, x, segment)

    hand = ByHand(layer, residual is PreNorm)
    for b, written in enumerate(([0, 2], [])):
        given, slots = x[b].numpy(), memory.slots[b].numpy()
        seen = hand.norm("attention_residual", slots[written]) if residual is PreNorm else slots[written]
        bias = hand.distances(np.arange(4, 8), memory.written_at[b].numpy()[written])
        y = hand.around("attention_residual", given, lambda z, seen=seen, bias=bias: hand.attention(z, seen, bias))
        y = hand.around("feedforward_residual", y, lambda z: hand.mlp("feedforward", z))
        np.testing.assert_allclose(tokens[b].detach().numpy(), y, rtol=1e-10, atol=1e-12)
        first, second = (given[0] + given[1]) / 2, (given[2] + given[3]) / 2
        if written:  # the empty slot, then the oldest, which is blended
            expected = np.stack([slots[0], first, 0.3 * second + 0.7 * slots[2]])
        else:
            expected = np.stack([first, second, slots[2]])
        np.testing.assert_allclose(after.slots[b].detach().numpy(), expected, rtol=1e-10, atol=1e-12)
    assert after.written_at.tolist() == [[3, 5, 7], [5, 7, -1]]


@pytest.mark.parametrize(("tokens", "slots"), [(4, 4), (5, 2), (7, 3), (6, 1)])
def test_shares_give_every_token_to_one_slot_in_order(tokens: int, slots: int) -> None:
    steps = torch.stack([torch.arange(tokens), 100 + torch.arange(tokens)])
    sees, dates = shares(steps, slots)
    owners = [[w for w in range(slots) if sees[w, t]] for t in range(tokens)]
    assert all(len(owner) == 1 for owner in owners)
    flat = [owner[0] for owner in owners]
    assert flat == sorted(flat) and set(flat) == set(range(slots))
    last = [max(t for t in range(tokens) if flat[t] == w) for w in range(slots)]
    assert dates.tolist() == [last, [100 + t for t in last]]


def test_more_shares_than_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match=r"slots_per_write=5 .* needs as many tokens in a segment; found 4"):
        shares(torch.arange(4).unsqueeze(0), 5)


@pytest.mark.parametrize("option", ["divide_segment", "copies"])
def test_what_the_published_write_cannot_do_is_refused(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option}: shares are those of written slots"):
        PublishedLRU(**{option: True})
