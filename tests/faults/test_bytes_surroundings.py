"""What a run stands in: no network, a dying sink, a folder that cannot be written, a jumping clock, a dead worker."""

from __future__ import annotations

import csv
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.command import DEEP, ROOT, TINY, CommandLine, patience

pytestmark = pytest.mark.faults
RUN = (*TINY, *DEEP)
KEY = "0123456789abcdef0123456789abcdef01234567"
GIVEN_UP = "wandb: given up, the run goes on with its local files alone"


@pytest.fixture(scope="module")
def straight(cli: CommandLine) -> Path:
    """A run that nothing happens to."""
    done = cli.run(*RUN, to=(folder := cli.folder / "straight"))
    assert done.code == 0, done.stderr
    return folder


def same_run(one: Path, other: Path) -> bool:
    """Whether two runs ended with the same weights and logged the same metrics."""
    a, b = (torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for path in (one, other))
    return all(torch.equal(a[name], b[name]) for name in a) and metrics(one) == metrics(other)


def metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "logs" / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if "second" not in k} for row in csv.DictReader(file)]


@pytest.fixture
def silent() -> Iterator[int]:
    """A server that accepts and never answers: its port."""
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    for connection in held:
        connection.close()


def wandb(folder: Path, url: str | None) -> dict[str, str]:
    """An environment of one who has an account at `url`, or none."""
    account = {} if url is None else {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": url}
    return {"WANDB_MODE": "online", "WANDB_SILENT": "true", "HOME": str(folder), **account}


@pytest.mark.parametrize("fault", ["no key", "refused port", "no answer"])
def test_wandb_that_cannot_be_reached(
    cli: CommandLine, straight: Path, tmp_path: Path, silent: int, fault: str
) -> None:
    pytest.importorskip("wandb")
    url = {"no key": None, "refused port": "http://127.0.0.1:9", "no answer": f"http://127.0.0.1:{silent}"}[fault]
    begin = time.monotonic()
    given = (*RUN, "logger=wandb", "logger.mode=online", f"hydra.run.dir={tmp_path / 'run'}")
    done = cli.start(*given, **wandb(tmp_path, url), ELMUR_SHARDS=str(cli.folder / "shards"))
    assert done.code == 0, done.stderr
    assert GIVEN_UP in done.stdout
    assert same_run(tmp_path / "run", straight)
    assert time.monotonic() - begin < patience(60)


def test_wandb_that_dies_in_the_middle(cli: CommandLine, straight: Path, tmp_path: Path) -> None:
    """Its process is killed, as the system does for want of memory, while the third window is trained on."""
    pytest.importorskip("wandb")
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, threading, time\n"
        "def kill():\n"
        "    from pathlib import Path\n"
        "    while True:\n"
        "        time.sleep(0.02)\n"
        "        for status in Path('/proc').glob('[0-9]*/status'):\n"
        "            try: text = status.read_text()\n"
        "            except OSError: continue\n"
        "            if 'wandb-core' in text.split('\\n')[0] and f'PPid:\\t{os.getpid()}\\n' in text:\n"
        "                time.sleep(0.3)\n"
        "                os.kill(int(status.parent.name), signal.SIGKILL)\n"
        f"                open({str(tmp_path / 'killed')!r}, 'w').close()\n"
        "                return\n"
        "threading.Thread(target=kill, daemon=True).start()\n"
    )
    given = (*RUN, "logger=wandb", "logger.mode=offline", f"hydra.run.dir={tmp_path / 'run'}")
    environment = {"PYTHONPATH": str(tmp_path), "WANDB_MODE": "offline", "ELMUR_SHARDS": str(cli.folder / "shards")}
    done = cli.start(*given, **environment)
    assert (tmp_path / "killed").exists()
    assert done.code == 0, done.stderr
    assert same_run(tmp_path / "run", straight)


def test_a_folder_that_cannot_be_written(cli: CommandLine, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    mounted = False
    if os.geteuid() == 0:  # whom permissions do not stop
        mount = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(folder)]
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
        if not mounted:
            pytest.skip("root writes everywhere, and may not mount a read-only file system here")
    else:
        folder.chmod(0o500)
    try:
        done = cli.run(*RUN, to=folder / "run")
        assert (done.code, done.stderr.count("\n")) == (1, 1), done.stderr
        assert f"error: {folder}" in done.stderr
        assert "Read-only file system" in done.stderr or "Permission denied" in done.stderr
        done = cli.run("stage=collect", *TINY, f"shards={folder}/shards")
        assert (done.code, done.stderr.count("\n")) == (1, 1), done.stderr
        assert str(folder) in done.stderr
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
        else:
            folder.chmod(0o700)


def test_a_clock_that_jumps(cli: CommandLine, straight: Path, tmp_path: Path) -> None:
    """By up to ten days, to and fro, at every look."""
    (tmp_path / "sitecustomize.py").write_text(
        "import random, time\n"
        "draw, real, real_ns = random.Random(3), time.time, time.time_ns\n"
        "time.time = lambda: real() + draw.uniform(-864000, 864000)\n"
        "time.time_ns = lambda: real_ns() + draw.randrange(-864000 * 10**9, 864000 * 10**9)\n"
    )
    shards = tmp_path / "shards"
    done = cli.start(*RUN, f"hydra.run.dir={tmp_path / 'run'}", PYTHONPATH=str(tmp_path), ELMUR_SHARDS=str(shards))
    assert done.code == 0, done.stderr
    assert same_run(tmp_path / "run", straight)


def workers_of(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children]


def test_a_data_worker_that_the_system_kills(cli: CommandLine, tmp_path: Path) -> None:
    """An error within ten seconds that says what to do; the same command then ends as if nothing had happened."""
    long = (*RUN, "trainer.max_steps=150", "callbacks.selection.every_n_updates=150", "data.num_workers=2")
    folder = tmp_path / "run"
    command = [sys.executable, "run.py", *long, f"hydra.run.dir={folder}"]
    environment = cli.all_of({})
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        until = time.monotonic() + patience(60)
        while time.monotonic() < until and not (folder / "checkpoints" / "previous.ckpt").exists():
            time.sleep(0.01)
        killed, limit = time.monotonic(), patience(10)
        workers = workers_of(process.pid)
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        said: Any = process.communicate(timeout=limit)[1]
        assert time.monotonic() - killed < limit
    assert process.returncode == 1 and said.count("\n") == 1, said
    assert "DataLoader worker" in said and "the same command goes on from the last checkpoint" in said
    done = cli.run(*long, to=folder)
    assert done.code == 0 and "going on from" in done.stdout, done.stderr
    whole = cli.run(*long, to=(other := tmp_path / "other"))
    assert whole.code == 0 and same_run(folder, other)
