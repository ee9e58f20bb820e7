"""`run.py` in a process of its own, and none of the seconds of importing: one process imports and forks for each."""

from __future__ import annotations

import atexit
import functools
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 300

# The pid of a command is told at once, then its exit status.
SERVER = """
import json, os, runpy, signal, sys, traceback
import h5py, hydra.core.plugins, lightning.pytorch, matplotlib.pyplot, rich.progress, scipy.stats, torch
sys.path.insert(0, os.getcwd())
import callbacks.evaluation.evaluate, callbacks.report.show, callbacks.selection, callbacks.stages.train
import callbacks.command.packages, callbacks.command.quiet, callbacks.command.resume, callbacks.command.sweeps
import data.collect, data.datamodule, elmur.model
callbacks.command.sweeps.offer_launchers()
hydra.core.plugins.Plugins.instance()
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        os.setsid()
        for number, name in enumerate((os.devnull, job["stdout"], job["stderr"])):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
        os.environ.clear()
        os.environ.update(job["environment"])
        sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
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


class Server:
    """Carries out one command after the other, each in a session of its own; begins with the first."""

    @functools.cached_property
    def process(self) -> subprocess.Popen[str]:
        """The process that imports and forks."""
        return subprocess.Popen(
            [sys.executable, "-c", SERVER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def begin(
        self, arguments: list[str], stdout: Path, stderr: Path, environment: Mapping[str, str], fault: str = ""
    ) -> int:
        """Begin a command; its process id. `fault`: Python that is carried out in it first. `end` waits for it."""
        job = {"arguments": arguments, "stdout": str(stdout), "stderr": str(stderr), "fault": fault}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({**job, "environment": dict(environment)}) + "\n")
        self.process.stdin.flush()
        return self._told("began")

    def end(self) -> int:
        """The exit code of the command that was begun, negative for a signal that ended it."""
        return self._told("ended")

    def _told(self, what: str) -> int:
        """The number that is given next, of this kind: an exit code is not to be taken for a process."""
        assert self.process.stdout is not None
        found, _, number = self.process.stdout.readline().partition(" ")
        assert found == what, f"expected that a command {what}, found that one {found}"
        return int(number)

    def close(self) -> None:
        """End it, if it has begun."""
        if "process" in vars(self):
            assert self.process.stdin is not None and self.process.stdout is not None
            self.process.stdin.close()
            self.process.wait(TIMEOUT)
            self.process.stdout.close()


@functools.cache
def shared() -> Server:
    """The server of this test process, for commands one after the other."""
    server = Server()
    atexit.register(server.close)
    return server
