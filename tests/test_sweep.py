"""`sweep=popgym48`: a run that fails stops nobody, what is finished is kept, failures are listed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("popgym", reason="needs POPGym: pip install -e '.[popgym]'")

from tests.command import ROOT, CommandLine
from tests.sinks import tensorboard_run
from tests.test_cli_popgym import TINY

GOOD, BAD = "popgym-RepeatFirstEasy-v0", "popgym-RepeatPreviousEasy-v0"
TWO = ("sweep=popgym48", "task=glob(popgym_repeat_*_easy)", "seed=0")


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path)


def rows(folder: Path) -> list[str]:
    return sorted(json.loads(path.read_text())["task"] for path in folder.rglob("result.json"))


def test_a_sweep_by_name_ends_with_its_report(cli: CommandLine) -> None:
    one = ("sweep=popgym48", "task=popgym_repeat_first_easy", "seed=0", "hydra/launcher=basic")
    done = cli.run(
        *one, *TINY, f"hydra.sweep.dir={cli.folder}/runs", "logger=tensorboard", "trainer.log_every_n_steps=1"
    )
    assert (done.code, done.stderr) == (0, "") and rows(cli.folder / "runs") == [GOOD]
    assert (cli.folder / "reports" / "popgym48" / "report.md").read_text().startswith("# What sweep=popgym48 reached")
    texts = tensorboard_run(cli.folder / "reports" / "popgym48" / "logs")["texts"].values()
    assert any(GOOD in text for text in texts), "of the whole sweep, beside those of its runs"


@pytest.mark.slow
def test_a_failed_run_stops_nobody_and_the_same_command_does_the_rest(cli: CommandLine) -> None:
    sweep = f"hydra.sweep.dir={cli.folder}/runs"
    (damaged := cli.folder / "shards" / BAD / "shard-00000.h5").parent.mkdir(parents=True)
    damaged.write_bytes(b"no shard")
    done = cli.run(*TWO, *TINY, sweep)
    assert done.code == 1 and rows(cli.folder / "runs") == [GOOD]
    assert "1 finished, 0 had been finished before, 1 failed" in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if "failed: seed=0 task=popgym_repeat_previous_easy" in line]
    assert f"{damaged}, file: found 8 bytes that HDF5 refuses" in line and "Traceback" not in done.stdout + done.stderr
    log = Path(line.rpartition("; see ")[2])
    assert log.name == "output.log" and "error: shard" in log.read_text()
    before = [path.stat().st_mtime_ns for path in cli.folder.rglob("result.json")]
    damaged.unlink()
    again = cli.run(*TWO, *TINY, sweep)
    assert (again.code, again.stderr) == (0, "") and rows(cli.folder / "runs") == sorted([GOOD, BAD])
    assert "1 finished, 1 had been finished before, 0 failed" in again.stdout
    assert before[0] in [path.stat().st_mtime_ns for path in cli.folder.rglob("result.json")]
    assert not list((cli.folder / "runs").glob(".sweep-*"))


@pytest.mark.slow
def test_a_sweep_that_is_ended_takes_its_runs_along(cli: CommandLine) -> None:
    command = [*TWO, *TINY, "trainer.max_steps=2000", f"hydra.sweep.dir={cli.folder}/runs"]
    process = subprocess.Popen([sys.executable, "run.py", *command], cwd=ROOT, env=cli.all_of({}))
    until = time.monotonic() + 120
    while len(list((cli.folder / "runs").rglob("last.ckpt"))) < 2 and time.monotonic() < until:
        time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    time.sleep(5)
    names = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [name for name in names if str(cli.folder).encode() in name], "nothing is left running"
    assert len(list((cli.folder / "runs").rglob("last.ckpt"))) == 2, "each has saved what it had"
