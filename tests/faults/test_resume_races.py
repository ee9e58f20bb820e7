"""Many processes at the same moment, and many deaths while a checkpoint is written: one wins, and nothing is torn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server import ROOT

pytestmark = pytest.mark.faults
TRIES = int(os.environ.get("ELMUR_TRIES", "1"))

# A child saves numbered checkpoints as a run does, says which are finished, and is killed at some moment.
KILLED_WHILE_SAVING = """
import json, os, random, signal, sys, tempfile, time
from pathlib import Path
from types import SimpleNamespace
import torch
from callbacks.checkpoint import AtomicCheckpointIO, ResumePoint, read_checkpoint, resume_point
from elmur.files import leftovers

folder, tries, draw = Path(sys.argv[1]), int(sys.argv[2]), random.Random(0)
padding, writer, found = torch.ones(6_000_000), AtomicCheckpointIO(), {"loaded": 0, "lost": 0, "torn": 0, "other": 0}

def saved(number, path):
    ours = {"version": 1, "spec": "", "model": {}, "context_length": 1, "number": number, "rng": {}, "carry": None}
    writer.save_checkpoint({"state_dict": {"w": padding * number}, "elmur": ours}, path)

def save_for_ever(number, told):
    point = ResumePoint(folder)
    while True:
        number += 1
        trainer = SimpleNamespace(global_step=number, is_global_zero=True)
        trainer.save_checkpoint = lambda path: saved(number, path)
        point.save(trainer)
        os.write(told, number.to_bytes(8, "big"))

last = 0
for _ in range(tries):
    reads, told = os.pipe()
    if (child := os.fork()) == 0:
        save_for_ever(last, told)
    os.close(told)
    time.sleep(draw.uniform(0.02, 0.4))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    finished = last
    while number := os.read(reads, 8):
        finished = int.from_bytes(number, "big")
    os.close(reads)
    found["torn"] += len(leftovers(folder))
    path = resume_point(folder)
    if path is None:
        assert finished == 0
        continue
    checkpoint = read_checkpoint(path)
    number = checkpoint["elmur"]["number"]
    right = torch.equal(checkpoint["state_dict"]["w"], padding * number)
    found["loaded" if right and finished <= number <= finished + 1 else "lost"] += 1
    assert not leftovers(folder)
    last = number
print(json.dumps(found))
"""


@pytest.mark.parametrize("temporary", ["the folder's", "another"])
def test_killed_at_any_moment_of_saving_the_last_finished_checkpoint_is_there(tmp_path: Path, temporary: str) -> None:
    """Also where the system's folder for temporary files is another file system, as on clusters."""
    environment = {**os.environ, "TMPDIR": str(tmp_path) if temporary == "the folder's" else "/dev/shm"}
    command = [sys.executable, "-c", KILLED_WHILE_SAVING, str(tmp_path / "checkpoints"), str(25 * TRIES)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300 * TRIES)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["lost"] == 0 and found["loaded"] >= 20 * TRIES, found
    assert found["torn"] > 0, "some were killed in the middle of writing"


# Children wait for the same moment, then each tries to be the one that works in the folder, or to write the same file.
RACE = """
import json, os, sys, time
from pathlib import Path
from elmur.files import LockError, exclusive, leftovers, write_bytes

folder, tries, runners = Path(sys.argv[1]), int(sys.argv[2]), 4
for race in range(tries):
    start, children, place = time.time() + 0.1, [], folder / str(race)
    for number in range(runners):
        if (child := os.fork()) == 0:
            while time.time() < start:
                pass
            write_bytes(place / "file", bytes([number]) * 200_000)
            try:
                with exclusive(place / ".running"):
                    (place / f"in-{os.getpid()}").touch()
                    time.sleep(0.5)
                os._exit(0)
            except LockError as error:
                (place / f"out-{os.getpid()}").write_text(str(error))
                os._exit(3)
        children.append(child)
    codes = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
    assert codes == [0] + [3] * (runners - 1), codes
    (winner,) = place.glob("in-*")
    pid = winner.name.partition("-")[2]
    for loser in place.glob("out-*"):
        assert f"pid {pid})" in loser.read_text() or "unknown" in loser.read_text(), loser.read_text()
    content = (place / "file").read_bytes()
    assert len(content) == 200_000 and len(set(content)) == 1 and not leftovers(place)
"""


def test_of_four_that_start_at_once_one_gets_the_folder_and_files_are_of_one_writer(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RACE, str(tmp_path), str(20 * TRIES)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120 * TRIES)
    assert done.returncode == 0, done.stderr
