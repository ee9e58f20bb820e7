"""Memory retention valves: what of the memory that a segment read and of what it wrote the next one gets.

RATE (Cherepanov et al., 2023, arXiv 2306.09459) compares five. The released code has one, attention of the read tokens
to the written ones; the paper names the others, and their equations here are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from elmur.attention import CrossAttention, merge_heads, split_heads
from elmur.feedforward import init_linear

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu, "leaky_relu": F.leaky_relu, "elu": F.elu, "tanh": torch.tanh, "no_act": lambda x: x,
}  # fmt: skip


class Valve(nn.Module):
    """Base, and no valve: the next segment reads what was written."""

    def __init__(self, d_model: int) -> None:
        super().__init__()

    def initial(self, tokens: Float[Tensor, "B n D"], generator: torch.Generator | None) -> Any:
        """The valve's own state at the beginning of an episode, lane first; None where it has none."""
        return None

    def forward(
        self, read: Float[Tensor, "B n D"], written: Float[Tensor, "B n D"], state: Any
    ) -> tuple[Float[Tensor, "B n D"], Any]:
        """The memory for the next segment, and the valve's state."""
        return written, state


class CrossAttentionValve(Valve):
    """W_o MHA(Q = read, K = V = act(written)), with biases, without residual or norm.

    queries: read (the paper's MRV-CA-2, the released one) or written (MRV-CA-1: keys and values are then act(read)).
    mrv_act: relu, leaky_relu, elu, tanh or no_act.
    """

    def __init__(
        self, d_model: int, n_head_ca: int = 2, dropatt: float = 0.0, mrv_act: str = "relu", queries: str = "read"
    ) -> None:
        super().__init__(d_model)
        if mrv_act not in ACTIVATIONS:
            raise ValueError(f"mrv_act must be one of {', '.join(ACTIVATIONS)}; found {mrv_act!r}")
        if queries not in ("read", "written"):
            raise ValueError(f"queries must be read or written; found {queries!r}")
        if n_head_ca < 1 or d_model % n_head_ca:
            raise ValueError(f"n_head_ca must be 1 or more and divide d_model={d_model}; found {n_head_ca}")
        self.activation, self.queries = ACTIVATIONS[mrv_act], queries
        self.attention = CrossAttention(d_model, n_head_ca, dropatt=dropatt, bias=True)

    def forward(self, read: Tensor, written: Tensor, state: Any) -> tuple[Tensor, Any]:
        query, source = (read, written) if self.queries == "read" else (written, read)
        return self.attention(query, self.attention.project(self.activation(source)), None), state


class PublishedValve(CrossAttentionValve):
    """The cross-attention valve whose dropout stays on while acting, as released: memory with noise in it.

    The noise is the lane's own: its seed is drawn with the episode's beginning and is part of the state `[B]`.
    """

    def initial(self, tokens: Tensor, generator: torch.Generator | None) -> Int[Tensor, " B"]:
        return torch.randint(2**62, (tokens.shape[0],), generator=generator).to(tokens.device)

    def forward(self, read: Tensor, written: Tensor, state: Int[Tensor, " B"]) -> tuple[Tensor, Int[Tensor, " B"]]:
        p = self.attention.dropatt
        if self.training or p == 0:
            return super().forward(read, written, state)
        q = split_heads(self.attention.query(read), self.attention.n_head)
        k, v = self.attention.project(self.activation(written))
        weights = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(dim=-1)
        draws = [torch.rand(weights.shape[1:], generator=torch.Generator().manual_seed(s)) for s in state.tolist()]
        kept = (torch.stack(draws) >= p).to(weights) / (1 - p)
        return self.attention.out(merge_heads((weights * kept) @ v)), state + 1


class GateValve(Valve):
    """g read + (1 - g) written, g = sigmoid(W [read, written] + b), for every number by itself (MRV-G)."""

    def __init__(self, d_model: int) -> None:
        super().__init__(d_model)
        self.gate = nn.Linear(2 * d_model, d_model)
        init_linear(self.gate)

    def forward(self, read: Tensor, written: Tensor, state: Any) -> tuple[Tensor, Any]:
        g = torch.sigmoid(self.gate(torch.cat([read, written], dim=-1)))
        return g * read + (1 - g) * written, state


class GRUValve(Valve):
    """A GRU cell for every token: what was read is its hidden state, what was written its input (MRV-GRU)."""

    def __init__(self, d_model: int) -> None:
        super().__init__(d_model)
        self.cell = nn.GRUCell(d_model, d_model)

    def forward(self, read: Tensor, written: Tensor, state: Any) -> tuple[Tensor, Any]:
        hidden = self.cell(written.flatten(0, 1), read.flatten(0, 1).to(written.dtype))
        return hidden.view_as(written), state


class LSTMValve(Valve):
    """An LSTM cell for every token, hidden state and input as in GRUValve; its own state is the cell's `[B, n, D]`.

    (MRV-LSTM.)
    """

    def __init__(self, d_model: int) -> None:
        super().__init__(d_model)
        self.cell = nn.LSTMCell(d_model, d_model)

    def initial(self, tokens: Tensor, generator: torch.Generator | None) -> Tensor:
        return torch.zeros_like(tokens)

    def forward(self, read: Tensor, written: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        flat = [part.flatten(0, 1).to(written.dtype) for part in (read, state)]
        hidden, cell = self.cell(written.flatten(0, 1), (flat[0], flat[1]))
        return hidden.view_as(written), cell.view_as(state).to(state.dtype)
