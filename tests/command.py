"""The command line in a process of its own, as a user runs it: exit code, stdout, stderr."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.server import ROOT, TIMEOUT, Server, shared

# A run that is over in a second or two.
TINY = (
    "env.lengths=[9,30]", "env.selection.lengths=[9]", "collect.num_episodes=60", "evaluation.num_episodes=6",
    "data.lanes=8", "data.backprop_segments=2", "model.d_model=16", "trainer.max_steps=6", "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1", "module.schedule.warmup=0.3", "callbacks.selection.num_episodes=4",
    "callbacks.selection.every_n_updates=3", "callbacks.resume.every_n_updates=3",
)  # fmt: skip
DEEP = ("model.n_head=2", "model.n_layer=1")  # for models that have heads


@dataclass
class Done:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


@dataclass
class CommandLine:
    """`python run.py ...` with all files below `folder`. `run` forks a warm process, `start` is the real thing."""

    folder: Path
    server: Server = field(default_factory=shared)
    environment: dict[str, str] = field(default_factory=dict)
    count: int = 0

    def run(self, *arguments: str, to: Path | str | None = None, **environment: str) -> Done:
        """Run a command to its end; `to` is its output folder."""
        self.count += 1
        to = to or self.folder / f"run{self.count}"
        out, err = (self.folder / f"{self.count}.{name}" for name in ("stdout", "stderr"))
        self.server.begin([*arguments, f"hydra.run.dir={to}"], out, err, self.all_of(environment))
        code = self.server.end()
        return Done(code, out.read_text(), err.read_text())

    def start(self, *arguments: str, **environment: str) -> Done:
        """The same from a cold start, with nothing added to the command line."""
        done = subprocess.run(
            [sys.executable, "run.py", *arguments],
            cwd=ROOT,
            env=self.all_of(environment),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def all_of(self, environment: dict[str, str]) -> dict[str, str]:
        """The environment of a command."""
        shards = {"ELMUR_SHARDS": str(self.folder / "shards"), "COLUMNS": "200"}
        return {**os.environ, **shards, **self.environment, **environment}


def patience(seconds: float) -> float:
    """What may be promised in so many seconds on a machine of one's own, on this one with all that runs beside."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
