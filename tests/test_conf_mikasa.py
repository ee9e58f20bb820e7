"""The published configurations of MIKASA-Robo: their models' sizes, their values, and the tasks that have none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hydra import compose
from omegaconf import DictConfig, OmegaConf

from callbacks.command.parts import learner
from callbacks.command.settings import Settings, check_choices
from callbacks.errors import UsageError
from elmur.model import ELMUR
from elmur.spec import Image, TaskSpec, Vector
from tests.command import ROOT

HPARAMS = ROOT.parent / "shared" / "reference" / "task_hparams.json"
SIZES = {"RememberColor3": 8_954_728, "RememberColor5": 8_954_728, "RememberColor9": 8_954_728, "TakeItBack": 581_320}
FILES = {
    "RememberColor3": "remember_color_3", "RememberColor5": "remember_color_5", "RememberColor9": "remember_color_9",
    "TakeItBack": "take_it_back",
}  # fmt: skip
CAMERAS = {"base_camera": Image(3, 128, 128), "hand_camera": Image(3, 128, 128)}
EXPERIMENTS = ("mikasa_published", "mikasa_published_code")


def settings_of(task: str, experiment: str) -> Settings:
    config: DictConfig = compose("run", [f"task=mikasa_{task}", f"experiment={experiment}", "run_dir=out"])
    tree: Any = OmegaConf.to_container(config, resolve=True)
    return Settings.of(tree, model_name="of this test")


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("task", SIZES)
def test_has_the_published_number_of_parameters(conf: None, task: str, experiment: str) -> None:
    """Less the embeddings of 8 numbers of action and of the return, which format s never uses."""
    settings = settings_of(FILES[task], experiment)
    module = learner(settings)
    module.build_model(TaskSpec(task, CAMERAS, Vector(8, (-1.0,) * 8, (1.0,) * 8), 180))
    width = settings.model["d_model"]
    assert isinstance(module.model, ELMUR)
    assert module.model.num_parameters() == SIZES[task] - (8 * width + width) - (width + width)
    assert (settings.env["id"], settings.observation) == (f"{task}-v0", "rgb")
    assert settings.env["make"]["observation"] == settings.collect["make_env"]["observation"] == "rgb"
    collected = [settings.collect[key] for key in ("num_episodes", "noise", "shard_episodes")]
    assert collected == [1000, 0.0, 40] and "collect" not in settings.env


@pytest.mark.skipif(not HPARAMS.exists(), reason="the publication's values are kept elsewhere")
@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("task", SIZES)
def test_values_are_the_publications(conf: None, task: str, experiment: str) -> None:
    published = json.loads(HPARAMS.read_text())["elmur"][f"mikasa_{task}-v0"]
    theirs, training, derived = published["model"], published["training"], published["derived"]
    ours, code = settings_of(FILES[task], experiment), experiment.endswith("code")
    model, module, data = ours.model, ours.module, ours.data
    for key in ("d_model", "n_layer", "n_head", "dropout", "dropatt"):
        assert model[key] == theirs[key], key
    for key in ("memory_size", "memory_init_std", "memory_dropout"):
        assert model["memory"][key] == theirs[key], key
    for key in ("num_experts", "top_k", "n_shared_experts", "routed_d_ff", "shared_d_ff", "load_balancing_loss_coef"):
        assert model["feedforward"][key] == theirs[key], key
    assert model["memory"]["write"]["lru_blend_alpha"] == theirs["lru_blend_alpha"]
    assert (module["context_length"], data["lanes"]) == (training["context_length"], training["batch_size"])
    assert data["backprop_segments"] == (1 if code else training["sections"])
    assert ours.trainer["gradient_clip_val"] == training["grad_norm_clip"]
    assert module["optimizer"]["lr"] == training["learning_rate"]
    assert ours.trainer["max_steps"] == derived["optimizer_steps_total"] // (1 if code else training["sections"])
    if code:
        optimizer = module["optimizer"]
        assert optimizer["betas"] == [training["beta_1"], training["beta_2"]]
        assert optimizer["weight_decay"] == training["weight_decay"]
        if not training["use_cosine_decay"]:  # its warm-up counts updates, ours steps: a segment of every lane
            steps = training["warmup_steps"] * data["lanes"] * module["context_length"]
            assert module["schedule"]["warmup_steps"] == steps


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_task_without_published_values_is_refused_with_those_that_have_them(experiment: str) -> None:
    known = "task=mikasa_remember_color_3,mikasa_remember_color_5,mikasa_remember_color_9,mikasa_take_it_back"
    for task, said in (("mikasa_intercept_slow", "task=mikasa_intercept_slow"), (None, "no task")):
        with pytest.raises(UsageError, match=f"experiment={experiment} has nothing for {said}; choose one of {known}$"):
            check_choices({"env": "mikasa", "task": task, "experiment": experiment})
