"""Dropout whose random numbers are cheap on a CPU, where torch draws 64 bits for every single one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 2**16  # 16 random bits per number


class Dropout(nn.Dropout):
    """torch's dropout, with `p` rounded to a multiple of 2^-16 on a CPU; what is kept is scaled by exactly that."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return F.dropout(x, self.p, self.training)
        factor = self.factor(x)
        return x if factor is None else x * factor

    def factor(self, x: Tensor) -> Tensor | None:
        """0 where a number of `x` is dropped and 1/(1-p) where it is kept; None where nothing is dropped."""
        dropped = round(self.p * LEVELS)
        if not self.training or dropped == 0:
            return None
        if dropped == LEVELS or x.device.type != "cpu":
            return F.dropout(torch.ones_like(x), self.p)
        bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        factor = torch.empty(x.shape, dtype=x.dtype)
        torch.ge(bits[: x.numel()].view(x.shape), dropped - LEVELS // 2, out=factor)
        return factor.mul_(LEVELS / (LEVELS - dropped))
