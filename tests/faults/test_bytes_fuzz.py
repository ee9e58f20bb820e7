"""10,000 damaged shards and 2,000 damaged checkpoints: no crash, no hang, no wrong content accepted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from data.shard import write_shard
from elmur.spec import Discrete, Field, Image, TaskSpec, Vector
from tests.command import DEEP, ROOT, TINY, CommandLine, patience

pytestmark = pytest.mark.faults
TRIES = int(os.environ.get("ELMUR_TRIES", "1"))
BATCH = 2500
SECONDS = 200  # for a batch


def fuzz(kind: str, file: Path, count: int, first: int = 0) -> dict[str, int]:
    """Read `count` damaged copies of a file; how many were refused, and how many were right all the same."""
    totals = {"refused": 0, "same": 0}
    for begin in range(first, first + count, BATCH):
        end = min(begin + BATCH, first + count)
        command = [sys.executable, "-m", "tests.faults.bytes_fuzz", kind, str(file), str(begin), str(end)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=patience(SECONDS))
        at = Path(f"{file}.{begin}.number")
        number = at.read_text() if at.exists() else "none"
        assert done.returncode == 0, f"{kind} {number} ended its reader: {done.returncode} {done.stderr[-500:]}"
        found: dict[str, Any] = json.loads(done.stdout)
        assert found["wrong"] == []
        for name in totals:
            totals[name] += found[name]
    assert sum(totals.values()) == count
    return totals


def test_shards(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts: dict[str, Field] = {"state": Vector(3), "token": Discrete((5, 2)), "front": Image(3, 4, 6)}
    spec = TaskSpec("toy", parts, Vector(2, low=(-1.0, -1.0), high=(1.0, 1.0)), horizon=100)

    def episode(length: int) -> Any:
        return SimpleNamespace(
            observation={
                "state": rng.normal(size=(length, 3)).astype(np.float32),
                "token": rng.integers((5, 2), size=(length, 2)),
                "front": rng.integers(256, size=(length, 3, 4, 6), dtype=np.uint8),
            },
            action=rng.uniform(-1, 1, size=(length, 2)).astype(np.float32),
            reward=rng.normal(size=length).astype(np.float32),
            loss_mask=rng.random(length) < 0.8,
            terminated=True,
            truncated=False,
        )

    path = tmp_path / "shard.h5"
    write_shard(path, spec, [episode(n) for n in (1, 5, 34)], {}, seeds=[1, 2, 3], normalise=["state"])
    totals = fuzz("shard", path, 10_000 * TRIES)
    assert totals["refused"] > 9_000 * TRIES


def test_checkpoints(tmp_path: Path) -> None:
    """1,500 with damage as it falls, 500 with damaged pickles under right checksums, as malice would make them."""
    done = CommandLine(tmp_path).run(*TINY, *DEEP, to=(folder := tmp_path / "run"))
    assert done.code == 0, done.stderr
    path = folder / "checkpoints" / "best.ckpt"
    assert fuzz("checkpoint", path, 1_500)["refused"] > 1_300
    fuzz("resealed", path, 500, first=1_500)
