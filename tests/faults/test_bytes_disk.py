"""A full disk while a shard, a checkpoint or a log is written: one sentence, nothing lost, on after space is made."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from data.shard import Shard
from elmur.checkpoint import read_checkpoint
from tests.command import DEEP, TINY, CommandLine, Done

pytestmark = pytest.mark.faults
RUN = (*TINY, *DEEP)
MIB = 1 << 20


@pytest.fixture(scope="module")
def straight(cli: CommandLine) -> Path:
    """A run with all the space it wants."""
    done = cli.run(*RUN, to=(folder := cli.folder / "straight"))
    assert done.code == 0, done.stderr
    return folder


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode != 0:
        pytest.skip(f"only root may mount a small file system: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Use all of the disk but `leave` bytes up; gives the file to delete."""
    path = disk / "filling"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC
        file.truncate(max(file.tell() - leave, 0))
    return path


def stopped(done: Done, names: str) -> None:
    assert done.code == 1, (done.code, done.stdout)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("wandb")]
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    assert names in lines[0] and "No space left on device" in lines[0]


def same_weights(one: Path, other: Path) -> bool:
    a, b = (read_checkpoint(path / "checkpoints" / "last.ckpt")["state_dict"] for path in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("room", [0.5, 1.5, 2.5, 3.5, 4.5])
def test_while_a_checkpoint_is_written(cli: CommandLine, straight: Path, disk: Path, room: float) -> None:
    """Room for none, one, ... four checkpoints; each time the run stops at the next one."""
    folder, size = disk / "run", (straight / "checkpoints" / "last.ckpt").stat().st_size
    filling = fill(disk, int(room * size) + 64 * 1024)
    done = cli.run(*RUN, to=folder)
    if done.code == 0:
        assert room > 3, "a run keeps three checkpoints, and writes a fourth before it gives one up"
    else:
        stopped(done, str(folder))
        kept = sorted((folder / "checkpoints").glob("*.ckpt"))
        assert len(kept) >= min(int(room), 2) and all(read_checkpoint(path) for path in kept)
        assert not list((folder / "checkpoints").glob(".*")), "no leftovers"
        filling.unlink()
        done = cli.run(*RUN, to=folder)
        assert done.code == 0, done.stderr
        assert {"going on from" in done.stdout} == {any(path.name != "best.ckpt" for path in kept)}
    assert same_weights(folder, straight)


def test_while_a_shard_is_written(cli: CommandLine, disk: Path) -> None:
    collect = ("stage=collect", *TINY, "collect.shard_episodes=20", f"shards={disk}/shards")
    done = cli.run(*collect[:-1], f"shards={cli.folder}/measure")
    size = max(path.stat().st_size for path in (cli.folder / "measure").rglob("*.h5"))
    filling = fill(disk, size + size // 2 + 2 * 4096)
    done = cli.run(*collect)
    stopped(done, "shard-00001.h5")
    (first,) = disk.rglob("*.h5")
    with Shard(first) as shard:
        shard.verify()
    before = first.read_bytes()
    filling.unlink()
    assert cli.run(*collect).code == 0
    assert len(list(disk.rglob("*.h5"))) == 3 and first.read_bytes() == before
    assert not list(disk.rglob("*.partial"))


def test_while_the_metrics_are_written(cli: CommandLine, straight: Path, disk: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    filling = fill(disk, 0)
    given = (*RUN, f"callbacks.metrics.folder={disk}/logs")
    stopped(cli.run(*given, to=folder), str(disk))
    filling.unlink()
    done = cli.run(*given, to=folder)
    assert done.code == 0, done.stderr
    assert same_weights(folder, straight)


def test_while_the_first_files_of_a_run_are_written(cli: CommandLine, straight: Path, disk: Path) -> None:
    folder = disk / "run"
    folder.mkdir()
    filling = fill(disk, 0)
    given = (*RUN, "hydra.output_subdir=null")  # Hydra writes nothing before
    stopped(cli.run(*given, to=folder), str(folder))
    filling.unlink()
    done = cli.run(*given, to=folder)
    assert done.code == 0, done.stderr
    assert same_weights(folder, straight)


def test_while_the_row_is_written(cli: CommandLine, straight: Path, disk: Path) -> None:
    """Evaluation into a full folder."""
    folder = disk / "out"
    (folder / ".hydra").mkdir(parents=True)
    fill(disk, 0)
    best = straight / "checkpoints" / "best.ckpt"
    stopped(cli.run("stage=evaluate", f"checkpoint={best}", *TINY, to=folder), "output folder")
    os.unlink(disk / "filling")
    assert cli.run("stage=evaluate", f"checkpoint={best}", *TINY, to=folder).code == 0
