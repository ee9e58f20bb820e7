"""A plain causal transformer over its window: ELMUR's layers without memory."""

from __future__ import annotations

from typing import Any

from elmur.model import ELMUR
from elmur.spec import TaskSpec


class Transformer(ELMUR):
    """Sees the steps of the current segment and nothing before; keyword arguments as for ELMUR, less `memory`."""

    def __init__(self, spec: TaskSpec, **sizes: Any) -> None:
        super().__init__(spec, memory=None, **sizes)
