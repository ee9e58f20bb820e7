"""Files are published whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from elmur.files import LockError, append_bytes, atomic_open, exclusive, leftovers, write_bytes, write_json, write_text

ROOT = Path(__file__).parents[2]


def test_content_arrives_and_no_temporary_file_stays(tmp_path: Path) -> None:
    write_bytes(tmp_path / "new" / "a", b"\x00\x01")
    write_text(tmp_path / "b", "größer")
    write_json(tmp_path / "c", {"x": [1, None]})
    assert (tmp_path / "new" / "a").read_bytes() == b"\x00\x01"
    assert (tmp_path / "b").read_text(encoding="utf-8") == "größer"
    assert json.loads((tmp_path / "c").read_text()) == {"x": [1, None]}
    assert leftovers(tmp_path) == leftovers(tmp_path / "new") == []


def test_exception_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt), atomic_open(path) as file:
        file.write(b"half")
        assert path.read_text() == "old"
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_full_disk_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_text(path, "old")
    with pytest.raises(OSError, match=f"could not write {path}: No space left") as caught, atomic_open(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.errno == errno.ENOSPC
    assert path.read_text() == "old"


def test_nan_is_not_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a", float("nan"))


def test_killed_writer_leaves_a_leftover_and_no_file(tmp_path: Path) -> None:
    code = f"""
        import os, signal
        from elmur.files import atomic_open
        with atomic_open({str(tmp_path / "a")!r}) as file:
            file.write(b"x" * 100_000)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT).returncode == -9
    assert not (tmp_path / "a").exists()
    assert len(leftovers(tmp_path)) == 1


def test_lock_names_its_owner_and_dies_with_it(tmp_path: Path) -> None:
    code = f"""
        from elmur.files import exclusive
        with exclusive({str(tmp_path / "lock")!r}):
            print("held", flush=True)
            input()
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        with pytest.raises(LockError, match=f"pid {owner.pid}"), exclusive(tmp_path / "lock"):
            pass
        owner.kill()
    with exclusive(tmp_path / "lock"):
        assert f"pid {os.getpid()}" in (tmp_path / "lock").read_text()


def test_appended_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    append_bytes(path, b"one\n")
    append_bytes(path, b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"
    with pytest.raises(OSError, match="could not write /dev/full: No space left on device"):
        append_bytes("/dev/full", b"three\n")
