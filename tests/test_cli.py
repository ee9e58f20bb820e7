"""The real command line: collect, train, evaluate, every logger; what it leaves behind and what it keeps as it was."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.command import DEEP, TINY, CommandLine
from tests.server import ROOT
from tests.sinks import tensorboard_run, wandb_run

MODELS = ", ".join(sorted(path.stem for path in (ROOT / "conf" / "model").glob("*.yaml")))


@pytest.fixture(scope="module")
def trained(cli: CommandLine) -> Path:
    """The folder of a tiny finished ELMUR run."""
    folder = cli.folder / "trained"
    done = cli.run(*TINY, *DEEP, to=folder)
    assert (done.code, done.stderr) == (0, "")
    return folder


def row_of(folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return row


def weights_of(folder: Path, name: str = "last.ckpt") -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = torch.load(folder / "checkpoints" / name, weights_only=True)["state_dict"]
    return weights


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def judged(row: dict[str, Any]) -> dict[str, Any]:
    """What a row says of each variant, without the time it took."""
    return {name: {k: v for k, v in o.items() if k != "wall_seconds"} for name, o in row["outcomes"].items()}


def test_a_run_leaves_a_row_a_figure_a_log_and_checkpoints(trained: Path) -> None:
    row = row_of(trained)
    assert (row["task"], row["model"], row["seed"], row["stage"], row["updates"]) == ("tmaze", "elmur", 0, "train", 6)
    assert row["parameters"] > 0 and row["train_seconds"] > 0 and row["evaluation_seconds"] > 0
    assert {"python", "torch", "lightning", "numpy", "elmur"} <= row["versions"].keys()
    assert row["settings"]["model"]["d_model"] == 16
    assert list(row["outcomes"]) == ["T=9", "T=30"]
    for outcome in row["outcomes"].values():
        assert outcome["seeds"] == list(range(500_000, 500_006)), "report seeds"
        assert outcome["episodes"] == len(outcome["returns"]) == len(outcome["successes"]) == 6
        assert outcome["success"] == sum(outcome["successes"]) / 6
        assert outcome["wall_seconds"] > 0
    assert (trained / "success.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in (trained / "checkpoints").glob("*")} == {"best.ckpt", "last.ckpt", "previous.ckpt"}
    with (trained / "logs" / "metrics.csv").open() as file:
        columns = set(next(csv.reader(file)))
    assert {"train/loss", "train/learning_rate", "train/grad_norm", "eval/success", "eval/success/T=9"} <= columns
    assert "train/segments_per_second" in columns


def test_the_same_command_again_says_finished_and_keeps_the_row(cli: CommandLine, trained: Path) -> None:
    before = (trained / "result.json").read_bytes()
    done = cli.run(*TINY, *DEEP, to=trained)
    assert done.code == 0 and "finished before" in done.stdout and "T=30" in done.stdout
    assert (trained / "result.json").read_bytes() == before


def test_other_settings_into_the_same_folder_are_refused(cli: CommandLine, trained: Path) -> None:
    done = cli.run(*TINY, *DEEP, "model.dropout=0.2", to=trained)
    assert done.code == 1 and "model.dropout is 0.1 there, 0.2 here" in done.stderr


@pytest.mark.parametrize("model", ["gru", "transformer"])
def test_other_models_go_the_same_way(cli: CommandLine, trained: Path, model: str) -> None:
    done = cli.run(*TINY, f"model={model}", "model.n_layer=1", to=(folder := cli.folder / model))
    assert (done.code, done.stderr) == (0, "")
    row = row_of(folder)
    assert row["model"] == model and row["parameters"] != row_of(trained)["parameters"]
    # And its checkpoint says by itself what it is.
    again = cli.run(
        "stage=evaluate", f"checkpoint={folder}/checkpoints/best.ckpt", "env.lengths=[9,30]",
        "evaluation.num_episodes=6", "evaluation.cost_after=5", "evaluation.device=cpu",
        to=(second := cli.folder / f"{model}-again"),
    )  # fmt: skip
    assert (again.code, again.stderr) == (0, "")
    assert row_of(second)["model"] == model and judged(row_of(second)) == judged(row)
    assert row["state_bytes"] is None and row_of(second)["state_bytes"] > 0 and row_of(second)["step_ms"] > 0


def test_one_seed_gives_one_run_and_another_another(cli: CommandLine, trained: Path) -> None:
    for seed in (0, 1):
        assert cli.run(*TINY, *DEEP, f"seed={seed}", to=cli.folder / f"seed{seed}").code == 0
    same_seed, other = cli.folder / "seed0", cli.folder / "seed1"
    assert judged(row_of(same_seed)) == judged(row_of(trained))
    assert same(weights_of(same_seed), weights_of(trained))
    assert not same(weights_of(other), weights_of(trained))


def test_the_report_counts_seeds_of_one_computation_and_each_once(cli: CommandLine, tmp_path: Path) -> None:
    """Folders by hand: other settings with the same seed, a second seed, a copy, a row that is none."""
    runs = tmp_path / "R"
    for name, more in {"a": [], "b": ["model.d_model=32"], "c": ["seed=1"]}.items():
        assert cli.run(*TINY, *DEEP, *more, to=runs / name).code == 0
    for name in "ac":
        again = f"checkpoint={runs}/{name}/checkpoints/best.ckpt"
        assert (
            cli.run("stage=evaluate", again, "env.lengths=[9]", "evaluation.num_episodes=3", to=runs / f"{name}2").code
            == 0
        )
    shutil.copytree(runs / "a", runs / "copy")
    (runs / "copy" / "d").mkdir()
    (runs / "copy" / "d" / "result.json").write_text("{}")
    done = cli.run("stage=report", f"source={runs}", to=tmp_path / "report")
    assert (done.code, done.stderr) == (0, "")
    assert f"{runs}/copy/result.json is a copy of {runs}/a/result.json, which counts once" in done.stdout
    assert f"left out: {runs}/copy/d/result.json: expected a result row of format 1" in done.stdout
    with (tmp_path / "report" / "report.csv").open() as file:
        lines = [line for line in csv.DictReader(file) if line["variant"] == "T=9"]
    found = [(line["table"].endswith("again"), line["seeds"], line["episodes"]) for line in lines]
    assert sorted(found) == [(False, "1", "6"), (False, "2", "12"), (True, "2", "6")]


def test_watching_does_not_disturb_training(cli: CommandLine, trained: Path) -> None:
    """With or without selection, and with whatever it does, the weights in the end are the same."""
    without = [argument for argument in TINY if not argument.startswith("callbacks.selection")]
    assert cli.run(*without, *DEEP, "~callbacks.selection", to=cli.folder / "unwatched").code == 0
    assert cli.run(*TINY, *DEEP, "callbacks.selection.every_n_updates=1", to=cli.folder / "watched").code == 0
    assert same(weights_of(cli.folder / "unwatched"), weights_of(trained))
    assert same(weights_of(cli.folder / "watched"), weights_of(trained))


def test_without_callbacks_the_last_weights_are_judged(cli: CommandLine, trained: Path) -> None:
    bare = [argument for argument in TINY if not argument.startswith("callbacks.")]
    assert cli.run(*bare, *DEEP, "callbacks=none", to=(folder := cli.folder / "bare")).code == 0
    assert same(weights_of(folder), weights_of(trained)) and row_of(folder)["updates"] == 6


def test_evaluate_acts_elsewhere(cli: CommandLine, trained: Path) -> None:
    folder = cli.folder / "elsewhere"
    done = cli.run(
        "stage=evaluate", f"checkpoint={trained}/checkpoints/best.ckpt", "env.lengths=[9,50]",
        "evaluation.num_episodes=6", "evaluation.sample=true", to=folder,
    )  # fmt: skip
    assert (done.code, done.stderr) == (0, "")
    row = row_of(folder)
    assert list(row["outcomes"]) == ["T=9", "T=50"] and row["stage"] == "evaluate"
    assert row["actions"] == "sampled" and row["checkpoint"] == f"{trained}/checkpoints/best.ckpt"
    assert row["settings"]["model"]["d_model"] == 16, "the checkpoint's model, not the command's default"
    assert (folder / "success.png").exists()


SEEN = ("env.lengths=[4]", "evaluation.num_episodes=40")  # so short that sampled actions reach the goal now and then


@pytest.mark.parametrize("sample", ["true", "false"])
def test_how_a_seed_ends_does_not_depend_on_how_many_act_beside_it(
    cli: CommandLine, trained: Path, sample: str
) -> None:
    assert row_of(trained)["settings"]["model"]["memory"]["memory_init_std"] > 0
    found = []
    for num_envs in (1, 3, 100):
        done = cli.run(
            "stage=evaluate", f"checkpoint={trained}/checkpoints/last.ckpt", *SEEN, f"evaluation.sample={sample}",
            f"evaluation.num_envs={num_envs}", to=(folder := cli.folder / f"{num_envs}-{sample}"),
        )  # fmt: skip
        assert (done.code, done.stderr) == (0, "")
        found.append(judged(row_of(folder)))
    assert found[0] == found[1] == found[2]
    if sample == "true":
        assert 0 < sum(found[0]["T=4"]["successes"]) < 40, "some reach it and some do not"


def test_selection_acts_as_the_report_does(cli: CommandLine, trained: Path) -> None:
    """Its score after the last update is what those weights are worth on its seeds, by an evaluation of their own."""
    chosen = ("env.selection.lengths=[4]", "callbacks.selection.num_episodes=40")
    short = [argument for argument in TINY if not argument.startswith(("env.selection", "callbacks.selection.num"))]
    scores = {}
    for sample in ("true", "false"):
        acting = f"evaluation.sample={sample}"
        run, again = cli.folder / f"chosen-{sample}", cli.folder / f"judged-{sample}"
        assert cli.run(*short, *DEEP, *chosen, acting, to=run).code == 0
        assert same(weights_of(run), weights_of(trained)), "what it draws does not disturb training"
        last = f"checkpoint={run}/checkpoints/last.ckpt"
        assert cli.run("stage=evaluate", last, *SEEN, acting, "evaluation.first_seed=0", to=again).code == 0
        with (run / "logs" / "metrics.csv").open() as file:
            logged = [row["eval/success"] for row in csv.DictReader(file) if row["eval/success"]]
        scores[sample] = float(logged[-1])
        assert scores[sample] == pytest.approx(row_of(again)["outcomes"]["T=4"]["success"], abs=1e-6)
    assert 0 < scores["true"] != scores["false"]


def test_evaluate_does_not_overwrite_a_training_run(cli: CommandLine, trained: Path) -> None:
    done = cli.run("stage=evaluate", f"checkpoint={trained}/checkpoints/best.ckpt", to=trained)
    assert done.code == 1 and f"{trained} holds a training run" in done.stderr


def test_evaluate_refuses_the_seeds_by_which_the_checkpoint_was_chosen(cli: CommandLine, trained: Path) -> None:
    for best in (f"checkpoint={trained}/checkpoints/best.ckpt", f"checkpoint={trained}"):
        folder = cli.folder / "chosen-by"
        done = cli.run("stage=evaluate", best, *SEEN, "evaluation.first_seed=3", to=folder)
        assert done.code == 1 and "evaluation.first_seed=3: the report would play episodes by which" in done.stderr
        assert not folder.exists()


def test_evaluate_takes_a_run_folder_as_its_best_checkpoint(cli: CommandLine, trained: Path) -> None:
    rows = []
    for name, given in {"by-folder": trained, "by-file": trained / "checkpoints" / "best.ckpt"}.items():
        done = cli.run("stage=evaluate", f"checkpoint={given}", *SEEN, to=(folder := cli.folder / name))
        assert (done.code, done.stderr) == (0, "")
        rows.append(row_of(folder))
    assert rows[0]["identity"] == rows[1]["identity"] and judged(rows[0]) == judged(rows[1])


def test_collect_only_collects(cli: CommandLine) -> None:
    shards, folder = cli.folder / "other-shards", cli.folder / "collected"
    done = cli.run(
        "stage=collect", "collect.num_episodes=40", "collect.shard_episodes=20", f"shards={shards}", to=folder
    )
    assert (done.code, done.stderr) == (0, "") and "2 shards in" in done.stdout
    assert len(list((shards / "tmaze-T30").glob("*.h5"))) == 2
    assert not (folder / "result.json").exists() and not (folder / "checkpoints").exists()


def test_tensorboard(cli: CommandLine) -> None:
    done = cli.run(*TINY, *DEEP, "logger=tensorboard", "trainer.max_steps=2", to=(folder := cli.folder / "board"))
    assert (done.code, done.stderr) == (0, "")
    found, row = tensorboard_run(folder / "logs"), json.loads((folder / "result.json").read_text())
    assert found["parameters"]["model.d_model"] == 16 and found["parameters"]["trainer.max_steps"] == 2
    means = {name: outcome["success"] for name, outcome in row["outcomes"].items()}
    assert {name: found["scalars"][f"result/{name}/success"] for name in means} == pytest.approx(means)
    assert found["scalars"]["hp_metric"] == pytest.approx(sum(means.values()) / len(means))
    assert "| T=30 | 6 |" in found["texts"]["table/text_summary"] and "figure" in found["images"]


def test_wandb_goes_offline_without_an_account_and_says_so(cli: CommandLine, tmp_path: Path) -> None:
    done = cli.run(
        *TINY, *DEEP, "logger=wandb", "trainer.max_steps=2", to=(folder := cli.folder / "wandb"),
        HOME=str(tmp_path), WANDB_API_KEY="", WANDB_MODE="", NETRC=str(tmp_path / "none"),
    )  # fmt: skip
    assert done.code == 0, done.stderr
    assert "offline" in done.stdout and "wandb sync" in done.stdout
    (run,) = map(wandb_run, (folder / "wandb").glob("offline-run-*"))
    assert (run["id"], run["group"]) == ((folder / "wandb.id").read_text(), "tmaze")
    assert run["name"].startswith("elmur/") and run["name"].endswith("/seed-0")
    assert run["config"]["model.d_model"] == 16
    assert {"table/path", "figure/path", "result/T=30/success"} <= run["history"][-1].keys()


@pytest.mark.slow
def test_each_run_of_a_sweep_is_a_run_of_wandb_and_keeps_its_id_when_it_goes_on(cli: CommandLine) -> None:
    sweep = cli.folder / "wandb_sweep"
    small = [*TINY, *DEEP, "logger=wandb", "logger.mode=offline", "trainer.max_steps=2"]
    command = ["-m", *small, "seed=0,1", f"hydra.sweep.dir={sweep}"]
    assert (done := cli.run(*command)).code == 0, done.stderr
    rows = sorted(sweep.rglob("result.json"))
    ids = [{path.name.rpartition("-")[2] for path in row.parent.glob("wandb/offline-run-*")} for row in rows]
    assert len(rows) == 2 and all(len(each) == 1 for each in ids) and ids[0] != ids[1]
    rows[0].unlink()
    assert (done := cli.run(*command)).code == 0, done.stderr
    names = [path.name for path in rows[0].parent.glob("wandb/offline-run-*")]
    assert {name.rpartition("-")[2] for name in names} == ids[0]


def test_help_lists_groups_settings_and_examples(cli: CommandLine) -> None:
    done = cli.run("--help")
    assert done.code == 0
    for words in (
        f"model: {MODELS}",
        "lru_blend_alpha",
        "stage=evaluate checkpoint=",
        "logger: csv, tensorboard, wandb",
    ):
        assert words in done.stdout, words


def test_several_runs_at_once_land_in_folders_that_the_command_names(cli: CommandLine) -> None:
    sweep = cli.folder / "sweep"
    done = cli.run("-m", *TINY, *DEEP, "seed=0,1", f"hydra.sweep.dir={sweep}", "trainer.max_steps=2")
    assert done.code == 0, done.stderr
    assert sorted(path.parent.name for path in sweep.rglob("result.json")) == ["seed-0", "seed-1"]
    assert "2 finished runs: 1 task x 1 model x 2 seeds" in done.stdout, "and it ends with the table of what it ran"
    (page,) = (sweep.parent / "reports").glob("*/report.html")
    with (page.parent / "report.csv").open() as file:
        found = [(line["variant"], line["seeds"], line["episodes"]) for line in csv.DictReader(file) if line["variant"]]
    assert found == [("T=9", "2", "12"), ("T=30", "2", "12")]


@pytest.mark.slow
def test_from_a_cold_start_with_nothing_but_the_command(cli: CommandLine, trained: Path) -> None:
    folder = cli.folder / "cold"
    done = cli.start(*TINY, *DEEP, f"hydra.run.dir={folder}")
    assert (done.code, done.stderr) == (0, "")
    assert judged(row_of(folder)) == judged(row_of(trained)) and same(weights_of(folder), weights_of(trained))
