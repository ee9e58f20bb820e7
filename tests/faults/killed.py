"""Commands that are killed: `python run.py ...` in a process of its own, with a fault put into it at an exact place."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent.parent

# Twenty updates: an epoch has fifteen or so, and the ninth is in its middle.
SMALL = (
    "env.lengths=[9,30]", "env.selection.lengths=[9]", "collect.num_episodes=60", "evaluation.num_episodes=6",
    "data.lanes=8", "data.backprop_segments=2", "model.d_model=16", "trainer.max_steps=20", "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1", "callbacks.selection.num_episodes=4",
    "callbacks.selection.every_n_updates=6", "callbacks.resume.every_n_updates=3", "model.n_head=2", "model.n_layer=1",
    "~callbacks.summary", "model.dropout=0.1",
)  # fmt: skip

# Imports once; every job is a fork, a process of its own with a pid that is told at once, then its exit status.
SERVER = """
import json, os, runpy, signal, sys, traceback
import h5py, hydra, lightning.pytorch, matplotlib.pyplot, rich.progress, scipy.stats, torch
sys.path.insert(0, os.getcwd())
import callbacks.selection, data.collect, data.datamodule, elmur.model
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        os.setsid()
        for number, name in enumerate((os.devnull, job["out"], job["out"])):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
        os.environ.update(job["environment"])
        sys.argv, code = ["run.py", *job["arguments"]], 0
        try:
            exec(job["fault"], {})
            runpy.run_path("run.py", run_name="__main__")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print("began", child, flush=True)
    print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

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
import data.atomic as atomic
import callbacks.checkpoint as checkpoint
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
import callbacks.evaluation as evaluation, callbacks.selection as selection, sys
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


@dataclass
class Faulty:
    """Commands with all files below `folder`."""

    folder: Path
    server: subprocess.Popen[str]

    def start(self, *arguments: str, to: Path | None = None, fault: str = "", **environment: str) -> int:
        """Begin a command; its process id. `end` waits for it."""
        out = self.folder / "out.txt"
        out.unlink(missing_ok=True)
        job = {
            "arguments": [*arguments, *([f"hydra.run.dir={to}"] if to else [])],
            "out": str(out),
            "fault": fault,
            "environment": {"ELMUR_SHARDS": str(self.folder / "shards"), "COLUMNS": "200", **environment},
        }
        assert self.server.stdin is not None
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()
        return self.told("began")

    def end(self) -> int:
        """The exit code of the command that was started, negative for a signal that ended it."""
        return self.told("ended")

    def told(self, what: str) -> int:
        """The number that the server gives next, of this kind: an exit code is not to be taken for a process."""
        assert self.server.stdout is not None
        found, _, number = self.server.stdout.readline().partition(" ")
        assert found == what, f"expected that a command {what}, found that one {found}"
        return int(number)

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
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield Faulty(folder, server)
    finally:
        assert server.stdin is not None and server.stdout is not None
        server.stdin.close()
        server.wait(60)
        server.stdout.close()


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """A signal to one process; to no group, and not to the first one."""
    assert pid > 1, pid
    os.kill(pid, number)


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
    """What two finished runs differ in: every value of the last checkpoint, the best weights, the log, the outcomes."""
    mine, theirs = state(one), state(other)
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
