"""Rounds of labelling by the real command line: who acted, who labelled, what is kept where, what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from callbacks.stages.rounds import Rounds, digest, seed_of
from data.disturbed import episode_seed
from data.shard import Shard
from elmur.checkpoint import load_policy
from envs.tmaze import TMaze
from tests.command import DEEP, TINY, CommandLine
from tests.test_cli_errors import refused

SMALL = tuple(one for one in TINY if "schedule" not in one)
COMMAND = (*SMALL, *DEEP, "module/schedule=constant")
ROUNDS = ("rounds=aggregate", "rounds.number=2", "rounds.episodes=10", "rounds.expert_share=0")


def shards_of(folder: Path) -> list[Path]:
    return sorted((folder / "rounds").glob("*/shard-*.h5"))


def columns(path: Path) -> dict[str, Any]:
    """The arrays of a shard, cut into episodes."""
    with Shard(path) as shard:
        shard.verify()
        rows = int(shard.offsets[-1])
        cut = {
            key: np.split(shard.read(key, 0, rows), shard.offsets[1:-1])
            for key, column in shard.columns.items()
            if not column.per_episode
        }
        return {**cut, "seed": shard.read("seed", 0, len(shard.offsets) - 1).tolist()}


def test_the_doctor_counts_what_rounds_add(cli: CommandLine) -> None:
    """Two rounds of ten episodes are a third of the sixty that are collected."""
    done = cli.run("stage=doctor", *COMMAND, *ROUNDS, f"shards={cli.folder / 'none'}", to=cli.folder / "doctor")
    assert (done.code, done.stderr) == (0, "")
    said = " ".join(done.stdout.split())
    found = re.search(r"at most ([0-9.]+) kB of data, before compression; at most ([0-9.]+) kB more of rounds", said)
    assert found is not None, said
    assert float(found[1]) == pytest.approx(3 * float(found[2]), rel=0.01)


@pytest.mark.slow
def test_one_command_runs_all_rounds(cli: CommandLine) -> None:
    """Six updates: two, a round, two, a round, two. What acted in round 1 is a run of two updates."""
    short = cli.folder / "two-updates"
    assert cli.run(*COMMAND, "trainer.max_steps=2", to=short).code == 0
    own = sorted((cli.folder / "shards").rglob("*.h5"))
    before = [(path, path.read_bytes()) for path in own]
    folder = cli.folder / "rounds"
    done = cli.run(*COMMAND, *ROUNDS, to=folder)
    assert (done.code, done.stderr) == (0, "")
    assert "round 1 of 2 at update 2: the policy acts, the expert labels" in done.stdout
    assert [(path, path.read_bytes()) for path in sorted((cli.folder / "shards").rglob("*.h5"))] == before
    paths = shards_of(folder)
    assert [path.parent.name for path in paths] == ["round-1", "round-2"]

    row = json.loads((folder / "result.json").read_text())
    assert row["updates"] == 6 and row["data"]["episodes"] == 60 + 2 * 10
    about = [one["collection"]["learner"] for one in row["data"]["rounds"]]
    assert [(one["round"], one["updates"], one["expert_share"]) for one in about] == [(1, 2, 0.0), (2, 4, 0.0)]
    found = [columns(path) for path in paths]
    steps = [sum(len(actions) for actions in one["action"]) for one in found]
    assert [(one["episodes"], one["steps"]) for one in row["data"]["rounds"]] == list(zip([10, 10], steps, strict=True))

    policy = load_policy(short / "checkpoints" / "last.ckpt")
    assert about[0]["weights"] == digest(policy.model) != about[1]["weights"]
    for number, seed in enumerate(found[0]["seed"]):
        recorded = tuple(found[0][key][number].tolist() for key in ("observation/state", "action", "label"))
        assert recorded == played(policy, seed, len(recorded[1]))

    seeds = [set(one["seed"]) for one in found]
    experts = {episode_seed(0, i) for i in range(60)}
    assert seeds[0] == {episode_seed(seed_of(0, 1), i) for i in range(10)} and len(seeds[0] | seeds[1]) == 20
    assert min(seeds[0] | seeds[1]) >= 1_000_000 > 500_000 and not (seeds[0] | seeds[1]) & experts

    again = cli.run(*COMMAND, *ROUNDS, to=folder)
    assert again.code == 0 and "finished before" in again.stdout
    other = cli.run(*COMMAND, *ROUNDS, "rounds.episodes=9", "allow_mismatch=[rounds]", to=folder)
    assert "rounds.episodes is 10 there, 9 here" in refused(other)
    assert cli.run("stage=report", f"source={short}:{folder}", to=cli.folder / "report").code == 0
    told = (cli.folder / "report" / "report.md").read_text()
    assert "not the same rounds of labelling on its own states: " in told and "none, recorded episodes alone" in told
    assert f"2 of 20 episodes, {sum(steps):,} steps, at updates 2, 4, expert's share 0.0, 0.0" in told


def played(policy: Any, seed: int, steps: int) -> tuple[list[Any], list[int], list[int]]:
    """What is seen, done and labelled in one episode, by a loop of one environment."""
    env = TMaze(time_limit=30, random_corridor=True)
    state = env.reset(seed=seed)[0]["state"]
    policy.start(1, 0)
    seen, done, labels, turn = [], [], [], 1 if state[1] > 0 else 3
    for number in range(steps):
        seen.append(state.tolist())
        labels.append(turn if state[2] else 0)
        done.append(int(policy.act(state[None], np.array([number == 0]))[0]))
        shown, _, terminated, truncated, _ = env.step(done[-1])
        state = shown["state"]
    assert terminated or truncated
    return seen, done, labels


@pytest.mark.slow
@pytest.mark.parametrize("model", ["rate", "decision_transformer"])
def test_continuous_actions_and_a_model_that_sees_its_own(cli: CommandLine, model: str) -> None:
    """RATE and the decision transformer read the actions that were executed, and learn the expert's."""
    folder = cli.folder / model
    done = cli.run(
        "task=popgym_position_only_pendulum_easy", "collect.num_episodes=16", "evaluation.num_episodes=2",
        "trainer.max_steps=4", "trainer.accelerator=cpu", "data.lanes=4", "module.context_length=8",
        "data.backprop_segments=2", "callbacks.selection.num_episodes=1", "trainer.log_every_n_steps=1",
        "rounds=aggregate", "rounds.number=1", "rounds.episodes=4", f"model={model}", to=folder,
    )  # fmt: skip
    assert (done.code, done.stderr) == (0, "")
    (path,) = shards_of(folder)
    found = columns(path)
    apart = np.concatenate([a - b for a, b in zip(found["action"], found["label"], strict=True)])
    assert found["label"][0].shape == found["action"][0].shape == (200, 1) and np.abs(apart).max() > 0.1


