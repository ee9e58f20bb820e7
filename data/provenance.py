"""Where data came from: versions of packages and of this code, and the time."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from elmur.code import code_hash, commit

PACKAGES = ("elmur", "numpy", "h5py", "hdf5plugin", "gymnasium", "popgym", "mani_skill", "mikasa-robo-suite")


def origin() -> dict[str, Any]:
    """Versions of Python and of the packages that shape data, the code, and the time (UTC, ISO 8601)."""
    return {
        "versions": dict(_versions()),
        "code": code_hash(),
        "commit": commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def other_versions(made: Mapping[str, str], packages: Iterable[str]) -> list[tuple[str, str, str]]:
    """(package, version that data were made with, version installed) of the packages for which the two differ."""
    found = [(package, made.get(package, "unknown"), _version(package)) for package in packages]
    return [(package, old, new) for package, old, new in found if "unknown" not in (old, new) and old != new]


@functools.cache
def _versions() -> tuple[tuple[str, str], ...]:
    installed = [(name, _version(name)) for name in PACKAGES]
    return (("python", platform.python_version()), *((n, v) for n, v in installed if v != "unknown"))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def describe(thing: Any) -> Any:
    """What identifies a callable or an object in a record: its name, and the arguments bound to it.

    A class that does otherwise than it once did under this name says so by `revision`, a number that is part of it.
    """
    if isinstance(thing, functools.partial):
        name = describe(thing.func)
        # What is None is not asked for: a folder from before an argument was there is the same still.
        given = {key: describe(value) for key, value in sorted(thing.keywords.items()) if value is not None}
        return {"call": name, **given}
    if isinstance(thing, Mapping):
        return {str(key): describe(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [describe(value) for value in thing]
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    revision = getattr(named, "revision", None)
    return f"{named.__module__}.{named.__qualname__}" + (f" (revision {revision})" if revision else "")
