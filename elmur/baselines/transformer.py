"""A plain causal transformer over its window: ELMUR's layers without memory."""

from __future__ import annotations

from typing import Any

from elmur.model import ELMUR
from elmur.spec import TaskSpec


class Transformer(ELMUR):
    """Sees the steps of the current segment and nothing before; the decoder of Vaswani et al. 2017 (arXiv 1706.03762).

    The state is empty, `()`. Keyword arguments as for ELMUR, less `memory`: the two differ in memory alone, so that
    positions are relative ones by default, not the paper's sinusoids. All parameters are trained.
    """

    def __init__(self, spec: TaskSpec, **sizes: Any) -> None:
        super().__init__(spec, memory=None, **sizes)
