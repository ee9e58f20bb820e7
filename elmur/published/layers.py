"""How the sub-layers of the released RATE code join the stream: their input is added inside attention once more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from elmur.residual import Gated, PostNorm, PreNorm, Residual


class Twice(Residual):
    """What is added inside the sub-layer once more: its input, as it sees it."""

    def forward(self, x: Tensor, f: Callable[[Tensor], Any]) -> Any:
        return super().forward(x, lambda y: y + f(y))


class TwicePostNorm(Twice, PostNorm):
    """norm(2 x + f(x)): attention of the architecture called TrXL there."""


class Rectified(PreNorm):
    """x + relu(f(norm(x))): the feed-forward of TrXL-I."""

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        return x + torch.relu(y)


class TwiceRectified(Twice, Rectified):
    """x + relu(y + f(y)), y = norm(x): attention of TrXL-I. Its cache is not normalised."""

    def cached(self, x: Tensor) -> Tensor:
        return x


class TwiceGated(Twice, Gated):
    """gate(x, relu(y + f(y))), y = norm(x): attention of GTrXL. Its cache is not normalised."""

    def cached(self, x: Tensor) -> Tensor:
        return x
