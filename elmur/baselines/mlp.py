"""A network that sees the present step and nothing else: what a task gives to a policy without memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from elmur.baselines.recurrent import RecurrentModel
from elmur.heads import head_for
from elmur.spec import TaskSpec
from elmur.tokens import TokenFormat


class MLPPolicy(RecurrentModel):
    """Observation encoder `[B, T, D]`, a linear map and ReLU for each of `hidden`, head; the state is empty.

    Behaviour cloning; with d_model=64 and hidden=[128, 128] the BC-MLP of the published baselines, which has no
    activation behind its encoder either, nor the dropout that is there here.
    """

    def __init__(
        self,
        spec: TaskSpec,
        d_model: int = 128,
        hidden: Sequence[int] = (256, 256),
        dropout: float = 0.0,
        token_format: str | TokenFormat = "s",
    ) -> None:
        if not hidden or min(d_model, *hidden) < 1:
            raise ValueError(f"d_model and every width of hidden must be 1 or more; found {d_model}, {list(hidden)}")
        super().__init__(spec, d_model, dropout, token_format)
        if self.format.order != "s":
            raise ValueError(
                f"the mlp sees the present observation only: token_format must be s; found tokens {self.format.order}"
            )
        self.layers = nn.ModuleList(nn.Linear(*sizes) for sizes in pairwise([d_model, *hidden]))
        self.head = head_for(spec, hidden[-1])

    def initial_memory(self, batch_size: int, generator: torch.Generator | None = None) -> tuple[()]:
        """Nothing."""
        return ()

    def recur(self, x: Float[Tensor, "B T D"], memory: tuple[()]) -> tuple[Float[Tensor, "B T H"], tuple[()]]:
        for number, layer in enumerate(self.layers):
            x = torch.relu(layer(x if number == 0 else self.dropout(x)))
        return x, ()
