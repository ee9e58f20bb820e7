"""A board of cells, as cards on a table: what a sum over its cells hides."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from elmur.encoders import DiscreteEncoder, ObservationEncoder
from elmur.spec import Discrete, Field


class BoardEncoder(ObservationEncoder):
    """The sum of an observation's parts, and two readings of a board that it already contains.

    board: a part of n components with the same K values. Added to its encoding: how many cells show each value (K
    numbers from 0 to n), and the value of the cell that `pointer` names: a part of one component, 0 for none, else
    1 + the cell. Both follow from what is seen now; what was seen before is left to memory. In a sum of cells the one
    that was just turned over drowns, and whether their number is odd no linear map can tell.
    """

    def __init__(
        self,
        observation: Mapping[str, Field],
        d_model: int,
        board: str = "observation",
        pointer: str = "previous_action",
    ) -> None:
        super().__init__(observation, d_model)
        cells, choice = observation.get(board), observation.get(pointer)
        if not isinstance(cells, Discrete) or len(cells.sizes) < 2 or len(set(cells.sizes)) > 1:
            raise ValueError(f"part {board!r}: expected a board of cells with the same values, found {cells}")
        if choice != Discrete((len(cells.sizes) + 1,)):
            raise ValueError(f"part {pointer!r}: expected none or one of {len(cells.sizes)} cells, found {choice}")
        self.board, self.pointer, self.values = board, pointer, cells.sizes[0]
        self.counts = DiscreteEncoder(Discrete((len(cells.sizes) + 1,) * self.values), d_model)
        self.chosen = nn.Embedding(self.values + 1, d_model)

    def forward(self, observation: dict[str, Tensor]) -> Float[Tensor, "B T D"]:
        cells, choice = observation[self.board], observation[self.pointer]
        shown = F.one_hot(cells, self.values).sum(dim=-2)
        value = cells.gather(-1, (choice - 1).clamp(min=0)) + 1
        chosen = torch.where(choice > 0, value, 0).squeeze(-1)
        out: Tensor = super().forward(observation) + self.counts(shown) + self.chosen(chosen)
        return out
