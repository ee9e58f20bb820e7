"""How long twins differ in memory beside the published formula: `python -m docs.measure_memory FOLDER docs/memory.svg`.

FOLDER is what `stage=inspect` wrote; the picture is of its table "how long it lasts".
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

FLOOR = 1e-6  # below which the formula is not drawn


def draw(folder: Path, to: Path) -> None:
    """Write the picture."""
    rows = json.loads((folder / "memory.json").read_text())["how long it lasts"]
    steps = [row["step"] for row in rows]
    figure = Figure(figsize=(5.2, 2.8), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    for name in (name for name in rows[0] if name.startswith("memory, ")):
        axes.plot(steps, [row[name] for row in rows], marker=".", label=name.removeprefix("memory, ") + ", measured")
    formula = [(row["step"], row["(1 - lambda)^k"]) for row in rows if row["(1 - lambda)^k"] >= FLOOR]
    axes.plot(*zip(*formula, strict=True), linestyle="--", label="(1 - lambda)^k")
    axes.set(xscale="log", yscale="log", xlabel="step", ylabel="difference of twins' memory / its size")
    axes.legend(frameon=False)
    figure.savefig(to, metadata={"Date": None})


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
