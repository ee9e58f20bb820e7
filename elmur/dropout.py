"""Dropout whose random numbers are cheap on a CPU."""

from __future__ import annotations

from torch import Tensor, nn

from elmur.kernels import dropped


class Dropout(nn.Dropout):
    """torch's dropout, with `p` rounded to a multiple of 2^-16 on a CPU; what is kept is scaled by exactly that."""

    @property
    def rate(self) -> float:
        """The share that is dropped now: `p` in training, 0 in evaluation."""
        return self.p if self.training else 0.0

    def forward(self, x: Tensor) -> Tensor:
        return dropped(x, self.rate)
