"""The microscope's page: one HTML file that opens from disk, with a slider over the steps of a few episodes."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from scipy.special import softmax

from callbacks.inspect.recording import Recording
from callbacks.report.sheets import Sheet
from elmur.files import write_text
from elmur.memory import NEVER
from elmur.spec import Discrete, Image, TaskSpec

TEMPLATE = Path(__file__).with_name("page.html.j2")
THUMBNAIL = 96  # pixels of an image's longer side
MOST_NUMBERS = 24  # of a vector that are written out
DIGITS = 4
Seen = dict[str, np.ndarray]


@dataclass
class Shown:
    """What one episode looks like before each step: grids of characters where a world gives them, and observations."""

    grids: list[list[list[str]]]
    observations: list[Seen]


def write_page(path: Path, own: Recording, shown: Sequence[Shown], sheets: Sequence[Sheet], spec: TaskSpec) -> None:
    """The page: tables of what was measured, and the episodes step by step."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    told = {"episodes": [episode(own, row, pictures, spec) for row, pictures in enumerate(shown)]}
    data = json.dumps(told, separators=(",", ":"), allow_nan=False)
    # Inside a script element only this could end it.
    write_text(path, template.render(task=spec.name, tables=sheets, data=data.replace("<", "\\u003c")))


def episode(own: Recording, row: int, shown: Shown, spec: TaskSpec) -> dict[str, Any]:
    """One episode as the page's script reads it."""
    played, length = own.episodes[row], own.context_length
    steps = played.length
    assert played.steps is not None
    segments = -(-steps // length)
    is_choice = isinstance(spec.action, Discrete)
    foretold = [prediction[row] for prediction in own.predictions[:steps]]
    return {
        "seed": played.seed,
        "success": played.success,
        "return": round(played.episode_return, DIGITS),
        "steps": steps,
        "length": length,
        "actions": [numbers(action) for action in played.steps.action],
        "rewards": numbers(played.steps.reward),
        "probabilities": [numbers(softmax(of) if is_choice else of) for of in foretold],
        "seen": [drawn(grid, seen, spec) for grid, seen in zip(shown.grids, shown.observations, strict=True)][:steps],
        "hidden": {name: numbers(np.stack(of)[: steps + 1, row]) for name, of in own.hidden.items()},
        "banks": [bank(own, name, number, row, segments) for number, name in enumerate(own.slots())],
    }


def bank(own: Recording, name: str, number: int, row: int, segments: int) -> dict[str, Any]:
    """One bank of an episode: what every slot is at the beginning of each segment, and where attention goes."""
    slots = own.slots()[name][:segments, row]
    starts = np.arange(len(slots)) * own.context_length
    found: dict[str, Any] = {"name": name, "norm": numbers(np.linalg.norm(slots, axis=-1))}
    moved = np.linalg.norm(np.diff(slots, axis=0), axis=-1)
    share = moved / np.maximum(moved + np.linalg.norm(slots[:-1], axis=-1), 1e-12)  # as memory/change in the logs
    found["change"] = numbers(np.concatenate([np.zeros((1, slots.shape[1])), share]))
    dates = own.written_at().get(name)
    if dates is not None:
        at = dates[:segments, row]
        found["age"] = [[None if date == NEVER else int(start - 1 - date) for date in of] for start, of in
                        zip(starts, at, strict=True)]  # fmt: skip
    if (reading := own.reading(number)) is not None:
        found["read"] = numbers(reading[: own.episodes[row].length, row].mean(1))
    if writing := own.writing(number):
        found["write"], found["written"] = ([numbers(e[row]) for e in each[: segments - 1]] for each in writing)
    return found


def numbers(values: Any) -> Any:
    """An array as nested lists of a few digits."""
    array = np.asarray(values)
    return array.tolist() if array.dtype.kind in "iub" else np.round(array.astype(np.float64), DIGITS).tolist()


def drawn(grid: list[list[str]], seen: Seen, spec: TaskSpec) -> dict[str, Any]:
    """One moment: a grid, pictures, and the other parts as numbers."""
    images = {name: part for name, part in seen.items() if isinstance(spec.observation.get(name), Image)}
    others = {name: numbers(np.ravel(part)[:MOST_NUMBERS]) for name, part in seen.items() if name not in images}
    return {"grid": grid, "images": {name: thumbnail(part) for name, part in images.items()}, "numbers": others}


def thumbnail(image: np.ndarray) -> str:
    """A picture uint8 [C, h, w] as a small PNG, in a data URL."""
    from PIL import Image as Pictures

    channels = np.moveaxis(np.asarray(image), 0, -1)
    picture = Pictures.fromarray(channels[..., 0] if channels.shape[-1] in (1, 2) else channels[..., :3])
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    out = io.BytesIO()
    picture.save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
