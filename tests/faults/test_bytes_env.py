"""An environment that raises, dies or hangs in the middle of an evaluation: repeated once, then an env_error."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from callbacks.evaluation.evaluate import evaluate
from callbacks.evaluation.plan import EvaluationPlan
from envs.experts.tmaze import TMazeExpert
from envs.isolated import EnvError, IsolatedVector, rollout_isolated
from envs.rollout import rollout
from envs.tmaze import make_vector
from tests.command import DEEP, ROOT, TINY, CommandLine, patience
from tests.faults.unruly import make

pytestmark = pytest.mark.faults
SEEDS = range(500_000, 500_006)
BAD = 500_002
SHORT, LONG = 3.0, 120.0  # seconds for a step: where it hangs, and where it does not
SAYS = {
    "raise": "step: ZeroDivisionError: the simulator is out of sorts",
    "die": "step: its process ended with exit code -9",
    "hang": f"step: no answer within {SHORT:g} seconds",
}


def alone(episodes: int, limit: float = LONG, first: int = SEEDS[0]) -> EvaluationPlan:
    """Environments in a process of their own."""
    return EvaluationPlan(episodes, 6, first, isolate=True, step_timeout=limit)


def notes(folder: Path) -> tuple[list[int], list[str]]:
    """The processes that the environments started, and the seeds they were reset with."""
    lines = (folder / "notes").read_text().splitlines()
    return [int(line[4:]) for line in lines if line.startswith("pid ")], [x for x in lines if x.startswith("seeds ")]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pids: list[int]) -> bool:
    """Whether the processes have ended, or do so within some seconds."""
    until = time.monotonic() + patience(10)
    while time.monotonic() < until and any(map(is_running, pids)):
        time.sleep(0.05)
    return not any(map(is_running, pids))


def test_an_isolated_environment_gives_the_same_episodes() -> None:
    env = IsolatedVector(make_vector, 4, {"time_limit": 30}, 30.0)
    try:
        found = rollout_isolated(env, TMazeExpert(), SEEDS)
    finally:
        env.close()
    assert found == rollout(make_vector(4, 30), TMazeExpert(), SEEDS)


@pytest.mark.parametrize("how", ["raise", "die", "hang"])
def test_an_episode_is_repeated_once_and_then_an_env_error(tmp_path: Path, how: str) -> None:
    begin, limit = time.monotonic(), SHORT if how == "hang" else LONG
    unruly = partial(make, how=how, bad=BAD, notes=str(tmp_path))
    outcome = evaluate(TMazeExpert(), unruly, {"all": {}}, alone(len(SEEDS), limit))["all"]
    assert outcome.env_errors == {str(BAD): SAYS[how]}, "neither dropped nor taken for a failure"
    assert (outcome.episodes, outcome.metric("success")) == (5, 1.0)
    assert outcome.seeds == [seed for seed in SEEDS if seed != BAD]
    pids, seeds = notes(tmp_path)
    assert len([line for line in seeds if str(BAD) in line]) == 2, "once with the others, once alone"
    assert len(pids) == (5 if how == "hang" else 3) and gone(pids), "no orphans"
    assert time.monotonic() - begin < patience(40)


def test_an_episode_that_is_lost_once_counts_as_it_ended(tmp_path: Path) -> None:
    unruly = partial(make, how="once", bad=BAD, notes=str(tmp_path))
    outcome = evaluate(TMazeExpert(), unruly, {"all": {}}, alone(6))
    assert (outcome["all"].episodes, outcome["all"].metric("success"), outcome["all"].env_errors) == (6, 1.0, {})


def test_where_no_episode_can_be_played_there_is_no_result(tmp_path: Path) -> None:
    unruly = partial(make, how="raise", bad=BAD, notes=str(tmp_path))
    with pytest.raises(EnvError, match="none of 1 episodes could be played: step: ZeroDivisionError"):
        evaluate(TMazeExpert(), unruly, {"all": {}}, alone(1, first=BAD))


def test_the_environment_does_not_outlive_an_evaluation_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys; from envs.isolated import IsolatedVector; from tests.faults.unruly import make\n"
        "if __name__ == '__main__':\n"
        "    env = IsolatedVector(make, 1, {'how': 'hang', 'bad': 1, 'notes': sys.argv[1]}, 600)\n"
        "    env.reset([1])\n"
        "    import numpy as np; from pathlib import Path\n"
        "    for _ in range(4): env.step(np.zeros(1, np.int64), np.ones(1, bool))\n"
    )
    (tmp_path / "act.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, tmp_path / "act.py", tmp_path], cwd=ROOT, env=environment)
    until = time.monotonic() + patience(60)
    while time.monotonic() < until and not ((tmp_path / "notes").exists() and len(notes(tmp_path)[0]) == 2):
        time.sleep(0.05)
    pids, _ = notes(tmp_path)
    assert len(pids) == 2
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert gone(pids[:1])
    os.kill(pids[1], signal.SIGKILL)  # what a simulator starts by itself is out of reach of a killed evaluation


def test_the_command_line_says_what_was_lost(cli: CommandLine, tmp_path: Path) -> None:
    """A T-Maze that misbehaves stands in for a simulator; it takes the T-Maze's place as the process starts."""
    done = cli.run(*TINY, *DEEP, to=(trained := tmp_path / "trained"))
    assert done.code == 0, done.stderr
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(
        "import envs.tmaze as tmaze\n"
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from tests.faults import unruly\n"
        "unruly.make_vector = tmaze.make_vector\n"
        "def make_vector(num_envs, time_limit, **given):\n"
        f"    return unruly.Unruly(num_envs, 'die', {BAD}, {str(tmp_path)!r})\n"
        "make_vector.__module__ = 'envs.tmaze'\n"
        "tmaze.make_vector = make_vector\n"
    )
    paths = {"PYTHONPATH": f"{hook}:{ROOT}"}
    asked = ("stage=evaluate", f"checkpoint={trained}/checkpoints/best.ckpt", "env.lengths=[30]")
    count = ("evaluation.num_episodes=6", "evaluation.isolate=true", f"evaluation.step_timeout={LONG}")
    done = cli.start(*asked, *count, f"hydra.run.dir={tmp_path / 'out'}", **paths)
    assert done.code == 0, done.stderr
    assert f"the episode of seed {BAD} is counted as env_error" in done.stdout
    assert "5 + 1 env_error" in done.stdout
    (outcome,) = json.loads((tmp_path / "out" / "result.json").read_text())["outcomes"].values()
    assert outcome["env_errors"] == {str(BAD): SAYS["die"]} and outcome["episodes"] == 5
    assert gone(notes(tmp_path)[0])
