"""Commands that are killed: `python run.py ...` in a process of its own, with a fault put into it at an exact place."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.server import Server

# Twenty updates: an epoch has fifteen or so, and the ninth is in its middle.
SMALL = (
    "env.lengths=[9,30]", "env.selection.lengths=[9]", "collect.num_episodes=60", "evaluation.num_episodes=6",
    "data.lanes=8", "data.backprop_segments=2", "model.d_model=16", "trainer.max_steps=20", "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1", "callbacks.selection.num_episodes=4",
    "callbacks.selection.every_n_updates=6", "callbacks.resume.every_n_updates=3", "model.n_head=2", "model.n_layer=1",
    "~callbacks.summary", "model.dropout=0.1",
)  # fmt: skip

DIE = "import os, signal\ndie = lambda: os.kill(os.getpid(), signal.SIGKILL)\n"


def in_training_step(update: int, act: str = "die()") -> str:
    """In the middle of the batch that follows `update` updates."""
    return f"""{DIE}
from elmur.module import SequenceModule
def run_window(self, *args, whole=SequenceModule.run_window, **kwargs):
    result = whole(self, *args, **kwargs)
    if self.trainer.global_step == {update} and self.trainer.training:
        {act}
    return result
SequenceModule.run_window = run_window
"""


def in_write(name: str, number: int, place: str) -> str:
    """While file `name` is written for the `number`-th time: when `half` is there, `before` or `after` it is named."""
    return f"""{DIE}
import pathlib
import elmur.files as atomic
import elmur.checkpoint as checkpoint
count = 0
def counts(path):
    global count
    count += pathlib.Path(path).name == {name!r}
    return count == {number} and pathlib.Path(path).name == {name!r}
if {place!r} == "half":
    import contextlib
    opened = checkpoint.atomic_open
    @contextlib.contextmanager
    def atomic_open(path):
        due = counts(path)
        with opened(path) as file:
            yield file
            if due:
                file.flush()
                file.truncate(file.tell() // 2)
                die()
    checkpoint.atomic_open = atomic_open
else:
    replace = os.replace
    def replaced(source, target):
        due = counts(target)
        if due and {place!r} == "before":
            die()
        replace(source, target)
        if due:
            die()
    os.replace = replaced
    rename = pathlib.Path.replace
    def renamed(self, target):
        due = counts(target)
        if due and {place!r} == "before":
            die()
        rename(self, target)
        if due:
            die()
    pathlib.Path.replace = renamed
"""


def in_row(number: int, torn: bool) -> str:
    """At the metric log's row `number`: before anything of it is written, or when half of it is."""
    return f"""{DIE}
from callbacks.metriclog import MetricLog
write = MetricLog.write
def written(self, *args, **kwargs):
    if self.rows == {number}:
        if {torn}:
            with self.path.open("ab", buffering=0) as file:
                file.write(b"0,7,1.23")
        die()
    write(self, *args, **kwargs)
MetricLog.write = written
"""


def in_acting(variant_steps: int, call: int) -> str:
    """At a step of the `call`-th evaluation (selection's come first, the report is the last)."""
    return f"""{DIE}
import callbacks.evaluation.evaluate as evaluation, callbacks.selection as selection, sys
calls = 0
real = evaluation.evaluate
def evaluate(*args, **kwargs):
    global calls
    calls += 1
    if calls == {call}:
        steps = 0
        def pause(own=kwargs.get("pause") or (lambda: None)):
            nonlocal steps
            steps += 1
            if steps == {variant_steps}:
                die()
            own()
        kwargs["pause"] = pause
    return real(*args, **kwargs)
evaluation.evaluate = selection.evaluate = evaluate
"""


def slower(seconds: float) -> str:
    """Each batch takes longer."""
    return f"""
import time
from elmur.module import SequenceModule
whole = SequenceModule.run_window
def run_window(self, *args, **kwargs):
    time.sleep({seconds})
    return whole(self, *args, **kwargs)
SequenceModule.run_window = run_window
"""


@dataclass
class Faulty:
    """Commands with all files below `folder`."""

    folder: Path
    server: Server

    def start(self, *arguments: str, to: Path | None = None, fault: str = "", **environment: str) -> int:
        """Begin a command; its process id. `end` waits for it."""
        out = self.folder / "out.txt"
        out.unlink(missing_ok=True)
        told = {**os.environ, "ELMUR_SHARDS": str(self.folder / "shards"), "COLUMNS": "200", **environment}
        arguments = (*arguments, f"hydra.run.dir={to}") if to else arguments
        return self.server.begin(list(arguments), out, out, told, fault)

    def end(self) -> int:
        """The exit code of the command that was started, negative for a signal that ended it."""
        return self.server.end()

    def run(self, *arguments: str, to: Path | None = None, fault: str = "", **environment: str) -> int:
        """A command from beginning to end; its exit code."""
        self.start(*arguments, to=to, fault=fault, **environment)
        return self.end()

    @property
    def said(self) -> str:
        """What the last command wrote on the terminal."""
        return (self.folder / "out.txt").read_text()


@contextmanager
def faulty(folder: Path) -> Iterator[Faulty]:
    """Commands that leave what they write in `folder`."""
    server = Server()
    yield Faulty(folder, server)
    server.close()


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """A signal to one process; to no group, and not to the first one."""
    assert pid > 1, pid
    os.kill(pid, number)


def wait_for(path: Path, seconds: float = 60.0) -> None:
    """Until a file is there."""
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.02)


