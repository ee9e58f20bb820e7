"""Recurrent action transformer with memory: memory tokens, cached states, and a valve between segments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from elmur.baselines.memory_tokens import MemoryTokens
from elmur.baselines.segment_recurrence import SegmentRecurrence
from elmur.baselines.transformer_xl import TransformerXL
from elmur.baselines.valve import CrossAttentionValve, Valve
from elmur.spec import TaskSpec
from elmur.tokens import TokenFormat


class RATE(SegmentRecurrence):
    """RATE (Cherepanov et al., 2023): reads memory tokens, writes them, and passes them through a valve.

    tokens: `memory_tokens.Trained` or `memory_tokens.AsPublished`, which says what of the released code it repeats;
    there is no default, so that neither is used by accident. valve: builds one of `valve`, from d_model. mem_len:
    cached states in tokens, memory tokens counted. sizes: as for `TransformerXL`. With `Trained` all parameters are
    trained, those of the valve and of writing where a window has two segments or more; with `AsPublished` the valve
    is not.
    """

    def __init__(
        self,
        spec: TaskSpec,
        tokens: Callable[..., MemoryTokens],
        valve: Callable[..., Valve] = CrossAttentionValve,
        mem_len: int = 0,
        dropout: float = 0.1,
        token_format: str | TokenFormat = "sra",
        **sizes: Any,
    ) -> None:
        trunk = TransformerXL(dropout=dropout, **sizes)
        width = trunk.d_model
        super().__init__(spec, trunk, tokens(width), valve(width), mem_len, dropout, token_format)
