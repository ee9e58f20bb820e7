"""Sweeps and several nodes on a real SLURM, brought up for these tests: nothing finished is lost, nothing hangs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.command import ROOT, TINY

HERE = Path(__file__).parent / "cluster"
PROGRAMS = ("slurmctld", "slurmd", "srun", "munged")
MISSING = [program for program in PROGRAMS if shutil.which(program) is None]
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        bool(MISSING) or not hasattr(os, "geteuid") or os.geteuid() != 0,
        reason="needs root and: apt-get install --no-install-recommends slurmctld slurmd slurm-client munge",
    ),
]
PATIENCE = 240.0
# Long enough to be met in the middle, with a checkpoint before that.
LONG = (*TINY, "trainer.max_steps=600", "trainer.log_every_n_steps=50", "callbacks.resume.every_n_updates=50",
        "callbacks.selection.every_n_updates=250")  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A SLURM of two nodes on this machine."""
    folder = tmp_path_factory.mktemp("cluster")
    port = 20000 + os.getpid() % 10000 * 3
    subprocess.run([HERE / "start.sh", folder, str(port)], check=True, stdin=subprocess.DEVNULL, timeout=60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        patch.setenv("MASTER_ADDR", "127.0.0.1")  # the nodes' names stand for this machine and resolve nowhere
        try:
            yield
        finally:
            subprocess.run([HERE / "stop.sh", folder], check=True, timeout=60)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shards")


class Command:
    """`python run.py ...`, or another command line in front of it, with what it says in a file."""

    def __init__(self, folder: Path, shards: Path, *arguments: str, before: tuple[str, ...] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "command.log"
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                [*before, sys.executable, "run.py", *arguments], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, env={**os.environ, "ELMUR_SHARDS": str(shards), "COLUMNS": "200"},
            )  # fmt: skip

    def finish(self) -> tuple[int, str]:
        """Exit code and everything said; a command that hangs is an error."""
        try:
            self.process.wait(PATIENCE)
        finally:
            self.process.kill()
        return self.process.returncode, self.log.read_text()


def sweep(folder: Path, shards: Path, *arguments: str) -> Command:
    """A sweep through hydra/launcher=slurm; run folders are `folder/<value>`."""
    places = (f"hydra.sweep.dir={folder}/sweep", "hydra.launcher.cpus_per_task=1")
    return Command(folder, shards, "-m", "hydra/launcher=slurm", *places, *arguments)


def scontrol(*arguments: str) -> str:
    return subprocess.run(["scontrol", *arguments], check=True, capture_output=True, text=True, timeout=60).stdout


def wait_for(what: str, found: Callable[[], Any], command: Command) -> Any:
    """What `found` gives as soon as that is something; the command must still be running."""
    deadline = time.monotonic() + PATIENCE
    while not (it := found()):
        over = command.process.poll() is not None
        assert not over, f"the command ended before there was {what}: {command.log.read_text()}"
        assert time.monotonic() < deadline, f"waited {PATIENCE:.0f} s for {what}"
        time.sleep(0.1)
    return it


def one(folder: Path, pattern: str) -> Callable[[], Path | None]:
    return lambda: next(folder.rglob(pattern), None)


def run_of(folder: Path, override: str) -> Path | None:
    """The run of a sweep with this on its command line."""
    found = [path for path in folder.rglob("overrides.yaml") if f"- {override}\n" in path.read_text()]
    return found[0].parent.parent if found else None


def processes_of(job: str) -> list[int]:
    """The Python processes of a job."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if b"submitit.core._submit" not in (path / "cmdline").read_bytes():
                continue
            if f"SLURM_JOB_ID={job}\0".encode() in (path / "environ").read_bytes() + b"\0":
                arguments = (path / "cmdline").read_bytes().split(b"\0")
                found += [int(path.name)] if b"python" in arguments[0] else []
        except OSError:
            continue
    return found


def job_of(folder: Path, command: Command) -> str:
    """The number of the one job of a sweep."""
    path = wait_for("a job", one(folder, "*_submitted.pkl"), command)
    return str(path.name.partition("_")[0])


def go_on_now(job: str, command: Command) -> None:
    """Let a job that is back in the queue start without SLURM's two minutes of waiting.

    Not in the very second in which it was sent back: a node refuses it then ("Job credential revoked").
    """
    wait_for("the job in the queue", lambda: "JobState=PENDING" in scontrol("show", "job", job), command)
    scontrol("update", f"JobId={job}", "StartTime=now+3")


def restarts(job: str) -> int:
    found = re.search(r"Restarts=(\d+)", scontrol("show", "job", job))
    assert found
    return int(found[1])


def checkpoint(folder: Path) -> dict[str, Any]:
    path = one(folder, "last.ckpt")()
    assert path is not None
    loaded: dict[str, Any] = torch.load(path, weights_only=True)
    return loaded


def tensors(node: Any, path: str = "") -> dict[str, Tensor]:
    if isinstance(node, Tensor):
        return {path: node}
    if isinstance(node, dict | list | tuple):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        return {k: v for key, value in items for k, v in tensors(value, f"{path}/{key}").items()}
    return {}


def assert_identical(one_run: Path, other: Path) -> None:
    """Both runs ended with the same checkpoint to the bit, and the same outcomes."""
    a, b = checkpoint(one_run), checkpoint(other)
    for part in ("state_dict", "optimizer_states", "elmur"):
        x, y = tensors(a[part]), tensors(b[part])
        assert x.keys() == y.keys() and len(x) > 0
        assert [key for key in x if not torch.equal(x[key], y[key])] == [], part
    assert outcomes(one_run) == outcomes(other)


def outcomes(folder: Path) -> Any:
    path = one(folder, "result.json")()
    assert path is not None
    found = json.loads(path.read_text())["outcomes"].values()
    return [{key: value for key, value in outcome.items() if key != "wall_seconds"} for outcome in found]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    """The run that nothing interrupts, outside of SLURM."""
    folder = tmp_path_factory.mktemp("straight")
    code, said = Command(folder, shards, *LONG, f"hydra.run.dir={folder}/run").finish()
    assert code == 0, said
    return folder


def test_a_sweep_is_one_array_of_jobs(tmp_path: Path, shards: Path) -> None:
    code, said = sweep(tmp_path, shards, *TINY, "seed=0,1", "model=elmur,gru").finish()
    assert code == 0, said
    rows = [json.loads(path.read_text()) for path in tmp_path.rglob("result.json")]
    assert sorted((row["model"], row["seed"]) for row in rows) == [(m, s) for m in ("elmur", "gru") for s in (0, 1)]
    arrays = {path.name.partition("_")[0] for path in tmp_path.rglob("*_submitted.pkl")}
    assert len(arrays) == 1, "jobs of one array"

    again = sweep(tmp_path, shards, *TINY, "seed=0,1", "model=elmur,gru")
    code, said = again.finish()
    assert code == 0, said
    finished = sorted(row["finished"] for row in rows)
    assert sorted(json.loads(p.read_text())["finished"] for p in tmp_path.rglob("result.json")) == finished


def test_a_requeued_job_ends_as_if_nothing_had_been(tmp_path: Path, shards: Path, straight: Path) -> None:
    command = sweep(tmp_path, shards, *LONG, "seed=0")
    job = job_of(tmp_path, command)
    wait_for("a checkpoint", one(tmp_path, "last.ckpt"), command)
    scontrol("requeue", job)
    go_on_now(job, command)
    code, said = command.finish()
    assert code == 0, said
    assert restarts(job) == 1
    assert checkpoint(tmp_path)["global_step"] == 600
    assert_identical(tmp_path, straight)


def test_a_job_that_reaches_its_time_limit_goes_on(tmp_path: Path, shards: Path, straight: Path) -> None:
    command = sweep(
        tmp_path, shards, *LONG, "seed=0", "hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=20"
    )
    job = job_of(tmp_path, command)
    wait_for("a checkpoint", one(tmp_path, "last.ckpt"), command)
    (process,) = processes_of(job)
    os.kill(process, signal.SIGSTOP)  # however fast the machine, the limit comes in the middle of training

    def asked() -> bool:
        """Whether the signal waits for the process, or SLURM has woken it up for that."""
        try:
            found = re.search(r"ShdPnd:\t(\w+)", Path(f"/proc/{process}/status").read_text())
        except FileNotFoundError:
            return True
        return found is not None and bool(int(found[1], 16) >> (signal.SIGUSR2 - 1) & 1)

    wait_for("the signal before the time limit", asked, command)
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGCONT)
    go_on_now(job, command)
    code, said = command.finish()
    assert code == 0, said
    logs = "".join(path.read_text() for path in (tmp_path / "sweep/.submitit").rglob("*_log.*"))
    assert "this job is timed-out" in logs and "Requeued job" in logs
    assert restarts(job) >= 1  # a busy machine reaches the limit again, and goes on again
    assert_identical(tmp_path, straight)


def test_jobs_that_fail_or_are_killed_leave_the_others_alone(tmp_path: Path, shards: Path) -> None:
    command = sweep(tmp_path, shards, *LONG, "model.n_head=2,3,4")  # 3 does not divide the width
    killed = wait_for("the third run", lambda: run_of(tmp_path, "model.n_head=4"), command)
    wait_for("its checkpoint", one(killed, "last.ckpt"), command)
    jobs = scontrol("show", "job", "-o").splitlines()
    (job,) = [re.findall(r"JobId=(\d+)", line)[0] for line in jobs if "ArrayTaskId=2 " in line and "RUNNING" in line]
    for process in processes_of(job):
        os.kill(process, signal.SIGKILL)
    code, said = command.finish()
    assert code == 1, said
    assert "1 finished, 0 had been finished before, 1 failed, 1 did not end" in said
    for state, heads in (("failed", 3), ("did not end", 4)):
        (line,) = [line for line in said.splitlines() if f"{state}: " in line and f"model.n_head={heads}:" in line]
        log = Path(line.rpartition("; see ")[2])
        assert log.exists() and log.name.endswith("_log.out"), "the job's own"
    assert "n_head must divide d_model" in said and "Traceback" not in said
    other = run_of(tmp_path, "model.n_head=2")
    assert other is not None
    assert [path.parent for path in tmp_path.rglob("result.json")] == [other]

    code, said = sweep(tmp_path, shards, *LONG, "model.n_head=2,4").finish()
    assert code == 0, said
    assert (killed / "result.json").exists()
    logs = "".join(path.read_text() for path in (tmp_path / "sweep/.submitit").rglob("*_log.out"))
    assert "going on from" in logs and "kept after" in logs
    assert "1 finished, 1 had been finished before, 0 failed" in said


def test_a_named_sweep_as_jobs(tmp_path: Path, shards: Path) -> None:
    """`sweep=popgym48 hydra/launcher=slurm`, of two tasks: one has a damaged shard, the same command does the rest."""
    pytest.importorskip("popgym", reason="needs POPGym: pip install -e '.[popgym]'")
    from tests.test_cli_popgym import TINY as SMALL

    damaged = shards / "popgym-RepeatPreviousEasy-v0" / "shard-00000.h5"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"no shard")
    command = ("sweep=popgym48", "hydra/launcher=slurm", "task=glob(popgym_repeat_*_easy)", "seed=0", *SMALL)
    places = (f"hydra.sweep.dir={tmp_path}/sweep", "hydra.launcher.cpus_per_task=1")
    code, said = Command(tmp_path, shards, *command, *places).finish()
    assert code == 1, said
    assert "1 finished, 0 had been finished before, 1 failed" in said and "Traceback" not in said
    (line,) = [line for line in said.splitlines() if "failed: " in line]
    assert "task=popgym_repeat_previous_easy" in line and f"{damaged}, file: found 8 bytes" in line
    assert "shard-00000.h5" in Path(line.rpartition("; see ")[2]).read_text(), "the log of the job"
    damaged.unlink()
    code, said = Command(tmp_path, shards, *command, *places).finish()
    assert code == 0 and "1 finished, 1 had been finished before, 0 failed" in said, said
    assert len(list(tmp_path.rglob("result.json"))) == 2


def test_tasks_of_one_srun_are_runs_by_themselves(tmp_path: Path, shards: Path) -> None:
    script = f'exec {sys.executable} run.py "$@" seed=$SLURM_PROCID hydra.run.dir={tmp_path}/run-$SLURM_PROCID'
    before = ("srun", "--ntasks=2", "bash", "-c", script, "bash")
    environment = {**os.environ, "ELMUR_SHARDS": str(shards), "COLUMNS": "200"}
    done = subprocess.run([*before, *TINY], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads((tmp_path / f"run-{number}" / "result.json").read_text()) for number in (0, 1)]
    assert [row["seed"] for row in rows] == [0, 1] and done.stdout.count("result row") == 2


PLAIN = (*TINY, "trainer.max_steps=20", "model.dropout=0", "model.dropatt=0", "model.memory.memory_dropout=0",
         "trainer.precision=64-true")  # fmt: skip


@pytest.mark.parametrize(
    ("srun", "devices", "nodes"),
    [(("--nodes=1", "--ntasks-per-node=2"), 2, 1), (("--nodes=2", "--ntasks-per-node=1"), 1, 2)],
    ids=["two tasks on one node", "two nodes"],
)
def test_srun_starts_the_processes_of_one_run(
    tmp_path: Path, shards: Path, srun: tuple[str, ...], devices: int, nodes: int
) -> None:
    alone = Command(tmp_path / "one", shards, *PLAIN, f"hydra.run.dir={tmp_path}/one/run")
    code, said = alone.finish()
    assert code == 0, said
    two = ("trainer=ddp", f"trainer.devices={devices}", f"trainer.num_nodes={nodes}")
    before = ("srun", "--kill-on-bad-exit=1", *srun)
    code, said = Command(
        tmp_path / "two", shards, *PLAIN, *two, f"hydra.run.dir={tmp_path}/two/run", before=before
    ).finish()
    assert code == 0, said
    assert "MEMBER: 2/2" in said
    assert said.count("result row") == 1
    a, b = (tensors(checkpoint(tmp_path / name)["state_dict"]) for name in ("one", "two"))
    assert max((a[key] - b[key]).abs().max().item() for key in a) < 1e-5
    assert outcomes(tmp_path / "one") == outcomes(tmp_path / "two")
