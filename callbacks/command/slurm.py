"""Sweeps on a SLURM cluster that keeps no accounts, where submitit would wait for a killed job for ever.

`python -m callbacks.command.slurm JOB...` says in the words of sacct what scontrol knows of jobs.
"""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from typing import Any

from hydra.experimental.callback import Callback

log = logging.getLogger(__name__)
COLUMNS = "JobID|State|NodeList"
LOOK_EVERY = 60  # seconds; scontrol forgets a job some minutes after its end


class WithoutAccounting(Callback):
    """A Hydra callback: where sacct does not work, jobs of this sweep are looked up with scontrol."""

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        from submitit.slurm.slurm import SlurmInfoWatcher, SlurmJob  # an extra

        if keeps_accounts():
            return
        log.info("sacct does not work on this cluster; jobs are watched with scontrol")
        SlurmJob.watcher._delay_s = LOOK_EVERY

        def command(watcher: SlurmInfoWatcher) -> list[str] | None:
            jobs = sorted(watcher._registered - watcher._finished)
            return [sys.executable, "-m", __name__, *jobs] if jobs else None

        SlurmInfoWatcher._make_command = command  # type: ignore[method-assign,assignment]


def keeps_accounts() -> bool:
    """Whether sacct answers."""
    try:
        return subprocess.run(["sacct", "-n", "-X"], capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def states(jobs: list[str]) -> list[str]:
    """A line `id|state|nodes` for each job (`12` or `12_3`) and each range of waiting ones, after their heading.

    A job that is not known any more has FAILED: had it ended well, its result would be there and nobody would ask.
    Raises OSError where the controller does not answer.
    """
    lines, known = [COLUMNS], set()
    for job in sorted({job.partition("_")[0] for job in jobs}):
        for fields in described(job):
            name = fields["JobId"]
            if "ArrayTaskId" in fields:
                task = fields["ArrayTaskId"]
                name = f"{fields['ArrayJobId']}_{task if task.isdigit() else f'[{task}]'}"
                known |= {f"{fields['ArrayJobId']}_{number}" for number in members(task)}
            known.add(name)
            lines.append(f"{name}|{fields['JobState']}|{fields.get('NodeList', '')}")
    return lines + [f"{job}|FAILED|" for job in jobs if job not in known]


def described(job: str) -> list[dict[str, str]]:
    """What scontrol says of a job, or of each part of an array; nothing for a job that it has forgotten."""
    done = subprocess.run(["scontrol", "show", "job", "-o", job], capture_output=True, text=True, timeout=60)
    if done.returncode and "Invalid job id" not in done.stderr:
        raise OSError(f"scontrol: {done.stderr.strip()}")
    found = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in done.stdout.splitlines()]
    return [fields for fields in found if "JobId" in fields]


def members(tasks: str) -> list[int]:
    """The numbers in `3`, `0-2`, `1,4-5` or `1-9%2` (two at a time)."""
    spans = [span.partition("-") for span in tasks.partition("%")[0].split(",")]
    return [n for low, _, high in spans for n in range(int(low), int(high or low) + 1)]


if __name__ == "__main__":
    sys.stdout.write("\n".join(states(sys.argv[1:])) + "\n")