def test_when_rounds_take_place() -> None:
    assert Rounds(number=3).updates_before(1500) == [375, 750, 1125, 1500]
    assert Rounds(number=3).updates_before(10) == [2, 4, 6, 10], "the last part has what is left over"
    assert Rounds(number=2, updates=100).updates_before(1500) == [1300, 1400, 1500]
    assert [Rounds(expert_share=0.5).share_of_expert(k) for k in (1, 2)] == [0.5, 0.25]
    assert Rounds(expert_share=1.0).share_of_expert(3) == 1.0 and Rounds().share_of_expert(1) == 0.0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("rounds.number=0",), "rounds.number: expected 1 or more, found 0"),
        (("rounds.updates=3", "rounds.number=2"), "trainer.max_steps=6: expected more than 6"),
        (
            ("trainer.max_steps=-1", "+trainer.max_time=00:00:00:05", "module/schedule=constant"),
            "trainer.max_steps=-1: expected more than 3",
        ),
        (("rounds.expert_share=2",), "rounds.expert_share: expected a share from 0 to 1, found 2"),
        (("+rounds.beta=1",), "rounds.beta"),
        (("module=cql",), "rounds: CQL learns from returns or rewards"),
        (("module=filtered",), "rounds: Filtered learns from returns or rewards"),
        (("env.expert._target_=none",), "env=tmaze names no env.expert"),
        (("trainer=ddp", "trainer.devices=2"), "rounds: one process acts and trains, found 2; give trainer.devices=1"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_done(
    cli: CommandLine, arguments: tuple[str, ...], says: str
) -> None:
    done = cli.run(*SMALL, "rounds=aggregate", *arguments, f"shards={cli.folder}/none")
    assert says in refused(done)
    assert not (cli.folder / "none").exists()


def test_trajectories_alone_have_nobody_who_labels(cli: CommandLine) -> None:
    assert cli.run(*TINY, "stage=collect").code == 0
    done = cli.run("env=data", "env.id=tmaze-T30", "rounds=aggregate", "trainer.max_steps=8", "data.lanes=4")
    assert "env=data is trajectories alone; leave rounds out, or name an environment with an expert" in refused(done)
