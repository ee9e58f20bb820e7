"""The list of what may be named: complete, true, and open to nobody but the person at the command line."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from callbacks.command.registry import PLATFORM
from callbacks.command.sweeps import offer_launchers
from elmur import registry
from elmur.aliases import current
from elmur.build import BuildError, build, check_names, fits, kind_of, resolve
from elmur.registry import MODELS, allow_plugins, plugins

ROOT = Path(__file__).resolve().parents[3]
offer_launchers()
EXTRAS = ("hydra_plugins.hydra_optuna_sweeper", "optuna.", "hydra_plugins.hydra_submitit_launcher")
ENTRIES = [(role, path) for role, known in PLATFORM.roles.items() for path in known.names.values()]


def names_in(node: Any) -> Iterator[str]:
    """Every `_target_` of a file."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from [value] if key == "_target_" else names_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from names_in(value)


@pytest.mark.parametrize(("role", "path"), ENTRIES, ids=[path for _, path in ENTRIES])
def test_each_entry_is_there_and_of_its_kind(role: str, path: str) -> None:
    if path.startswith(EXTRAS):
        pytest.importorskip(path.partition(".")[0] if path.startswith("optuna") else path.rpartition(".")[0])
    found = resolve(path, "config", role, PLATFORM)
    kind = kind_of(role, PLATFORM)
    assert callable(found)
    assert kind is None or not isinstance(found, type) or fits(found, kind)
    assert current(path) == path, "the list holds names of today"


def test_each_role_that_an_argument_leads_to_is_there() -> None:
    leads_to = {role for known in PLATFORM.roles.values() for role in known.takes.values()}
    assert leads_to <= set(PLATFORM.roles)


def test_each_name_in_our_own_configuration_is_on_the_list() -> None:
    files = sorted((ROOT / "conf").rglob("*.yaml"))
    found = {name for file in files for name in names_in(OmegaConf.to_container(OmegaConf.load(file)))}
    assert len(files) > 100 and len(found) > 30
    assert {name for name in found if not PLATFORM.is_listed(name)} == set()


def test_a_checkpoint_reaches_nothing_but_the_parts_of_a_model() -> None:
    reached, new = set(), {"model"}
    while new:
        reached |= new
        new = {role for known in new for role in MODELS.roles[known].takes.values()} - reached
    paths = {path for role in reached for path in MODELS.roles[role].names.values()}
    assert len(reached) > 8 and len(paths) > 20
    rooms = {path.rpartition(".")[0].partition(".")[0] for path in paths}
    assert rooms == {"elmur"}
    assert not reached & {"module", "optimizer", "schedule", "strategy", "callback", "env maker"}


@pytest.mark.parametrize("name", ["build", "call", "resolve", "check_plugin"])
def test_what_builds_cannot_be_named_itself(name: str) -> None:
    assert not PLATFORM.is_listed(f"elmur.build.{name}")
    for role in (None, *PLATFORM.roles):
        assert PLATFORM.find(f"elmur.build.{name}", role) is None


def test_a_former_path_is_found_in_its_place() -> None:
    assert type(build({"_target_": "elmur.steps.Mirrored"}, role="step rule")).__name__ == "Mirrored"
    with pytest.raises(BuildError, match=r"'elmur\.steps\.Mirrored' is refused; as write rule there are"):
        build({"_target_": "elmur.steps.Mirrored"}, role="write rule")


PLUGIN = """
from os import system
from pathlib import Path
from torch import nn
from elmur.memory import LRU
from elmur.positional import Rope

class Mine(LRU):
    pass

class NoRule:
    pass

class Wheel(Rope):
    pass

def wipe(folder="x"):
    Path(folder).touch()
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package of somebody's own that can be imported."""
    (tmp_path / "ownpkg").mkdir()
    (tmp_path / "ownpkg" / "__init__.py").write_text("")
    (tmp_path / "ownpkg" / "rules.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "_allowed", [])
    monkeypatch.delenv("ELMUR_PLUGINS", raising=False)
    yield "ownpkg"
    for name in [name for name in sys.modules if name.partition(".")[0] == "ownpkg"]:
        del sys.modules[name]


def test_a_package_must_be_named_by_a_person(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"_target_": f"{package}.rules.Mine", "lru_blend_alpha": 0.5}
    with pytest.raises(BuildError, match=r"allowed on the command line, plugins=\[ownpkg\]"):
        build(config, "write", "write rule")
    assert "ownpkg.rules" not in sys.modules, "a refused name is not even imported"
    monkeypatch.setenv("ELMUR_PLUGINS", "other, ownpkg")
    assert build(config, "write", "write rule").blend == 0.5
    monkeypatch.delenv("ELMUR_PLUGINS")
    allow_plugins([package])
    assert plugins() == (package,)
    assert build(config, "write", "write rule").blend == 0.5


@pytest.mark.parametrize(
    ("name", "role", "says"),
    [
        ("system", "write rule", "it is not a class or function that ownpkg defines"),
        ("nn", "feedforward", "it is not a class or function that ownpkg defines"),
        ("LRU", "write rule", "it is not a class or function that ownpkg defines"),
        ("NoRule", "write rule", "as write rule there belongs a class of kind elmur.memory.WriteRule"),
        ("Mine", "step rule", "as step rule there belongs a class of kind elmur.clock.StepRule"),
        ("wipe", "write rule", "as write rule there belongs a class"),
        ("Wheel", "", "a value belongs here, nothing may be named"),
        ("Missing", "write rule", "there is no 'ownpkg.rules.Missing'"),
    ],
)
def test_a_package_gives_only_what_it_defines_and_only_of_the_right_kind(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, role: str, says: str
) -> None:
    allow_plugins([package])
    partial = {"_partial_": True} if role == "feedforward" else {}
    with pytest.raises(BuildError, match=re.escape(says)):
        build({"_target_": f"{package}.rules.{name}", **partial}, "config", role)


@pytest.mark.parametrize("name", ["os", "subprocess", "elmur", "callbacks", "", "../x", "a-b", "pathlib.x", "run"])
def test_not_every_word_is_a_package_of_ones_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="expected the name of a package of your own"):
        allow_plugins([name])
    monkeypatch.setenv("ELMUR_PLUGINS", name)
    assert name not in plugins()


def test_nothing_is_imported_to_check_a_configuration(package: str) -> None:
    allow_plugins([package])
    check_names({"model": {"_target_": f"{package}.rules.Wheel"}}, "", "run", PLATFORM)
    assert "ownpkg.rules" not in sys.modules
