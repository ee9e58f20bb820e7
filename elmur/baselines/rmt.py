"""Recurrent memory transformer: memory tokens are all that goes on from segment to segment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from elmur.baselines.memory_tokens import MemoryTokens
from elmur.baselines.rate import RATE
from elmur.baselines.valve import Valve
from elmur.spec import TaskSpec


class RMT(RATE):
    """RMT (Bulatov et al., 2022): what the last layer makes of the write tokens is what the next segment reads.

    tokens: as for RATE. sizes: as for RATE, which this is without cache and valve.
    """

    def __init__(self, spec: TaskSpec, tokens: Callable[..., MemoryTokens], **sizes: Any) -> None:
        super().__init__(spec, tokens, valve=Valve, mem_len=0, **sizes)
