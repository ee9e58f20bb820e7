"""Trajectories of one's own at the command line: arrays to shards to a model, without an environment."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from callbacks.command.sweeps import score_in
from data.index import build_index, task_of
from data.writer import ShardWriter
from elmur.checkpoint import read_checkpoint
from elmur.spec import Discrete, TaskSpec, Vector
from tests.command import CommandLine

QUICK = (
    "env=data", "data.lanes=8", "data.backprop_segments=2", "module.context_length=3", "model=gru", "model.d_model=16",
    "trainer.accelerator=cpu", "module.optimizer.lr=1e-2",
)  # fmt: skip
EPISODES, STEPS = 60, 6


@pytest.fixture(scope="module")
def shards(cli: CommandLine) -> Path:
    """A cue that is shown once and asked for until the end, a number that is to be doubled, and what is mere chance."""
    folder, rng = cli.folder / "shards", np.random.default_rng(0)
    with ShardWriter(folder / "coins") as coins:
        for _ in range(EPISODES):
            coins.append(rng.normal(size=(STEPS, 2)), rng.integers(2, size=STEPS), np.zeros(STEPS))
    with ShardWriter(folder / "cue") as choices, ShardWriter(folder / "double") as numbers:
        for _ in range(EPISODES):
            cue = rng.integers(3)
            shown = np.eye(3)[np.full(STEPS, cue)] * (np.arange(STEPS) == 0)[:, None]
            choices.append(shown, np.full(STEPS, cue), np.ones(STEPS))
            number = rng.normal(size=(STEPS, 1))
            numbers.append({"number": number}, 2 * number, np.zeros(STEPS))
    return folder


def test_trajectories_alone_train_and_validate(cli: CommandLine, shards: Path) -> None:
    done = cli.run(*QUICK, "env.id=cue", "trainer.max_steps=60", to=cli.folder / "cue")
    assert done.code == 0, done.stderr
    assert "action accuracy" in done.stdout and "success needs an environment to act in" in done.stdout + done.stderr
    found = json.loads((cli.folder / "cue" / "validation.json").read_text())
    assert (found["task"], found["measure"], found["episodes"]) == ("cue", "action accuracy", EPISODES // 10)
    assert found["value"] > 0.9 and found["updates"] == 60, "a cue of three is told from its first step"
    assert not (cli.folder / "cue" / "result.json").exists(), "nobody has acted"
    again = cli.run(*QUICK, "env.id=cue", "trainer.max_steps=60", to=cli.folder / "cue")
    assert again.code == 0 and "finished before" in again.stdout + again.stderr and "action accuracy" in again.stdout
    checkpoint = cli.folder / "cue"
    for stage in ("evaluate", "collect"):
        refused = cli.run(*QUICK, "env.id=cue", f"stage={stage}", f"checkpoint={checkpoint}")
        assert refused.code == 1 and refused.stderr.count("\n") == 1, refused.stderr
        assert "env=data: these are trajectories alone, without an environment to act in; for success name" in (
            refused.stderr
        )


def test_other_recordings_in_the_same_folder_are_told(cli: CommandLine) -> None:
    """Of as many episodes of the same lengths: a finished run says so, and one that is to go on is refused."""
    own, to = (*QUICK, "env.id=replaced"), cli.folder / "replaced"
    for seed in (0, 1):
        rng = np.random.default_rng(seed)
        with ShardWriter(cli.folder / "shards" / "replaced", replace=True) as writer:
            for _ in range(20):
                writer.append(rng.normal(size=(STEPS, 2)), np.arange(STEPS) % 2, None)
        done = cli.run(*own, "trainer.max_steps=3", to=to)
        assert done.code == 0 and ("finished before" in done.stdout) == bool(seed), done.stderr
        assert ("trained on other episodes than are in" in done.stdout + done.stderr) == bool(seed)
    longer = "allow_mismatch=[module.schedule.total_updates,trainer.max_steps]"
    more = cli.run(*own, "trainer.max_steps=6", longer, to=to)
    assert more.code == 1 and "cannot resume in the middle of another order of data: data was" in more.stderr


def test_numbers_are_judged_by_their_error(cli: CommandLine, shards: Path) -> None:
    done = cli.run(*QUICK, "env.id=double", "trainer.max_steps=40", to=cli.folder / "double")
    assert done.code == 0 and "mean absolute error" in done.stdout, done.stderr
    found = json.loads((cli.folder / "double" / "validation.json").read_text())
    with_nothing = 2 * np.sqrt(2 / np.pi)  # the mean of |2x| of a standard normal
    assert 0 < found["value"] < with_nothing / 2 and found["loss"] > 0


def test_the_best_weights_by_validation_are_kept(cli: CommandLine, shards: Path) -> None:
    """What cannot be learned goes up and down: the best is the highest of the log, and of equal ones the latest."""
    folder = cli.folder / "coins"
    every = ("selection.every_n_updates=7", "trainer.max_steps=30", "trainer.log_every_n_steps=1")
    done = cli.run(*QUICK, "env.id=coins", *every, to=folder)
    assert done.code == 0, done.stderr
    with (folder / "logs" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["validation/score"]]
    assert [int(row["update"]) for row in rows] == [7, 14, 21, 28, 30], "the last weights are looked at too"
    best = max(rows, key=lambda row: (float(row["validation/score"]), int(row["update"])))
    found = json.loads((folder / "validation.json").read_text())
    assert (found["chosen_at"], found["updates"]) == (int(best["update"]), 30) and found["chosen_at"] < 30
    assert found["value"] == pytest.approx(float(best["validation/score"])) == score_in(folder)
    assert found["loss"] == pytest.approx(float(best["validation/loss"]))
    kept = read_checkpoint(folder / "checkpoints" / "best.ckpt")
    assert kept["global_step"] == found["chosen_at"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("env.id=nothing",), "found no shards, expected files named *.h5; name the folder, shards=FOLDER env.id=NAME"),
        (("env.id=cue", "callbacks=default"), "RolloutSelection acts, and env=data has no environment; leave it out"),
    ],
)
def test_what_cannot_be_is_one_sentence(cli: CommandLine, shards: Path, arguments: tuple[str, ...], words: str) -> None:
    done = cli.run(*QUICK, *arguments)
    assert done.code == 1 and done.stderr.count("\n") == 1 and words in done.stderr, done.stderr


def test_npz_files_are_converted(cli: CommandLine, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(20):
        np.savez(tmp_path / f"{number}.npz", state=rng.normal(size=(8, 2)), act=rng.integers(3, size=8), r=np.ones(8))
    names = ("reader.observation={joints: state}", "reader.action=act", "reader.reward=r")
    convert = ("stage=convert", "env=data", "env.id=robot", f"source={tmp_path}")
    done = cli.run(*convert, "reader=npz", *names)
    assert done.code == 0, done.stderr
    assert 'inferred the task {"name": "robot"' in done.stdout + done.stderr, "so that it can be given"
    given = TaskSpec("robot", {"joints": Vector(2)}, Discrete((5,))).to_json()
    (tmp_path / "task.json").write_text(given)
    assert cli.run(*convert, "reader=npz", *names, f"spec={tmp_path}/task.json").code == 0
    assert task_of(cli.folder / "shards" / "robot").to_json() == given

    np.savez(tmp_path / "3.npz", state=rng.normal(size=(8, 2)), act=np.full(8, 7))
    for arguments, words in (
        (
            (),
            f"{tmp_path}: 1 of 20 episodes are bad: 3.npz: no array r; there are state, act; reader.reward=null stores",
        ),
        (
            ("reader.reward=null", f"spec={tmp_path}/task.json"),
            "'reward': 'r', 'source': '"
            + str(tmp_path)
            + "'}; delete it, or name another folder with env.dataset=NAME",
        ),
        (
            ("reader.reward=null", "env.dataset=others", f"spec={tmp_path}/task.json"),
            "3.npz: action: found 7 in episode 0, step 0, expected",
        ),
    ):
        bad = cli.run(*convert, "reader=npz", *names, *arguments)
        assert bad.code == 1 and bad.stderr.count("\n") == 1 and words in bad.stderr, bad.stderr
    nothing = cli.run("stage=convert", "env=data", "reader=npz")
    assert nothing.code == 1 and "stage=convert needs source=FOLDER and its format, reader=" in nothing.stderr


READER = """
import numpy as np

