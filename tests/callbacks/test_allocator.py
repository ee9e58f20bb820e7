"""Freed memory is kept: the same large block again costs no page faults."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from tests.server import ROOT

# Writes to 24 MB blocks that are freed at once, as an update does, and prints the faults of one after the first few.
PROGRAM = """
import resource, sys
import torch
if sys.argv[1] == "keep":
    from callbacks.allocator import keep_freed_memory
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def update():
    blocks = [torch.ones(6_000_000) for _ in range(4)]
for _ in range(3):
    update()
before = faults()
for _ in range(5):
    update()
print((faults() - before) // 5)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_the_same_blocks_again_cost_no_faults() -> None:
    told = {
        how: int(subprocess.run([sys.executable, "-c", PROGRAM, how], cwd=ROOT, capture_output=True, check=True).stdout)
        for how in ("keep", "leave")
    }
    assert told["keep"] < 100, told
    assert told["leave"] > 1000, told  # of the 23,000 pages of the four blocks
