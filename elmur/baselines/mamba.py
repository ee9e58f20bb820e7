"""Mamba: a selective state space, whose step sizes, inputs and outputs depend on the token."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from elmur.baselines.scan import scan
from elmur.baselines.stack import Block, CausalConvolution, Mixer, Stack, time_step_bias
from elmur.spec import TaskSpec
from elmur.tokens import TokenFormat


@dataclass
class SelectiveState:
    """What one layer carries: the last inputs of its convolution, and N numbers for each of E channels."""

    window: Float[Tensor, "B K1 E"]
    space: Float[Tensor, "B N E"]


class SelectiveStateSpace(Mixer):
    """The mixer of Gu and Dao 2023 (arXiv 2312.00752, algorithm 2 with S6), E = expand * D channels of N numbers.

        x, z = W_in u;  x = silu(conv(x));  r, B_t, C_t = W_x x;  step_t = softplus(W_step r + b)
        h_t = exp(step_t A) h_{t-1} + step_t B_t x_t;  y_t = C_t h_t + skip x_t;  out = W_out (y silu(z))

    A = -exp(A_log) is diagonal and negative, so that every decay lies between 0 and 1. A_log is kept flat: it is no
    matrix of a linear map and does not decay as those do. Left out: fused kernels; the scan is `elmur.baselines.scan`.
    """

    def __init__(self, d_model: int, d_state: int = 16, d_conv: int = 4, expand: int = 2) -> None:
        super().__init__()
        inner, rank = expand * d_model, -(-d_model // 16)
        self.sizes = (rank, d_state, d_state)
        self.into = nn.Linear(d_model, 2 * inner, bias=False)
        self.convolution = CausalConvolution(inner, d_conv)
        self.select = nn.Linear(inner, sum(self.sizes), bias=False)
        self.step = nn.Linear(rank, inner)
        nn.init.uniform_(self.step.weight, -(rank**-0.5), rank**-0.5)
        with torch.no_grad():
            self.step.bias.copy_(time_step_bias(inner))
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(inner))
        self.skip = nn.Parameter(torch.ones(inner))
        self.out = nn.Linear(inner, d_model, bias=False)

    def initial(self, like: Tensor, batch_size: int) -> SelectiveState:
        channels, kernel = self.convolution.weight.shape
        return SelectiveState(
            like.new_zeros(batch_size, kernel - 1, channels), like.new_zeros(batch_size, self.sizes[-1], channels)
        )

    def forward(
        self, x: Float[Tensor, "B T D"], state: SelectiveState
    ) -> tuple[Float[Tensor, "B T D"], SelectiveState]:
        x, gate = self.into(x).chunk(2, dim=-1)
        x, window = self.convolution(x, state.window)
        x = F.silu(x)
        rank, write, read = self.select(x).split(self.sizes, dim=-1)
        exact = state.space.dtype
        step, write, read = F.softplus(self.step(rank).to(exact)), write.to(exact), read.to(exact)
        A = -self.A_log.exp().view(-1, self.sizes[-1]).T.contiguous()  # [N, E]: channels last is faster
        decay = torch.exp(step.unsqueeze(2) * A)  # [B, T, N, E]
        spaces = scan(decay, (step * x).unsqueeze(2) * write.unsqueeze(-1), state.space)
        y = torch.einsum("btne,btn->bte", spaces, read) + self.skip * x
        return self.out(y * F.silu(gate)), SelectiveState(window, spaces[:, -1])


class Mamba(Stack):
    """Tokens, `n_layer` blocks of a selective state space each, a norm, head.

    d_state: numbers for each channel (N). d_conv: steps that the convolution before it sees. expand: channels for each
    of D. d_ff: width of an MLP behind each mixer, 0 for none, which is Mamba; 4 D with token_format=sra is Decision
    Mamba (Ota 2024, arXiv 2403.19925), whose time steps the published code begins at 0.69 where they begin between
    0.001 and 0.1 here. norm_type: of the norms before the mixers, layer as in the released mixer `mamba`, or rmsnorm
    as in its `mamba-min` and in Mamba itself. All other norms are LayerNorm, as there. The state is one
    `SelectiveState` a layer.
    """

    def __init__(
        self,
        spec: TaskSpec,
        d_model: int = 96,
        n_layer: int = 2,
        dropout: float = 0.0,
        token_format: str | TokenFormat = "s",
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        d_ff: int = 0,
        norm_type: str = "layer",
    ) -> None:
        if min(d_model, n_layer, d_state, expand) < 1:
            sizes = f"{d_model}, {n_layer}, {d_state} and {expand}"
            raise ValueError(f"d_model, n_layer, d_state and expand must be 1 or more; found {sizes}")
        layers = (
            Block(SelectiveStateSpace(d_model, d_state, d_conv, expand), d_model, d_ff, dropout, norm_type)
            for _ in range(n_layer)
        )
        super().__init__(spec, d_model, layers, nn.LayerNorm(d_model), dropout, token_format)
