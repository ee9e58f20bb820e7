"""Where data came from: versions of packages and of this code, and the time."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PACKAGES = ("elmur", "numpy", "h5py", "hdf5plugin", "gymnasium", "popgym", "mani_skill", "mikasa-robo-suite")


def origin() -> dict[str, Any]:
    """Versions of Python and of the packages that shape data, the code version, and the time (UTC, ISO 8601)."""
    return {
        "versions": dict(_versions()),
        "code": code_version(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@functools.cache
def code_version() -> str:
    """The commit of this checkout (with `-dirty` where files were changed), else the version of the package."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        root = Path(__file__).resolve().parent.parent
        if not (root / ".git").exists():  # else an installed copy would report the repository that it lies in
            return _version("elmur")
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return _version("elmur")
    return done.stdout.strip()


@functools.cache
def _versions() -> tuple[tuple[str, str], ...]:
    installed = [(name, _version(name)) for name in PACKAGES]
    return (("python", platform.python_version()), *((n, v) for n, v in installed if v != "unknown"))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
