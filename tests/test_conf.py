"""The configuration: every option by the name that --help prints is in force, whatever is composed after it."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose
from omegaconf import DictConfig, OmegaConf

from tests.command import ROOT, TINY, CommandLine

CONF = ROOT / "conf"
# Where the values of a group's options come to lie, where it is not where its name says.
PLACES = {"model/write": "model.memory.write"}
FAMILIES = ("env=tmaze", "task=popgym_autoencode_easy", "task=mikasa_remember_color_3")
FOR = {  # the command that an option is for, where it is not for all
    "experiment=mikasa_cameras": ("task=mikasa_remember_color_3",),
    "experiment=mikasa_published": ("task=mikasa_take_it_back",),
    "experiment=mikasa_published_code": ("task=mikasa_take_it_back",),
    "experiment=popgym_published": ("task=popgym_autoencode_easy",),
    "experiment=popgym_published_code": ("task=popgym_autoencode_easy",),
    **{f"model/tokens={tokens}": ("model=rate",) for tokens in ("trained", "as_published")},
    **{
        f"model/valve={valve}": ("model=rate",)
        for valve in ("none", "cross_attention", "gate", "gru", "lstm", "as_published")
    },
}


def options() -> list[tuple[str, str]]:
    """Every option of every group, from the files."""
    paths = [path.relative_to(CONF) for path in CONF.rglob("*.yaml")]
    return sorted((path.parent.as_posix(), path.stem) for path in paths if len(path.parts) > 1)


OPTIONS = [(group, option) for group, option in options() if not group.startswith("hydra")]


@functools.cache
def raw(group: str, option: str) -> dict[str, Any]:
    """What an option's file says, with that of the options of its group that it begins with."""
    found = read(CONF / group / f"{option}.yaml")
    merged: dict[str, Any] = {}
    for default in found.pop("defaults", []) if group != "experiment" else found.pop("defaults", [])[:0]:
        if isinstance(default, str) and default != "_self_" and not default.startswith("/"):
            merged |= raw(group, default)
    return {**merged, **found}


def read(path: Path) -> dict[str, Any]:
    """What a file says, references to other values as they stand."""
    found: Any = OmegaConf.to_container(OmegaConf.load(path))
    return found or {}


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with its dotted path; values that refer to others are left to Hydra."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}".lstrip("."))
    elif not (isinstance(node, str) and "${" in node) and not (isinstance(node, list) and "${" in str(node)):
        yield path, node


def composed(*overrides: str) -> DictConfig:
    return compose("run", [*overrides, "run_dir=out"])


def defaults() -> dict[str, str]:
    """The option of each group that a command without choices takes."""
    found: dict[str, str] = {}
    for file in (CONF / "run.yaml", CONF / "model" / "elmur.yaml", CONF / "module" / "imitation.yaml"):
        prefix = "" if file.parent == CONF else f"{file.parent.name}/"
        for default in read(file)["defaults"]:
            if isinstance(default, dict):
                found |= {f"{prefix}{key}": value for key, value in default.items() if value is not None}
    return found


def test_help_prints_every_group_and_option(cli: CommandLine) -> None:
    done = cli.run("--help")
    assert done.code == 0, done.stderr
    printed = dict(re.findall(r"^([a-z]+(?:/[a-z]+)?): ([\w, ]+)$", done.stdout.partition("Settings")[0], re.M))
    for group, option in OPTIONS:
        assert option in printed[group].split(", ")
    assert sum(len(names.split(", ")) for names in printed.values()) == len(OPTIONS) > 120


def families_of(group: str, option: str) -> tuple[str, ...]:
    """The commands in which an option is to be in force."""
    families = {"env": ("",), "tuned": (f"env={option.rpartition('_')[2]}",)}.get(group, FAMILIES)
    if group == "published":
        families = (f"task={option[option.index('mikasa_', 1) :]}" if option.count("mikasa") > 1 else FAMILIES[2],)
    return FOR.get(f"{group}={option}", families)


CASES = [
    pytest.param(group, option, family, id=f"{group}-{option}-{family}")
    for group, option in OPTIONS
    if group != "task"
    for family in families_of(group, option)
]


@pytest.mark.slow
@pytest.mark.parametrize(("group", "option", "family"), CASES)
def test_an_option_that_is_typed_is_in_force(conf: None, group: str, option: str, family: str) -> None:
    """What an option says otherwise than the one it replaces stands in the configuration, in every family of tasks."""
    package = "" if (CONF / group / f"{option}.yaml").read_text().startswith("# @package _global_") else None
    place = PLACES.get(group, group.replace("/", ".")) if package is None else ""
    usual = defaults().get(group)
    other = dict(leaves(raw(group, usual))) if usual and (CONF / group / f"{usual}.yaml").exists() else {}
    wanted = {key: value for key, value in leaves(raw(group, option)) if other.get(key, ...) != value}
    wanted = {key: value for key, value in wanted.items() if not key.startswith("hydra")}
    # Of a family's values gru changes none there; those of a model are for that model.
    model = [f"model={option.rpartition('_')[0] or 'gru'}"] if group == "tuned" else []
    config = composed(*filter(None, [family]), *model, f"{group}={option}")
    for key, value in wanted.items():
        path = f"{place}.{key}".strip(".")
        if group == "model" and key in ("d_model", "n_head", "dropout", "dropatt", "d_ff", "token_format"):
            continue  # sizes and what a step becomes are tuned to the family
        found = OmegaConf.select(config, path)
        found = OmegaConf.to_container(found) if OmegaConf.is_config(found) else found
        assert found == value, f"{family} {group}={option}: {path}"


@pytest.mark.parametrize("env", [option for group, option in OPTIONS if group == "env"])
def test_an_env_has_what_other_parts_refer_to(conf: None, env: str) -> None:
    found: Any = OmegaConf.to_container(composed(f"env={env}"), resolve=True)
    assert found["data"]["root"].endswith(found["env"]["dataset"]) and found["callbacks"]


@pytest.mark.parametrize("choice", ["model/write=none", "model/write=replace_all", "model/feedforward=mlp"])
def test_a_choice_is_in_force_in_an_experiment_that_chooses_otherwise(cli: CommandLine, choice: str) -> None:
    done = cli.run(
        *TINY, "experiment=tmaze_published", choice, "debug=quick", to=cli.folder / choice.rpartition("=")[2]
    )
    assert (done.code, done.stderr) == (0, ""), done.stderr


def test_debug_comes_last(cli: CommandLine) -> None:
    done = cli.run("--cfg", "job", "--package", "trainer", "debug=quick")
    assert "max_steps: 4\n" in done.stdout and "accelerator: cpu\n" in done.stdout, done.stdout + done.stderr


def test_the_page_of_baselines_has_every_model_and_valve() -> None:
    """As the folders of options say; the page's table is typed."""
    page = (ROOT / "docs" / "baselines.md").read_text(encoding="utf-8")
    models, twice = page.split("## Models")[1].split("## Ways of learning")[0].split("### RATE and RMT, twice")
    cells = [line.split("|")[1] for line in models.splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`(\w+)`", " ".join(cells))) == {path.stem for path in (CONF / "model").glob("*.yaml")}
    valves = {path.stem for path in (CONF / "model" / "valve").glob("*.yaml")} - {"as_published"}
    assert valves <= set(re.findall(r"\b(\w+)`", twice)), "one is not named"
