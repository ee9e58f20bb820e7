"""Processor time against what a child says of itself."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from callbacks.processor import cpu_seconds

WORK = """
import sys, time
while time.process_time() < 0.5:
    pass
print(time.process_time(), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("level", ["", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WORK!r}])"])
def test_what_a_child_has_worked_is_counted_while_it_lives_and_afterwards(level: str) -> None:
    begin, own = cpu_seconds(), time.process_time()
    code = level or WORK
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        worked = float(child.stdout.readline())
        alive = cpu_seconds() - begin - (time.process_time() - own)
        assert worked - 0.05 < alive < worked + 0.4, "starting the one between takes time too"
        child.communicate()
    ended = cpu_seconds() - begin - (time.process_time() - own)
    assert alive - 0.05 < ended < alive + 0.4
