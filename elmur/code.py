"""Which code this is: a hash of its files, and the commit that they were checked out from."""

from __future__ import annotations

import functools
import hashlib
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("elmur", "data", "envs", "callbacks")


@functools.cache
def code_hash() -> str:
    """16 digits that change with any Python file of this project: two uncommitted states have two of them.

    Of the checkout where there is one around this package, else of the installed package alone.
    """
    checkout = (ROOT / "run.py").is_file()
    files = [path for room in (ROOMS if checkout else ROOMS[:1]) for path in (ROOT / room).rglob("*.py")]
    digest = hashlib.sha256()
    for path in sorted([*files, ROOT / "run.py"] if checkout else files):
        digest.update(f"{path.relative_to(ROOT).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@functools.cache
def commit() -> str | None:
    """The commit of this checkout, with `-dirty` where files were changed since; None where git knows of none."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    if not (ROOT / ".git").exists():  # else an installed copy would report the repository that it lies in
        return None
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):  # no git, or a checkout of another owner
        return None
    return done.stdout.strip()
