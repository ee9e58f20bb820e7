"""What scontrol knows of jobs, in the words that submitit reads."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from callbacks.command.slurm import keeps_accounts, members, states

SCONTROL = """#!/bin/sh
case "$4" in
7) cat <<'LINES'
JobId=7 ArrayJobId=7 ArrayTaskId=1,3-4%2 JobName=run JobState=PENDING Reason=None NodeList=
JobId=9 ArrayJobId=7 ArrayTaskId=0 JobName=run JobState=RUNNING NodeList=one
LINES
;;
12) echo "JobId=12 JobName=run JobState=COMPLETED NodeList=two";;
13) echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1;;
*) echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1;;
esac
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scontrol that knows an array 7 and a job 12, has forgotten 13, and is not always there; a sacct refuses."""
    for name, text in {"scontrol": SCONTROL, "sacct": "#!/bin/sh\nexit 1\n"}.items():
        path = tmp_path / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


@pytest.mark.parametrize(
    ("tasks", "numbers"), [("3", [3]), ("0-2", [0, 1, 2]), ("1,4-5", [1, 4, 5]), ("1-3%2", [1, 2, 3])]
)
def test_members_of_a_range(tasks: str, numbers: list[int]) -> None:
    assert members(tasks) == numbers


@pytest.mark.usefixtures("programs")
def test_waiting_running_finished_and_forgotten_jobs() -> None:
    assert states(["7_0", "7_1", "7_2", "7_3", "12", "13"]) == [
        "JobID|State|NodeList",
        "12|COMPLETED|two",
        "7_[1,3-4%2]|PENDING|",
        "7_0|RUNNING|one",
        "7_2|FAILED|",
        "13|FAILED|",
    ]
    slurm = pytest.importorskip("submitit.slurm.slurm", reason="needs the extra slurm")
    found = slurm.SlurmInfoWatcher().read_info("\n".join(states(["7_0", "7_4"])))
    assert [found[f"7_{n}"]["State"] for n in (0, 1, 3, 4)] == ["RUNNING", "PENDING", "PENDING", "PENDING"]


@pytest.mark.usefixtures("programs")
def test_a_controller_that_does_not_answer_says_nothing_of_jobs() -> None:
    with pytest.raises(OSError, match="scontrol"):
        states(["99"])


@pytest.mark.usefixtures("programs")
def test_accounts_are_asked_for() -> None:
    assert not keeps_accounts()
