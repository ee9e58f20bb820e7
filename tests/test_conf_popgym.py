"""Configurations of POPGym: every task with every model, and the published values in each."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("popgym", reason="needs POPGym: pip install -e '.[popgym]'")

import popgym.envs
from hydra import compose
from omegaconf import DictConfig, OmegaConf

from callbacks.command.parts import env_family, learner
from callbacks.command.settings import Settings
from elmur.encoders import BoardEncoder
from elmur.model import ELMUR
from elmur.spec import Discrete
from envs import suites
from tests.command import ROOT

TASKS = sorted(path.stem for path in (ROOT / "conf" / "task").glob("popgym_*.yaml"))
MODELS = sorted(path.stem for path in (ROOT / "conf" / "model").glob("*.yaml"))
HPARAMS = ROOT.parent / "shared" / "reference" / "task_hparams.json"


def settings_of(*overrides: str) -> Settings:
    config: DictConfig = compose("run", [*overrides, "run_dir=out"])
    tree: Any = OmegaConf.to_container(config, resolve=True)
    return Settings.of(tree, model_name="of this test")


def test_there_are_48_tasks_and_all_models() -> None:
    assert len(TASKS) == 48 and set(MODELS) >= {"elmur", "gru", "transformer"}


@pytest.mark.parametrize(
    "model", [pytest.param(model, marks=[pytest.mark.slow] * (model != "gru")) for model in MODELS]
)
def test_tasks_compose_with_every_model(conf: None, model: str) -> None:
    """All 48 with elmur, every sixth with the others: every level, and every kind of observation and action."""
    found, some = {}, TASKS[::6]
    for task in TASKS if model == "elmur" else some:
        settings = settings_of(f"task={task}", f"model={model}")
        found[task] = settings.env["id"]
        if task in some:
            env = env_family(settings)
            assert env.reference is not None and env.reference.expert > env.reference.random
            spec = env.world(num_envs=1).spec
            if model == "diffusion_policy" and isinstance(spec.action, Discrete):
                with pytest.raises(ValueError, match="every other model can"):
                    learner(settings).build_model(spec)
            else:
                learner(settings).build_model(spec)
    assert len(set(found.values())) == (48 if model == "elmur" else 8)
    assert set(found.values()) <= {entry["id"] for entry in popgym.envs.ALL.values()}


@pytest.mark.slow
def test_what_a_task_says_of_its_observations_reaches_every_model(conf: None) -> None:
    """The encoder of a board, also in models that no file of tuned/ was written for when the task was."""
    taking = [model for model in MODELS if model != "diffusion_policy"]  # which acts in numbers
    assert len(taking) > 14
    for model in taking:
        settings = settings_of("task=popgym_concentration_easy", f"model={model}")
        module = learner(settings)
        module.build_model(env_family(settings).world(num_envs=1).spec)
        assert isinstance(module.model.observation, BoardEncoder), model


def test_published_values_of_every_task(conf: None) -> None:
    suite = suites.read("popgym48")
    for task in TASKS[::5]:
        settings = settings_of(f"task={task}", "experiment=popgym_published")
        numbers = suite.tasks[settings.env["id"]].numbers
        assert settings.module["context_length"] == settings.data["context_length"] == numbers["context_length"]
        assert settings.data["backprop_segments"] == numbers["segments"] == 3
        assert numbers["context_length"] * 3 <= numbers["max_length"]


@pytest.mark.skipif(not HPARAMS.exists(), reason="the publication's values are kept elsewhere")
def test_published_values_are_the_publications() -> None:
    published = json.loads(HPARAMS.read_text())["popgym_tasks"]
    ours = suites.read("popgym48").tasks
    assert len(published) == len(ours) == 48
    for values in published.values():
        numbers = {"context_length": values["context_length"], "segments": values["sections"]}
        assert ours[values["env_id"]].numbers == numbers | {"max_length": values["max_length"]}


@pytest.mark.parametrize("experiment", ["popgym_published", "popgym_published_code"])
def test_the_published_model_of_autoencode_easy(conf: None, experiment: str) -> None:
    """3,694,224 parameters, less the embeddings that format s never uses, with our encoder for theirs."""
    settings = settings_of("task=popgym_autoencode_easy", f"experiment={experiment}")
    module = learner(settings)
    module.build_model(env_family(settings).world(num_envs=1).spec)
    unused = (4 + 1) * 64 + 2 * 64  # actions with a row for padding, returns
    theirs, ours = (
        (1 + 1) * 64,
        (2 + 4 + 2) * 64,
    )
    assert module.model.num_parameters() == 3_694_224 - unused - theirs + ours
    assert isinstance(module.model, ELMUR) and settings.module["context_length"] == 35
    code = experiment.endswith("code")
    assert settings.data["backprop_segments"] == (1 if code else 3)
    assert settings.model["memory"]["memory_dropout"] == 0.17
    if code:
        assert settings.trainer["max_steps"] == 57_600 and settings.module["schedule"]["floor"] == 1.0
        assert settings.model["position"]["_target_"].endswith("PublishedRelative")
        assert settings.evaluation["sample"] and settings.module["label_smoothing"] == 0.22
