"""A figure as a PNG file, written whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from elmur.files import write_bytes


@contextmanager
def figure(path: Path | str, size: tuple[float, float]) -> Iterator[Any]:
    """Axes to draw on; the file is written at the end. size: width and height in inches."""
    from matplotlib.figure import Figure  # takes a second to import, and needs no display without pyplot

    drawn, image = Figure(figsize=size, layout="constrained"), io.BytesIO()
    yield drawn.subplots()
    drawn.savefig(image, format="png", dpi=150)
    write_bytes(path, image.getvalue())