def read(episodes):
    for number in range(episodes):
        yield dict(observation=np.full((4, 1), number, np.float32), action=np.arange(4), reward=None, terminated=True)
"""


@pytest.mark.slow
def test_a_reader_of_ones_own(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "myreader.py").write_text(READER)
    own = ("+reader._target_=myreader.read", "+reader._partial_=true", "+reader.episodes=3")
    convert = ("stage=convert", "env=data", "env.id=generated", *own, f"hydra.run.dir={tmp_path}/out")
    refused = cli.start(*convert, PYTHONPATH=str(tmp_path))
    assert refused.code == 1 and "plugins=[myreader]" in refused.stderr, refused.stderr
    done = cli.start(*convert, "plugins=[myreader]", PYTHONPATH=str(tmp_path))
    assert done.code == 0, done.stderr
    index = build_index(cli.folder / "shards" / "generated")
    assert len(index) == 3 and index.spec.action == Discrete((4,)) and index.terminated().all()


@pytest.mark.slow
def test_a_converted_data_set_belongs_to_its_environment(cli: CommandLine, tmp_path: Path) -> None:
    """Balanced by a rule, told by npz alone, and acted with: data and env are one task."""
    world = ("env=gym", "env.id=CartPole-v1")
    env = gymnasium.make("CartPole-v1")
    for seed in range(40):
        seen, acted, over = [env.reset(seed=seed)[0]], list[int](), False
        while not over and len(acted) < 60:
            acted.append(int(seen[-1][2] + 0.5 * seen[-1][3] > 0))
            shown, _, over, *_ = env.step(acted[-1])
            seen.append(shown)
        np.savez(tmp_path / f"{seed}.npz", observation=np.stack(seen), action=acted, reward=np.ones(len(acted)))
    done = cli.run("stage=convert", *world, "reader=npz", f"source={tmp_path}")
    assert done.code == 0 and "inferred" not in done.stdout, done.stderr
    assert task_of(cli.folder / "shards" / "CartPole-v1").horizon == 500, "the env says"
    small = ("model=gru", "model.d_model=16", "trainer.max_steps=4", "trainer.accelerator=cpu", "data.lanes=8")
    acting = ("evaluation.num_episodes=3", "selection.num_episodes=2", "selection.every_n_updates=4")
    done = cli.run(*world, *small, *acting, to=cli.folder / "cartpole")
    assert done.code == 0, done.stderr
    row = json.loads((cli.folder / "cartpole" / "result.json").read_text())
    assert row["data"]["collection"]["converted"] == str(tmp_path) and row["outcomes"]["all"]["episodes"] == 3
    exported = cli.run("stage=convert", *world, "writer=minari", f"writer.folder={tmp_path}/minari")
    assert exported.code == 0, exported.stderr
    again = (*world, "env.dataset=again", "reader=minari", f"source={tmp_path}/minari/CartPole-v1-v0")
    assert cli.run("stage=convert", *again).code == 0
    first, second = (build_index(cli.folder / "shards" / name) for name in ("CartPole-v1", "again"))
    assert first.digest == second.digest, "the same task, lengths and seeds"
    np.savez(tmp_path / "7.npz", observation=np.zeros((5, 3)), action=[0] * 5, reward=[0] * 5)
    bad = cli.run("stage=convert", *world, "reader=npz", f"source={tmp_path}")
    assert "7.npz: observation/observation: found shape [5, 3] in episode 0, expected shape [5, 4]" in bad.stderr


@pytest.mark.slow
def test_a_policy_of_trajectories_alone_is_exported_and_looked_into(cli: CommandLine, shards: Path) -> None:
    """On recorded episodes, since there is no other world."""
    elmur = [*(word for word in QUICK if word != "model=gru"), "env.id=cue", "model.n_layer=1"]
    done = cli.run(*elmur, "trainer.max_steps=60", to=cli.folder / "watched")
    assert done.code == 0, done.stderr
    from_run = f"checkpoint={cli.folder}/watched/checkpoints/last.ckpt"
    done = cli.run(
        *elmur, "stage=export", from_run, "export.formats=[onnx]", "export.steps=30", to=cli.folder / "exported"
    )
    assert done.code == 0 and "step.onnx acts as the policy: 30 steps of 5 episodes" in done.stdout, done.stderr
    assert "recorded episodes are shown again, whatever is done" in done.stdout
    done = cli.run(*elmur, "stage=inspect", from_run, "inspect.num_episodes=8", to=cli.folder / "looked")
    assert done.code == 0, done.stderr
    assert (cli.folder / "looked" / "memory.html").exists() and "acts as the donor" in done.stdout
