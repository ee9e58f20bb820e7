"""The gated delta rule in chunks against the matrix recurrence, and its layer against torch's own parts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from elmur.baselines.gated_deltanet import CHUNK, GatedDeltaNet, GatedDeltaRule, delta_rule
from elmur.state import tensors_of
from tests.elmur.samples import SPEC

B, H, K, V = 2, 3, 4, 5


def recurrence(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, b: torch.Tensor, a: torch.Tensor, S: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """S_t = a_t S_{t-1} (I - b_t k_t k_t^T) + b_t v_t k_t^T and o_t = S_t q_t, for one lane and head."""
    outputs = []
    for t in range(len(q)):
        S = a[t] * S @ (torch.eye(len(k[t]), dtype=S.dtype) - b[t] * torch.outer(k[t], k[t]))
        S = S + b[t] * torch.outer(v[t], k[t])
        outputs.append(S @ q[t])
    return torch.stack(outputs), S


@pytest.mark.parametrize("steps", [1, 2, CHUNK, CHUNK + 1, 2 * CHUNK + 7])
@pytest.mark.parametrize("fading", [0.01, 1.0, 300.0])
def test_chunks_are_the_recurrence(steps: int, fading: float) -> None:
    """Also where decays of one chunk multiply to less than the smallest number there is."""
    g = torch.Generator().manual_seed(steps)
    q, k, v, b, a, S = (
        torch.randn(shape, generator=g, dtype=torch.float64)
        for shape in ((B, H, steps, K), (B, H, steps, K), (B, H, steps, V), (B, H, steps), (B, H, steps), (B, H, V, K))
    )
    k, b, log_decay = F.normalize(k, dim=-1), b.sigmoid(), -fading * F.softplus(a)
    out, last = delta_rule(q, k, v, b, log_decay, S)
    for lane in range(B):
        for head in range(H):
            parts = (part[lane, head] for part in (q, k, v, b, log_decay.exp(), S))
            expected, matrix = recurrence(*parts)
            assert (out[lane, head] - expected).abs().max() < 1e-12
            assert (last[lane, head] - matrix).abs().max() < 1e-12


def test_a_key_written_with_full_strength_is_read_back() -> None:
    """The delta rule replaces: the second value of a key is found alone, other keys that are orthogonal keep theirs."""
    k = torch.eye(K, dtype=torch.float64)[[0, 1, 0]].expand(1, 1, 3, K)
    v = torch.randn(1, 1, 3, V, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ones, zeros = torch.ones(1, 1, 3, dtype=torch.float64), torch.zeros(1, 1, 3, dtype=torch.float64)
    _, S = delta_rule(k, k, v, ones, zeros, torch.ones(1, 1, V, K, dtype=torch.float64))
    assert torch.allclose(S[0, 0] @ k[0, 0, 0], v[0, 0, 2]) and torch.allclose(S[0, 0] @ k[0, 0, 1], v[0, 0, 1])


def test_the_layer() -> None:
    torch.manual_seed(0)
    mixer, heads, width = GatedDeltaRule(12, 3).double(), 3, 4
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(B, 7, 12, dtype=torch.float64)
    out, _ = mixer(x, mixer.initial(x, B))
    projected = F.pad(mixer.query_key_value(x).transpose(1, 2), (3, 0))
    weight = mixer.convolution.weight.unsqueeze(1)
    mixed = F.silu(F.conv1d(projected, weight, mixer.convolution.bias, groups=36)).transpose(1, 2)
    a = torch.exp(-torch.exp(mixer.A_log) * F.softplus(mixer.fade(x) + mixer.fade_bias))
    b = mixer.strength(x).sigmoid()
    for lane in range(B):
        found = []
        for head in range(heads):
            q, k, v = (mixed[lane, :, 12 * i + width * head : 12 * i + width * (head + 1)] for i in range(3))
            q, k = q / q.norm(dim=-1, keepdim=True) / 2, k / k.norm(dim=-1, keepdim=True)  # 2 = sqrt(width)
            o, _ = recurrence(q, k, v, b[lane, :, head], a[lane, :, head], torch.zeros(width, width).double())
            found.append(o / (o.square().mean(-1, keepdim=True) + 1e-5).sqrt() * mixer.norm.weight)
        expected = mixer.out(torch.cat(found, -1) * F.silu(mixer.gate(x[lane])))
        assert (out[lane] - expected).abs().max() < 1e-12


def test_a_long_episode_stays_finite() -> None:
    torch.manual_seed(0)
    model = GatedDeltaNet(SPEC, d_model=8, n_layer=1, n_head=2, d_ff=0)
    state = model.initial_memory(1)
    with torch.no_grad():
        for _ in range(10):
            x, state = model.recur(10 * torch.randn(1, 10_000, 8), state)
    assert x.isfinite().all() and all(tensor.isfinite().all() for tensor in tensors_of(state))


def test_heads_that_do_not_divide_the_width() -> None:
    with pytest.raises(ValueError, match="d_model a multiple of n_head; found 10, 2 and 3"):
        GatedDeltaNet(SPEC, d_model=10, n_head=3)
