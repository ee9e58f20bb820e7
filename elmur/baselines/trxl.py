"""Transformer-XL: attention goes on into the hidden states of what came before the segment."""

from __future__ import annotations

from typing import Any

from elmur.baselines.segment_recurrence import SegmentRecurrence
from elmur.baselines.transformer_xl import TransformerXL
from elmur.baselines.valve import Valve
from elmur.spec import TaskSpec
from elmur.tokens import TokenFormat


class TrXL(SegmentRecurrence):
    """Transformer-XL (Dai et al., 2019): every layer also attends to its inputs of the last `mem_len` tokens before.

    The cache has no gradient, so what it holds is trained only by what its own segment predicts; it reaches back
    `n_layer * mem_len` tokens at most. sizes: as for `TransformerXL`. All parameters are trained.
    """

    def __init__(
        self,
        spec: TaskSpec,
        mem_len: int = 90,
        dropout: float = 0.1,
        token_format: str | TokenFormat = "sra",
        **sizes: Any,
    ) -> None:
        trunk = TransformerXL(dropout=dropout, **sizes)
        super().__init__(spec, trunk, None, Valve(trunk.d_model), mem_len, dropout, token_format)
