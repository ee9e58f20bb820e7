"""Files that are there whole or not at all: written under a temporary name, synced, renamed.

Everything in this project that must survive a killed process or a full disk is written through this module. The
temporary file lies in the same folder as its final name, since a rename is atomic only within one file system.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import math
import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

log = logging.getLogger(__name__)

PARTIAL = ".partial"
LARGEST_TEXT = 1 << 28  # bytes of a text that is read as a whole
DEEPEST = 64  # how deep values in a JSON file may be nested
NO_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"|[^\[\]{}"]+', re.DOTALL)  # all but brackets
GRACE = 30.0  # seconds in which what a killed process leaves behind saves, ends, and lets go of its locks


class LockError(RuntimeError):
    """Another process holds what this one needs."""


@contextlib.contextmanager
def atomic_open(path: Path | str) -> Iterator[IO[bytes]]:
    """A binary file to write into, published under `path` when the block ends without an exception.

    An exception inside the block leaves what was at `path` untouched and removes the temporary file. An OSError (a full
    disk, a read-only folder) is raised again with the file named.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}")
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if isinstance(error, OSError) and error.errno is not None:
            message = f"could not write {path}: {error.strerror}; what was there before is untouched"
            raise type(error)(error.errno, message) from error
        raise
    _sync_folder(path.parent)


def write_bytes(path: Path | str, content: bytes) -> None:
    """Publish `content` under `path`, whole or not at all."""
    with atomic_open(path) as file:
        file.write(content)


def write_text(path: Path | str, text: str) -> None:
    """Publish `text` (UTF-8) under `path`, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path | str, value: Any) -> None:
    """Publish `value` as indented JSON under `path`, whole or not at all. NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def append_bytes(path: Path | str, content: bytes) -> None:
    """Add `content` to the end of `path`, whole or not at all; an OSError (a full disk) names the file."""
    path = Path(path)
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            if file.write(content) != len(content):  # a full disk takes what fits and says nothing
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with contextlib.suppress(OSError):
                file.truncate(before)
            raise type(error)(error.errno, f"could not write {path}: {error.strerror}") from error


def check_regular(path: Path | str) -> None:
    """Raises ValueError for what is no ordinary file: a pipe would be waited for, a device read for ever.

    FileNotFoundError where there is nothing.
    """
    mode = Path(path).stat().st_mode
    if not stat.S_ISREG(mode):
        kinds = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket"}
        found = next((name for is_kind, name in kinds.items() if is_kind(mode)), "a device")
        raise ValueError(f"expected an ordinary file, found {found}")


def read_text(path: Path | str, most: int = LARGEST_TEXT) -> str:
    """The text (UTF-8) of an ordinary file of at most `most` bytes. ValueError for others, without reading them."""
    check_regular(path)
    with Path(path).open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"expected at most {most} bytes, found more")
    return content.decode()


def read_json(path: Path | str, most: int = LARGEST_TEXT) -> Any:
    """The JSON in a file. ValueError for what is none, for NaN and infinity, and for what is nested without end."""
    text = read_text(path, most)
    depth = deepest = 0
    for character in NO_STRINGS.sub("", text):
        depth += (character in "[{") - (character in "]}")
        deepest = max(deepest, depth)
    if deepest > DEEPEST:
        raise ValueError(f"expected values nested at most {DEEPEST} deep, found {deepest}")
    return json.loads(text, parse_constant=_finite, parse_float=_finite)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"expected finite numbers, found {text[:20]}")
    return number


def leftovers(folder: Path | str) -> list[Path]:
    """Temporary files in `folder` that were never published: their writer was killed, or is still writing."""
    return sorted(Path(folder).glob(f".*{PARTIAL}"))


@contextlib.contextmanager
def exclusive(path: Path | str, *, wait: bool = False) -> Iterator[None]:
    """A block that one process at a time enters; `path` is the lock file and names its owner's host and pid.

    The kernel gives the lock back when its holder ends in whatever way, so there is no stale lock to remove.
    With `wait` the block begins when the other process is done, otherwise LockError names the owner.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner, *rest = path.read_text().strip().splitlines() or ["unknown"]
            if not wait and not _freed(file, owner, *rest):
                raise LockError(f"{path.parent} is in use by another process ({owner}); wait for it to end") from None
            if wait:
                log.info("waiting for another process (%s), which is writing into %s", owner, path.parent)
            fcntl.flock(file, fcntl.LOCK_EX)
        with contextlib.suppress(OSError):  # a full disk: the lock holds without its owner's name
            file.truncate(0)
            file.write(f"host {socket.gethostname()}, pid {os.getpid()}\nparent {os.getppid()}\n".encode())
        yield  # closing the file gives the lock back; the file stays, since removing it would race with a waiter


def _freed(file: IO[Any], owner: str, parent: str = "") -> bool:
    """Whether the lock becomes free in a moment: its owner is dead, and what it left running is about to end.

    Or whoever started the owner is, a sweep that was killed, which the owner then follows with what it saves.
    """
    found, above = re.fullmatch(r"host (.+), pid (\d+)", owner), parent.removeprefix("parent ")
    if found is None or found[1] != socket.gethostname():
        return False
    if all(Path(f"/proc/{pid}").exists() for pid in (found[2], above) if pid):
        return False
    for _ in range(round(GRACE / 0.1)):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.1)
    return False


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
