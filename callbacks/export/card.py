"""The model card of an export: what was trained, how it did, how it is loaded; README.md of its folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from callbacks.evaluation.outcomes import RETURN, Measure
from callbacks.report.row import Row
from elmur.spec import Discrete, Field, Image, TaskSpec

USE = """\
```python
import elmur

policy = elmur.load("this folder")
action = policy.act(observation)  # observation: the parts below by name
```

Without PyTorch, by numpy and onnxruntime alone:

```python
import json
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("step.onnx")
inputs = json.load(open("step.json"))["inputs"]
memory = {i["name"]: np.zeros([1, *i["shape"]], i["dtype"]) for i in inputs if i["name"].startswith("memory_")}
is_first = True
while running:
    given = {**observation, "is_first": np.array([is_first]), **memory}  # and what else step.json lists
    made = dict(zip([o.name for o in session.get_outputs()], session.run(None, given)))
    action, is_first = made["action"], False
    memory = {name: made["next_" + name] for name in memory}
```
"""


def card(model: str, spec: TaskSpec, about: Mapping[str, Any], row: Row | None, notes: Mapping[str, str]) -> str:
    """The text of a model card, with the front matter that model hubs read.

    about: facts of the model, name -> value. row: how it did, None: not evaluated. notes: on each of the files.
    """
    lines = [
        "---", "library_name: elmur", "pipeline_tag: reinforcement-learning",
        "tags: [imitation-learning, partial-observability, memory]", "---", "",
        f"# {model} on {spec.name}", "",
        *(f"- {name}: {value}" for name, value in about.items() if value is not None), "",
        "## The task", "",
        "| part | what it is |", "|---|---|",
        *(f"| {name} | {kind_of(field)} |" for name, field in spec.observation.items()),
        f"| action | {kind_of(spec.action)} |", "",
    ]  # fmt: skip
    lines += ["## Results", "", *(["not evaluated"] if row is None else results(row)), ""]
    lines += ["## Use", "", USE, "## Files", "", *(f"- `{name}`: {note}" for name, note in notes.items()), ""]
    return "\n".join(lines)


def kind_of(field: Field) -> str:
    """What a part is, in the words of `task.json`."""
    if isinstance(field, Discrete):
        return f"discrete, of {', '.join(map(str, field.sizes))} values, int64 {list(field.shape)}"
    kind = "uint8" if isinstance(field, Image) else "float32"
    return f"{type(field).__name__.lower()}, {kind} {list(field.shape)}"


def results(row: Row) -> list[str]:
    """A table of the outcomes of a row, and what they are of."""
    shown = list(dict.fromkeys((row.metric, RETURN)))
    lines = [f"| variant | episodes | {' | '.join(shown)} |", "|---" * (2 + len(shown)) + "|"]
    shares = False
    for name, outcome in row.outcomes.items():
        measured = [outcome.metrics.get(metric) for metric in shown]
        shares |= any(one is not None and one.is_share for one in measured)
        lines.append(f"| {name} | {outcome.episodes} | {' | '.join(map(_told, measured))} |")
    note = "In brackets: 95 % interval of Wilson; behind ±" if shares else "Behind ±"
    return [*lines, "", f"{note}: standard error of the mean."]


def _told(measured: Measure | None) -> str:
    """A mean, and how sure it is: of a share its interval, else its error."""
    if measured is None:
        return ""
    if measured.is_share and measured.interval is not None:
        return "{:.3f} ({:.3f} to {:.3f})".format(measured.mean, *measured.interval)
    return f"{measured.mean:.3f} ± {measured.error:.3f}" if measured.values else f"{measured.mean:.3f}"
