"""Workers of a DataLoader that cannot hand over their batches: they find a way, or the run ends with a sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import ROOT, TIMEOUT, CommandLine
from tests.faults.killed import SMALL, Faulty, differences

pytestmark = pytest.mark.faults
WORKERS = "data.num_workers=2"


def test_a_folder_for_temporary_files_with_a_long_name(runs: Faulty, straight: Path, tmp_path: Path) -> None:
    """Of 111 letters, as job schedulers make them: a socket inside it could not be named."""
    folder = tmp_path / ("x" * (110 - len(str(tmp_path))))
    folder.mkdir()
    assert len(str(folder)) == 111
    assert runs.run(*SMALL, WORKERS, to=runs.folder / "long", TMPDIR=str(folder)) == 0, runs.said
    assert differences(straight, runs.folder / "long") == []


def test_an_error_of_handing_over_ends_the_run(runs: Faulty) -> None:
    """Without any folder in which a socket could be named."""
    fault = "import tempfile; from multiprocessing import util; folder = tempfile.gettempdir() + '/' + 'x' * 200\n"
    fault += "util.get_temp_dir = lambda: folder\n"
    assert runs.run(*SMALL, WORKERS, to=runs.folder / "socket", fault=fault) == 1
    (line,) = [line for line in runs.said.splitlines() if line.startswith("error: ")]
    assert "a worker could not hand over its batch (AF_UNIX path too long)" in line and "data.num_workers=0" in line
    assert "Traceback" not in runs.said


def test_little_shared_memory(runs: Faulty) -> None:
    """64 kB of it, in a mount namespace of its own."""
    mount = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"'
    inside = ["unshare", "--mount", "sh", "-c", mount, "sh"]
    if subprocess.run([*inside, "true"], capture_output=True).returncode:
        pytest.skip("may not mount a file system here")
    command = [sys.executable, "run.py", *SMALL, WORKERS, "data.lanes=32", f"hydra.run.dir={runs.folder}/shm"]
    environment = {**os.environ, "ELMUR_SHARDS": str(runs.folder / "shards")}
    done = subprocess.run(
        [*inside, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "shared memory" in line and "/dev/shm" in line and "data.num_workers=0" in line


def test_few_open_files(cli: CommandLine) -> None:
    """26 of them: enough for a run without workers, too few for what is handed over through them."""
    command = [sys.executable, "run.py", *SMALL, WORKERS, f"hydra.run.dir={cli.folder}/few"]
    done = subprocess.run(
        ["bash", "-c", "ulimit -n 26; exec \"$@\"", "bash", *command],
        cwd=ROOT, env=cli.all_of({}), capture_output=True, text=True, timeout=TIMEOUT,
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.startswith("error: a worker could not hand over its batch") and "open files" in done.stderr
