"""Learned bias on the distance between a token's step and a slot's last write."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn

from elmur.kernels import lookup_by_head


class MemoryBias(nn.Module):
    """One number per head and clamped distance, added to the scores of reading and of writing (paper, §3.2).

    max_seq_len: distances beyond +-(max_seq_len - 1) share the outermost entry.
    init_std: spread of the table at the start; the published code leaves torch's 1.0, as large as the scores.
    gain: factor on the table. An entry is met once per token and distance, and Adam moves it by the learning rate at
        most: a gain of 10 lets it become as large as a score in a tenth of the updates.
    """

    def __init__(self, n_head: int, max_seq_len: int = 1024, init_std: float = 0.02, gain: float = 1.0) -> None:
        super().__init__()
        if max_seq_len < 1:
            raise ValueError(f"max_seq_len must be 1 or more; found {max_seq_len}")
        self.reach = max_seq_len - 1
        self.gain = gain
        self.table = nn.Embedding(2 * max_seq_len - 1, n_head)
        nn.init.normal_(self.table.weight, std=init_std / gain)

    def forward(self, query_steps: Int[Tensor, "B Q"], key_steps: Int[Tensor, "B K"]) -> Float[Tensor, "B H Q K"]:
        distance = query_steps.unsqueeze(2) - key_steps.unsqueeze(1)
        entry = distance.clamp(-self.reach, self.reach) + self.reach
        table = self.table.weight if self.gain == 1.0 else self.gain * self.table.weight
        return lookup_by_head(table, entry)


def no_bias(query_steps: Tensor, key_steps: Tensor) -> None:
    """The ablation without a memory bias."""
    return None
