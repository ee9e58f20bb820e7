"""What cannot be shown is no failure: a full disk behind stdout, a reader that leaves, an encoding, a closed stream."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import ROOT, TIMEOUT, TINY, CommandLine

pytestmark = pytest.mark.faults

PLACES = {
    "a full disk": "exec python run.py \"$@\" >/dev/full",
    "a full disk for both": "exec python run.py \"$@\" >/dev/full 2>&1",
    "a reader that leaves": "set -o pipefail; python run.py \"$@\" | head -1",
    "a reader that leaves at once": "set -o pipefail; python run.py \"$@\" 2>&1 | true",
    "a closed stream": "exec python run.py \"$@\" >&-",
    "everything closed": "exec python run.py \"$@\" <&- >&- 2>&-",
}  # fmt: skip


def shell(script: str, cli: CommandLine, folder: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command of the shell in which `python run.py "$@"` is ours."""
    script = script.replace("python run.py", f"{sys.executable} run.py")
    done = subprocess.run(
        ["bash", "-c", script, "bash", *TINY, *arguments, f"hydra.run.dir={folder}"],
        cwd=ROOT, env=cli.all_of(environment), capture_output=True, timeout=TIMEOUT,
    )  # fmt: skip
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize("place", PLACES)
def test_what_was_computed_is_written(cli: CommandLine, place: str) -> None:
    folder = cli.folder / place.replace(" ", "-")
    code, out, err = shell(PLACES[place], cli, folder)
    assert (code, err) == (0, ""), out
    assert json.loads((folder / "result.json").read_text())["updates"] == 6
    assert "result row" in (folder / "run.log").read_text()
    assert out.count("\n") == (place == "a reader that leaves")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_signs_that_the_terminal_lacks(cli: CommandLine, encoding: str) -> None:
    folder = cli.folder / f"José-{encoding}"
    given = {"PYTHONIOENCODING": encoding, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "run.py", *TINY, f"hydra.run.dir='{folder}'"],
        cwd=ROOT, env=cli.all_of(given), capture_output=True, timeout=TIMEOUT,
    )  # fmt: skip
    out = done.stdout.decode(encoding)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode()
    assert "T=30" in out and (folder / "result.json").exists()
    assert ("?" in out) == (encoding == "ascii") or "Jos" in out


def test_help_for_a_reader_that_leaves(cli: CommandLine) -> None:
    code, out, err = shell("set -o pipefail; python run.py --cfg job | head -2", cli, cli.folder / "help")
    assert (code, err, out.count("\n")) == (0, "", 2)
