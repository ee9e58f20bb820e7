"""What training the writer changes inside: `python -m docs.measure_writer docs/writer.svg NAME=RUN:LOOK ...`.

RUN is the folder of a run, LOOK what `stage=inspect` wrote of it. Drawn are the gradient of the writer and the likeness
of slots in training, and of the finished policy how well the cue can be read from a slot and how far apart twins lie.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

from callbacks.report.figure import svg
from elmur.files import write_text

LOGGED = {"memory/write_grad_norm": "gradient of the writer", "memory/alike": "likeness of slots (cosine)"}
Series = dict[str, list[tuple[float, float]]]


def logged(run: Path, metric: str) -> list[tuple[float, float]]:
    """A metric of the log against updates."""
    with (run / "logs" / "metrics.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    return [(float(line["update"]), float(line[metric])) for line in lines if line.get(metric)]


def told(look: Path, table: str, bank: str, x: str, y: str) -> list[tuple[float, float]]:
    """Two columns of a table of the inspection, of one bank where it has several."""
    lines = json.loads((look / "memory.json").read_text(encoding="utf-8"))[table]
    return [(line[x], line[y]) for line in lines if line.get("bank", bank) == bank]


def draw(on: Any, panels: dict[str, Series]) -> None:
    """Four panels, a line for each run."""
    for axes, (title, series) in zip(on.subplots(2, 2).flat, panels.items(), strict=True):
        for name, points in series.items():
            axes.plot(*zip(*points, strict=True), marker=".", label=name)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("update" if title in LOGGED.values() else "segment")
        axes.grid(alpha=0.25, linewidth=0.5)
    on.axes[2].set_ylim(0.4, 1.03)
    on.axes[0].legend(frameon=False)


def main(to: Path, runs: dict[str, tuple[Path, Path]]) -> None:
    """Write the picture."""
    panels = {title: {n: logged(run, metric) for n, (run, _) in runs.items()} for metric, title in LOGGED.items()}
    panels["the cue read from a slot of layer 1"] = {
        n: told(look, "what is stored where", "layer 0", "segment", "accuracy") for n, (_, look) in runs.items()
    }
    panels["how far apart twins are in layer 1"] = {
        n: told(look, "how long it lasts", "layer 0", "segment", "memory, layer 0") for n, (_, look) in runs.items()
    }
    write_text(to, svg((7.2, 4.6), lambda on: draw(on, panels)))


if __name__ == "__main__":
    named = (one.partition("=")[::2] for one in sys.argv[2:])
    main(Path(sys.argv[1]), {name: tuple(map(Path, folders.split(":"))) for name, folders in named})  # type: ignore[misc]
