"""The real command line with ways of learning other than cloning, and with the model that draws its actions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.command import TINY, CommandLine
from tests.test_cli_errors import refused

MIXED = (*TINY, "model=gru", "collect.mixture=0.5", "collect.num_episodes=80")
PENDULUM = (
    "task=popgym_position_only_pendulum_easy", "collect.num_episodes=16", "evaluation.num_episodes=2",
    "trainer.max_steps=2", "trainer.accelerator=cpu", "data.lanes=4", "module.context_length=8",
    "data.backprop_segments=2", "callbacks.selection.num_episodes=1", "trainer.log_every_n_steps=1",
)  # fmt: skip


@pytest.mark.parametrize("module", ["cql", "iql"])
def test_what_learns_from_rewards_is_trained_and_judged(cli: CommandLine, module: str) -> None:
    folder = cli.folder / module
    done = cli.run(*MIXED, f"module={module}", to=folder)
    assert (done.code, done.stderr) == (0, "")
    row = json.loads((folder / "result.json").read_text())
    head = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["elmur"]["head"]
    assert head["hidden_layers"] == [128] and module in head["_target_"]
    log = (folder / "logs" / "metrics.csv").read_text()
    assert "train/critic_loss" in log
    again = cli.run(
        "stage=evaluate", f"checkpoint={folder}/checkpoints/best.ckpt", *TINY[:4], to=cli.folder / f"{module}-again"
    )
    assert (again.code, again.stderr) == (0, "")
    judged = json.loads((cli.folder / f"{module}-again" / "result.json").read_text())
    assert judged["outcomes"]["T=30"]["returns"] == row["outcomes"]["T=30"]["returns"]


def test_filtered_says_how_many_episodes_it_learns_from(cli: CommandLine) -> None:
    done = cli.run(*MIXED, "module=filtered", "module.objective.fraction=0.25")
    assert (done.code, done.stderr) == (0, "")
    assert "the best 20 of 80 episodes: returns of 1 or more; 20 of " in done.stdout


def test_filtered_needs_returns_that_differ(cli: CommandLine) -> None:
    done = cli.run(*TINY, "model=gru", "module=filtered", "env.dataset=alike")
    said = refused_late(done.stderr, done.code)
    assert "all 60 episodes have the return 1, so that none is better than another" in said
    assert "module=imitation" in said


def refused_late(stderr: str, code: int) -> str:
    """The sentence of a command that was refused after something was collected."""
    assert code == 1 and "Traceback" not in stderr
    return stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["model=diffusion_policy"], ["draws continuous actions", "has 4 to choose from", "model=elmur"]),
        (["module=filtered", "module.objective.fraction=0"], ["module.objective: fraction must be above 0", "found 0"]),
        (["module=balanced", "module.objective.power=2"], ["module.objective: power must be from 0 to 1; found 2"]),
        (["module=iql", "module.objective.tau=1"], ["module.objective: tau must be between 0 and 1; found 1"]),
        (
            ["module=preferences"],
            ["Preferences learns from what the expert held", "set collect.preferences=true, and collect again"],
        ),
        (
            ["module=preferences", "module.objective.temperature=2", "collect.preferences=true"],
            ["module.objective: temperature must be from 0 to 1; found 2"],
        ),
        (["module=cql", "module.label_smoothing=0.1"], ["label_smoothing=0.1: CQL smooths labels by 0.0"]),
        (["module=cql", "+module.objective.alfa=1"], ["did you mean module.objective.alpha?"]),
        (
            ["model=decision_transformer", "model.window=2", "module.context_length=5"],
            ["a segment of 5 steps is longer than the decision transformer's window of 2", "raise model.window"],
        ),
        (
            ["model/position=learnable", "model.position.max_seq_len=3", "module.context_length=5"],
            ["a segment of 5 tokens does not fit max_seq_len=3", "lower context_length"],
        ),
        (
            ["model=gru", "evaluation.target_return=5"],
            ["evaluation.target_return=5: GRU sees no returns", "choose model=decision_transformer"],
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_learned_is_refused_before_anything_is_collected(
    cli: CommandLine, arguments: list[str], says: list[str], tmp_path: Path
) -> None:
    done = cli.run(*arguments, ELMUR_SHARDS=str(tmp_path / "none"))
    sentence = refused(done)
    assert all(words in sentence for words in says), sentence
    assert not (tmp_path / "none").exists()


def test_a_policy_that_draws_its_actions_is_trained_and_judged(cli: CommandLine) -> None:
    small = ("model=diffusion_policy", "model.d_model=8", "model.sampling_steps=2", "model.max_plans=8")
    folder = cli.folder / "diffusion"
    done = cli.run(*PENDULUM, *small, to=folder)
    assert (done.code, done.stderr) == (0, "")
    row = json.loads((folder / "result.json").read_text())
    assert row["actions"] == "sampled" and row["updates"] == 2
    refused_one = refused(cli.run(*PENDULUM, *small, "module=iql"))
    assert "DiffusionPolicy generates actions from noise" in refused_one and "module=imitation" in refused_one


def test_a_run_keeps_to_its_own_model_and_a_policy_without_returns_is_asked_for_none(cli: CommandLine) -> None:
    ours, theirs = (cli.folder / f"swapped-{model}" for model in ("lstm", "gru"))
    for model, folder in (("lstm", ours), ("gru", theirs)):
        assert cli.run(*TINY, f"model={model}", "env.dataset=alike", to=folder).code == 0
    again = ("stage=evaluate", f"checkpoint={theirs}/checkpoints/best.ckpt", "env.lengths=[9]")
    said = refused(cli.run(*again, "evaluation.target_return=5"))
    assert "evaluation.target_return=5: GRU sees no returns" in said and "leave it out" in said
    (ours / "result.json").unlink()
    shutil.copy(theirs / "checkpoints" / "last.ckpt", ours / "checkpoints" / "last.ckpt")
    said = refused_late((done := cli.run(*TINY, "model=lstm", "env.dataset=alike", to=ours)).stderr, done.code)
    assert f"{ours}/checkpoints/last.ckpt: the state of another model" in said and "where LSTM has" in said, said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "variant", "least"),
    [
        # Of the maps on which it was trained the largest; who does not remember is right half the time.
        (["env=minigrid", "model=lstm", "env.lengths=[17]"], "S=17", 36),
        # A pair is shown five steps before it is asked for; one guess in eight is right.
        (
            ["env=retrieval", "model=gru", "trainer.max_steps=300", "env.lengths=[1]", "collect.num_episodes=2000"],
            "n=1",
            38,
        ),
    ],
    ids=["minigrid", "retrieval"],
)
def test_the_families_that_ship_are_learned(cli: CommandLine, words: list[str], variant: str, least: int) -> None:
    pytest.importorskip("minigrid", reason="needs the minigrid extra")
    folder = cli.folder / variant
    done = cli.run(*words, "trainer.accelerator=cpu", "evaluation.num_episodes=40", to=folder)
    assert (done.code, done.stderr) == (0, ""), done.stderr
    row = json.loads((folder / "result.json").read_text())
    assert sum(row["outcomes"][variant]["successes"]) >= least
