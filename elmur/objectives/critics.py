"""Twin critics Q1, Q2 on a trunk's features, for chosen and for continuous actions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from elmur.heads import exact, middle_and_reach
from elmur.spec import Discrete, Vector

LOG_STD = (-5.0, 2.0)  # what the logarithm of a learned deviation is kept in


def mlp(width: int, hidden_layers: Sequence[int], outputs: int) -> nn.Sequential:
    """Linear maps with ReLU between them, `[..., width] -> [..., outputs]`."""
    sizes = [width, *hidden_layers]
    layers = [part for old, new in pairwise(sizes) for part in (nn.Linear(old, new), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))


class ChoiceCritics(nn.Module):
    """Q1 and Q2 of every choice: features `[..., D] -> [2, ..., A]`."""

    def __init__(self, d_model: int, action: Discrete, hidden_layers: Sequence[int]) -> None:
        super().__init__()
        self.twins = nn.ModuleList(mlp(d_model, hidden_layers, action.sizes[0]) for _ in range(2))

    def forward(self, x: Float[Tensor, "*steps D"]) -> Float[Tensor, "twins *steps A"]:
        return exact(torch.stack([twin(x) for twin in self.twins]))

    def of(self, x: Float[Tensor, "*steps D"], action: Int[Tensor, "*steps"]) -> Float[Tensor, "twins ..."]:
        """Q1 and Q2 of the actions that were taken."""
        return chosen(self(x), action)


class VectorCritics(nn.Module):
    """Q1 and Q2 of features and one action, which is brought to -1 .. 1 where it is bounded."""

    def __init__(self, d_model: int, action: Vector, hidden_layers: Sequence[int]) -> None:
        super().__init__()
        self.twins = nn.ModuleList(mlp(d_model + action.size, hidden_layers, 1) for _ in range(2))
        self.middle, self.reach = middle_and_reach(action)

    def forward(self, x: Float[Tensor, "*steps D"], action: Float[Tensor, "*steps A"]) -> Float[Tensor, "twins ..."]:
        both = torch.cat([x, ((action - self.middle) / self.reach).to(x.dtype)], dim=-1)
        return exact(torch.stack([twin(both).squeeze(-1) for twin in self.twins]))

    def of(self, x: Float[Tensor, "*steps D"], action: Float[Tensor, "*steps A"]) -> Float[Tensor, "twins ..."]:
        """Q1 and Q2 of the actions that were taken."""
        return self(x, action)


def chosen(values: Float[Tensor, "*lead A"], action: Int[Tensor, "*steps"]) -> Float[Tensor, "*lead"]:
    """The values of the chosen actions; leading dimensions that `action` lacks are gone through alike."""
    index = action.expand(values.shape[:-1]).unsqueeze(-1)
    return values.gather(-1, index).squeeze(-1)
