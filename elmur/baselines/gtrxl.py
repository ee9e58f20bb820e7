"""Gated Transformer-XL: a gate in place of every sum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from elmur.baselines.trxl import TrXL
from elmur.residual import Gated, Residual
from elmur.spec import TaskSpec


class GTrXL(TrXL):
    """Transformer-XL whose sub-layers join by gates behind a norm and a ReLU (Parisotto et al., 2020).

    Cached states pass the norm too. Keyword arguments as for TrXL. All parameters are trained.
    """

    def __init__(self, spec: TaskSpec, residual: Callable[..., Residual] = Gated, **sizes: Any) -> None:
        super().__init__(spec, residual=residual, **sizes)
