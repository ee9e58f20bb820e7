"""Stable Hadamard memory: a matrix every number of which is strengthened or weakened by a factor of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from elmur.baselines.scan import scan
from elmur.baselines.stack import Mixer, Stack
from elmur.spec import TaskSpec
from elmur.tokens import TokenFormat

SEQUENCE = 2**13 - 1  # tokens after which the rows repeat; a prime, which fits no period of a task
LITTLE = 1e-5  # added to the sum of a key before it is divided by


@dataclass
class HadamardState:
    """What the layer carries: its matrix, and how many tokens it has seen."""

    matrix: Float[Tensor, "B H H"]
    seen: Int[Tensor, " B"]


class HadamardMemory(Mixer):
    """The memory of Le et al. 2024 (arXiv 2410.10132, equations 4, 7 and 10), a matrix H x H:

        M_t = M_{t-1} * C_t + U_t;  C_t = 1 + tanh(theta_t v_c(x)^T);  U_t = sigmoid(eta(x)) v(x) k(x)^T
        out = W_o (M_t q(x) + W_s x)

    x is normed first; k and q are positive and sum to 1. theta_t is one of L learned rows, drawn for every token. Here
    the draw is a fixed pseudo-random sequence of the token's place in its episode, so that acting meets the rows that
    training met; the released code means to draw anew but always takes the first row. C_t reaches 2: a matrix that
    learned to strengthen itself at every step of a very long episode overflows, as the published one does.
    """

    def __init__(self, d_model: int, memory_size: int = 64, rows: int = 128) -> None:
        super().__init__()
        self.memory_size = memory_size
        self.norm = nn.LayerNorm(d_model)
        self.key, self.query, self.value, self.calibrate, self.shortcut = (
            nn.Linear(d_model, memory_size, bias=bias) for bias in (False, False, False, False, True)
        )
        self.strength = nn.Linear(d_model, 1, bias=False)
        self.theta = nn.Embedding(rows, memory_size)
        nn.init.xavier_uniform_(self.theta.weight)
        self.out = nn.Linear(memory_size, d_model)
        order = torch.randint(rows, (SEQUENCE,), generator=torch.Generator().manual_seed(0))
        self.order = nn.Buffer(order, persistent=False)

    def initial(self, like: Tensor, batch_size: int) -> HadamardState:
        return HadamardState(
            like.new_zeros(batch_size, self.memory_size, self.memory_size),
            torch.zeros(batch_size, dtype=torch.int64, device=like.device),
        )

    def forward(self, x: Float[Tensor, "B T D"], state: HadamardState) -> tuple[Float[Tensor, "B T D"], HadamardState]:
        x, exact = self.norm(x), state.matrix.dtype
        key, query = (positive(net(x).to(exact)) for net in (self.key, self.query))
        places = state.seen.unsqueeze(1) + torch.arange(x.shape[1], device=x.device)
        theta = self.theta(self.order[places % SEQUENCE]).to(exact)  # [B, T, H]
        factor = 1 + torch.tanh(theta.unsqueeze(-1) * self.calibrate(x).to(exact).unsqueeze(-2))
        value = torch.sigmoid(self.strength(x).to(exact)) * self.value(x)
        matrices = scan(factor, value.unsqueeze(-1) * key.unsqueeze(-2), state.matrix)
        read = torch.einsum("btij,btj->bti", matrices, query)
        return self.out(read + self.shortcut(x)), HadamardState(matrices[:, -1], state.seen + x.shape[1])


def positive(x: Tensor) -> Tensor:
    """relu(x), made to sum to 1 where any of it is left."""
    x = x.relu()
    return x / (LITTLE + x.sum(dim=-1, keepdim=True))


class SHM(Stack):
    """Tokens, one stable Hadamard memory, head; the state is its matrix and the number of tokens so far.

    memory_size: rows and columns of the matrix (H). rows: of the table that theta is drawn from (L).
    """

    def __init__(
        self,
        spec: TaskSpec,
        d_model: int = 256,
        memory_size: int = 64,
        rows: int = 128,
        dropout: float = 0.0,
        token_format: str | TokenFormat = "s",
    ) -> None:
        if min(d_model, memory_size, rows) < 1:
            raise ValueError(f"d_model, memory_size and rows must be 1 or more; found {d_model}, {memory_size}, {rows}")
        super().__init__(
            spec, d_model, [HadamardMemory(d_model, memory_size, rows)], nn.Identity(), dropout, token_format
        )
