"""Gated DeltaNet: a matrix per head that is written by the delta rule and fades as each token says."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from elmur.baselines.stack import Block, CausalConvolution, Mixer, Stack, time_step_bias
from elmur.spec import TaskSpec
from elmur.tokens import TokenFormat

CHUNK = 32  # steps that are solved for together


@dataclass
class DeltaState:
    """What one layer carries: the last inputs of its convolution, and a matrix for each of H heads."""

    window: Float[Tensor, "B K1 C"]
    matrix: Float[Tensor, "B H V K"]


class GatedDeltaRule(Mixer):
    """The mixer of Yang, Kautz and Hatamizadeh 2024 (arXiv 2412.06464, equation 10), for each head:

        S_t = a_t S_{t-1} (I - b_t k_t k_t^T) + b_t v_t k_t^T;  o_t = S_t q_t

    q, k, v = silu(conv(W x)), q and k of length 1, q over sqrt(K); b = sigmoid(W_b x); the gate
    log a = -exp(A_log) softplus(W_a x + bias) is never positive. Outputs are normed per head, gated by silu(W_g x) and
    mixed. Keys and values are of width D / H; the paper's values are twice as wide.
    """

    def __init__(self, d_model: int, n_head: int, d_conv: int = 4) -> None:
        super().__init__()
        self.n_head = n_head
        self.query_key_value = nn.Linear(d_model, 3 * d_model, bias=False)
        self.convolution = CausalConvolution(3 * d_model, d_conv)
        self.strength = nn.Linear(d_model, n_head, bias=False)
        self.fade = nn.Linear(d_model, n_head, bias=False)
        self.fade_bias = nn.Parameter(time_step_bias(n_head))
        self.A_log = nn.Parameter(torch.empty(n_head).uniform_(1.0, 16.0).log())
        self.gate = nn.Linear(d_model, d_model, bias=False)
        self.norm = nn.RMSNorm(d_model // n_head, eps=1e-5)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def initial(self, like: Tensor, batch_size: int) -> DeltaState:
        channels, kernel = self.convolution.weight.shape
        width = channels // 3 // self.n_head
        return DeltaState(
            like.new_zeros(batch_size, kernel - 1, channels), like.new_zeros(batch_size, self.n_head, width, width)
        )

    def forward(self, x: Float[Tensor, "B T D"], state: DeltaState) -> tuple[Float[Tensor, "B T D"], DeltaState]:
        exact = state.matrix.dtype
        mixed, window = self.convolution(self.query_key_value(x), state.window)
        q, k, v = torch.unflatten(F.silu(mixed), -1, (3, self.n_head, -1)).permute(2, 0, 3, 1, 4)  # [B, H, T, K]
        q, k = F.normalize(q, dim=-1) * q.shape[-1] ** -0.5, F.normalize(k, dim=-1)
        strength = torch.sigmoid(self.strength(x).to(exact)).transpose(1, 2)  # [B, H, T]
        log_decay = -(self.A_log.exp() * F.softplus(self.fade(x).to(exact) + self.fade_bias)).transpose(1, 2)
        with torch.autocast(x.device.type, enabled=False):
            o, matrix = delta_rule(q, k, v, strength, log_decay, state.matrix)
        o = self.norm(o).transpose(1, 2).flatten(2)
        return self.out(o * F.silu(self.gate(x))), DeltaState(window, matrix)


def delta_rule(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B H T K"],
    v: Float[Tensor, "B H T V"],
    strength: Float[Tensor, "B H T"],
    log_decay: Float[Tensor, "B H T"],
    matrix: Float[Tensor, "B H V K"],
) -> tuple[Float[Tensor, "B H T V"], Float[Tensor, "B H V K"]]:
    """Outputs of the gated delta rule, chunk after chunk, and the matrix after the last step."""
    outputs = []
    for begin in range(0, q.shape[2], CHUNK):
        chunk = slice(begin, begin + CHUNK)
        out, matrix = delta_chunk(
            q[:, :, chunk], k[:, :, chunk], v[:, :, chunk], strength[:, :, chunk], log_decay[:, :, chunk], matrix
        )
        outputs.append(out)
    return torch.cat(outputs, dim=2), matrix


def delta_chunk(
    q: Tensor, k: Tensor, v: Tensor, strength: Tensor, log_decay: Tensor, matrix: Tensor
) -> tuple[Tensor, Tensor]:
    """One chunk of steps at once.

    With u_t = b_t (v_t - a_t S_{t-1} k_t), what is really written at k_t, S_t = a_t S_{t-1} + u_t k_t^T; put into each
    other these are one triangular system for all u of the chunk. G_ij = a_{j+1} ... a_i is made of logarithms.
    """
    since = log_decay.cumsum(dim=-1)  # of the chunk's start, [B, H, T]
    steps = torch.arange(since.shape[-1], device=since.device)
    later = steps.unsqueeze(1) - steps  # i - j
    between = (since.unsqueeze(-1) - since.unsqueeze(-2)).masked_fill(later < 0, float("-inf")).exp()
    held = since.exp().unsqueeze(-1) * (k @ matrix.transpose(-1, -2))  # a_1 ... a_t S_0 k_t
    system = (strength.unsqueeze(-1) * between * (k @ k.transpose(-1, -2))).masked_fill(later == 0, 1.0)
    target = strength.unsqueeze(-1) * (v - held)
    u = torch.linalg.solve_triangular(system, target, upper=False, unitriangular=True)
    out = since.exp().unsqueeze(-1) * (q @ matrix.transpose(-1, -2)) + (between * (q @ k.transpose(-1, -2))) @ u
    left = between[..., -1, :].unsqueeze(-1)
    return out, since[..., -1:].exp().unsqueeze(-1) * matrix + (u * left).transpose(-1, -2) @ k


class GatedDeltaNet(Stack):
    """Tokens, `n_layer` blocks of the gated delta rule with an MLP each, a norm, head.

    d_conv: steps that the convolution before the rule sees. d_ff: width of the MLPs, 0 for none. The state is one
    `DeltaState` a layer.
    """

    def __init__(
        self,
        spec: TaskSpec,
        d_model: int = 96,
        n_layer: int = 2,
        n_head: int = 3,
        dropout: float = 0.0,
        token_format: str | TokenFormat = "s",
        d_conv: int = 4,
        d_ff: int = 192,
    ) -> None:
        if min(d_model, n_layer, n_head) < 1 or d_model % n_head:
            raise ValueError(
                "d_model, n_layer and n_head must be 1 or more, d_model a multiple of n_head; "
                f"found {d_model}, {n_layer} and {n_head}"
            )
        layers = (Block(GatedDeltaRule(d_model, n_head, d_conv), d_model, d_ff, dropout) for _ in range(n_layer))
        super().__init__(spec, d_model, layers, nn.LayerNorm(d_model), dropout, token_format)
