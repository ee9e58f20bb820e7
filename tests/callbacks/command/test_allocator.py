"""Freed memory is kept, so that the same blocks again cost no page faults."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from tests.server import ROOT

# Writes to 200 MB in ten blocks, frees them, and prints how many megabytes the process has kept of them.
PROGRAM = """
import sys
import torch
if sys.argv[1] == "keep":
    from callbacks.command.allocator import keep_freed_memory
    assert keep_freed_memory()
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 // 10**6
before = resident()
blocks = [torch.ones(5_000_000) for _ in range(10)]
del blocks
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_what_was_freed_stays_with_the_process() -> None:
    told = {
        how: int(subprocess.run([sys.executable, "-c", PROGRAM, how], cwd=ROOT, capture_output=True, check=True).stdout)
        for how in ("keep", "leave")
    }
    assert told["keep"] > 180 > 50 > told["leave"], told
