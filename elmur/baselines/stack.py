"""Recurrent layers one above the other, each with a state of its own: what Mamba, the delta rule and others share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from elmur.baselines.recurrent import RecurrentModel
from elmur.dropout import Dropout
from elmur.feedforward import MLP
from elmur.heads import head_for
from elmur.residual import PreNorm
from elmur.spec import TaskSpec
from elmur.tokens import TokenFormat


class Mixer(nn.Module, ABC):
    """One recurrent layer: `mixer(x, state) -> y, state` for `x` and `y` of `[B, T, D]` and any T."""

    @abstractmethod
    def initial(self, like: Tensor, batch_size: int) -> Any:
        """The state at the beginning, on the device and in the precision of `like`."""

    @abstractmethod
    def forward(self, x: Float[Tensor, "B T D"], state: Any) -> tuple[Float[Tensor, "B T D"], Any]:
        """An output for every token, and the state after the last."""


class Block(Mixer):
    """x + mixer(norm(x)), then, where `d_ff` is not 0, x + mlp(norm(x)) with GELU between its two linear maps.

    norm_type: of the mixer's norm; that of the MLP is a LayerNorm.
    """

    def __init__(
        self, mixer: Mixer, d_model: int, d_ff: int = 0, dropout: float = 0.0, norm_type: str = "layer"
    ) -> None:
        super().__init__()
        self.mixer, self.mixer_residual = mixer, PreNorm(d_model, norm_type)
        self.dropout = Dropout(dropout)
        self.feedforward = MLP(d_model, dropout, d_ff) if d_ff else None
        self.feedforward_residual = PreNorm(d_model) if d_ff else None

    def initial(self, like: Tensor, batch_size: int) -> Any:
        return self.mixer.initial(like, batch_size)

    def forward(self, x: Float[Tensor, "B T D"], state: Any) -> tuple[Float[Tensor, "B T D"], Any]:
        x, state = self.mixer_residual(x, lambda normed: self.mixed(normed, state))
        if self.feedforward is not None and self.feedforward_residual is not None:
            x, _ = self.feedforward_residual(x, self.feedforward)
        return x, state

    def mixed(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The mixer with dropout behind it."""
        x, state = self.mixer(x, state)
        return self.dropout(x), state


class Stack(RecurrentModel):
    """Tokens, layers one after the other, a norm, head. The state is a tuple of the layers' states."""

    def __init__(
        self,
        spec: TaskSpec,
        d_model: int,
        layers: Iterable[Mixer],
        norm: nn.Module,
        dropout: float = 0.0,
        token_format: str | TokenFormat = "s",
    ) -> None:
        super().__init__(spec, d_model, dropout, token_format)
        self.layers = cast("Sequence[Mixer]", nn.ModuleList(layers))
        self.norm = norm
        self.head = head_for(spec, d_model)

    def initial_memory(self, batch_size: int, generator: torch.Generator | None = None) -> tuple[Any, ...]:
        like = next(self.parameters())
        exact = like.new_zeros((), dtype=torch.promote_types(like.dtype, torch.float32))
        return tuple(layer.initial(exact, batch_size) for layer in self.layers)

    def recur(self, x: Float[Tensor, "B T D"], memory: tuple[Any, ...]) -> tuple[Float[Tensor, "B T D"], Any]:
        states = []
        for layer, state in zip(self.layers, memory, strict=True):
            x, state = layer(x, state)
            states.append(state)
        return self.norm(x), tuple(states)


class CausalConvolution(nn.Module):
    """A convolution over time of each channel by itself, with bias: `[B, T, C]` and the last K - 1 inputs before it.

    Returns the outputs and the last K - 1 inputs, in the precision of those that came in.
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        if kernel < 2:
            raise ValueError(f"d_conv must be 2 or more; found {kernel}")
        self.weight = nn.Parameter(torch.empty(channels, kernel))
        self.bias = nn.Parameter(torch.empty(channels))
        for parameter in (self.weight, self.bias):
            nn.init.uniform_(parameter, -(kernel**-0.5), kernel**-0.5)

    def forward(
        self, x: Float[Tensor, "B T C"], before: Float[Tensor, "B K1 C"]
    ) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "B K1 C"]]:
        seen, steps = torch.cat([before, x.to(before.dtype)], dim=1), x.shape[1]
        out: Tensor = self.bias
        for k in range(self.weight.shape[1]):
            out = torch.addcmul(out, seen[:, k : k + steps], self.weight[:, k])
        return out, seen[:, steps:]


def time_step_bias(size: int, shortest: float = 1e-3, longest: float = 0.1) -> Float[Tensor, " size"]:
    """Biases whose softplus is spread over time steps, evenly in their logarithm, as Mamba begins with them."""
    ratio = torch.rand(size) * torch.log(torch.tensor(longest / shortest))
    steps = (shortest * ratio.exp()).clamp(min=1e-4)
    return steps + torch.log(-torch.expm1(-steps))