def state(folder: Path, name: str = "last.ckpt") -> dict[str, Any]:
    """All that a run left in its last checkpoint, flat: dotted key -> value."""
    found: dict[str, Any] = {}

    def visit(node: Any, path: str) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                visit(value, f"{path}.{key}")
        elif isinstance(node, list | tuple):
            for i, value in enumerate(node):
                visit(value, f"{path}[{i}]")
        else:
            found[path] = node

    checkpoint = torch.load(folder / "checkpoints" / name, weights_only=True)
    del checkpoint["loops"], checkpoint["epoch"]  # Lightning counts an epoch more when resumed from the end of one
    visit(checkpoint, "")
    return found


def differences(one: Path, other: Path) -> list[str]:
    """What two finished runs differ in: every value of the last checkpoint, the best weights, the log, the outcomes.

    The time that it took may differ, and what is told of where the data came from.
    """
    told = re.compile(r"\.callbacks\.(Timer|RolloutSelection\.(cpu_)?seconds$)|\.run\.data\.")
    mine, theirs = ({k: v for k, v in state(folder).items() if not told.match(k)} for folder in (one, other))
    found = sorted(mine.keys() ^ theirs.keys())
    for key in mine.keys() & theirs.keys():
        a, b = mine[key], theirs[key]
        if not (torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b):
            found.append(f"{key}: {a} {b}" if not isinstance(a, torch.Tensor) else key)
    best = [
        {k: v for k, v in state(folder, "best.ckpt").items() if k.startswith(".state_dict")} for folder in (one, other)
    ]
    found += [f"best{key}" for key in best[0] if not torch.equal(best[0][key], best[1][key])]
    if metrics(one) != metrics(other):
        found.append("metrics.csv")
    if outcomes(one) != outcomes(other):
        found.append("result.json")
    return found


def metrics(folder: Path) -> list[dict[str, str]]:
    """The log of a run without the speed."""
    with (folder / "logs" / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if "per_second" not in k} for row in csv.DictReader(file)]


def outcomes(folder: Path) -> dict[str, Any]:
    """The outcomes in a result row, without the time they took."""
    row = json.loads((folder / "result.json").read_text())
    return {name: {k: v for k, v in o.items() if k != "wall_seconds"} for name, o in row["outcomes"].items()}
