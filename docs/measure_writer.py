"""What docs say of training the writer: `python -m docs.measure_writer FOLDER... [--picture docs/writer.svg]`.

Each folder was written by `stage=inspect`. Folders that differ in what follows the last hyphen, such as window-0 and
window-1, are seeds of one column. Each cell has a value for each of them. The picture shows how far twins are apart in
the first layer.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from docs.measure_lookup import write

Tables = Mapping[str, Sequence[Mapping[str, Any]]]
FAILURES = ("diffuse writing", "collapse", "read, never written")


def numbers(tables: Tables) -> Iterator[tuple[str, float]]:
    """What is said of one run, by name; of segments the first and the last."""
    for line in ends(tables["what is stored where"]):
        where = f"read from {line['bank']}, segment {line['segment']}"
        yield f"{line['field']} {where}", line["accuracy"]
        yield f"... labels shuffled, {where}", line["control"]
    for line in ends(tables["how long it lasts"]):
        for name, value in line.items():
            if name.startswith("memory, "):
                yield f"twins apart, {name.removeprefix('memory, ')}, step {line['step']}", value
        yield f"... by the formula, step {line['step']}", line["(1 - lambda)^k"]
    for line in tables["how slots fail"]:
        if line["number"] in FAILURES:
            yield f"{line['number']}, {line['bank']}", line["value"]
    for line in ends([*tables["knock-out"], *tables["patching"]]):
        if ", slot" not in line["where"]:
            yield f"success, {line['change']} {line['where']}, segment {line['segment']}", line["success"]


def ends(lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of the first and the last segment."""
    segments = [line["segment"] for line in lines]
    return [line for line in lines if line["segment"] in (min(segments), max(segments))]


Columns = Mapping[str, Sequence[Tables]]


def read(folders: Sequence[Path]) -> Columns:
    """The tables of each folder, by column."""
    found: dict[str, list[Tables]] = {}
    for name, seeds in groupby(folders, key=lambda folder: folder.name.rpartition("-")[0] or folder.name):
        found[name] = [json.loads((seed / "memory.json").read_text()) for seed in seeds]
    return found


def table(columns: Columns) -> None:
    """Write the numbers."""
    found = {name: [dict(numbers(seed)) for seed in seeds] for name, seeds in columns.items()}
    rows = dict.fromkeys(name for seeds in found.values() for seed in seeds for name in seed)
    write(
        " | ".join(["", *found]),
        [[name, *(", ".join(f"{seed[name]:.2f}" for seed in seeds) for seeds in found.values())] for name in rows],
    )


def draw(columns: Columns, to: Path) -> None:
    """Write the picture: a line for each seed, and the published formula down to the least that was measured."""
    figure = Figure(figsize=(5.2, 2.8), layout="constrained")
    FigureCanvasSVG(figure)
    axes, least = figure.subplots(), 1.0
    for number, (name, seeds) in enumerate(columns.items()):
        for seed, tables in enumerate(seeds):
            rows = tables["how long it lasts"]
            values = [row["memory, layer 0"] for row in rows]
            least = min(least, *values)
            label = name if seed == 0 else None
            axes.plot([row["step"] for row in rows], values, color=f"C{number}", marker=".", label=label)
    formula = [(row["step"], row["(1 - lambda)^k"]) for row in rows if row["(1 - lambda)^k"] >= least / 2]
    axes.plot(*zip(*formula, strict=True), color="grey", linestyle="--", label="(1 - lambda)^k")
    axes.set(yscale="log", xlabel="step", ylabel="twins' difference / size")
    axes.legend(frameon=False)
    figure.savefig(to, metadata={"Date": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    table(measured := read(given.folders))
    if given.picture is not None:
        draw(measured, given.picture)
