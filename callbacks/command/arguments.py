"""What a person types, before and beside Hydra: paths as they are, folders that follow from others, nearest names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from callbacks.command.identity import SETTINGS
from callbacks.command.label import DEFAULT, folder_name, run_label
from callbacks.command.packages import not_allowed
from callbacks.command.settings import CONF, leaves
from callbacks.errors import UsageError, sentence

PATHS = ("checkpoint", "source", "spec", "resume", "shards", "hydra.run.dir", "hydra.sweep.dir")
PLAIN = re.compile(r"[\w./+@%:-]*", re.ASCII)  # what Hydra's grammar takes as it stands
EVALUATIONS = "evaluations"
EXPORTS = "exports"


def expanded(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command for Hydra: paths quoted, `~` expanded, and the output folder that they imply.

    That is the run's own for `resume=`, one below it for `stage=evaluate` and `stage=export`, one of its own for a
    report.
    Raises UsageError where several runs are to go on in one command.
    """
    several = any(a in ("-m", "--multirun", "hydra.mode=MULTIRUN") or a.startswith("sweep=") for a in arguments)
    if "stage=report" in arguments and several:  # on what a sweep has left, which is one page
        arguments = [*(a for a in arguments if a not in ("-m", "--multirun")), "hydra.mode=RUN"]
        several = False
    found = [_path(argument, several) for argument in arguments]
    typed = {key: value for argument in found for key, equals, value in [parts(argument)] if equals}
    if "hydra.run.dir" in typed or several:
        if several and typed.get("resume", "null") != "null":
            raise UsageError("resume= goes on with one run; leave -m and sweep= out")
        return found
    folder: Path | None = None
    if typed.get("resume", "null") not in ("", "null"):
        folder = Path(typed["resume"])
    elif typed.get("stage") == "report":
        folder = Path("outputs/reports", folder_name(typed.get("source", "") or typed.get("sweep", "")) or "default")
    elif typed.get("stage") in ("evaluate", "export") and typed.get("checkpoint"):
        checkpoint = Path(typed["checkpoint"])
        run = checkpoint if (checkpoint / SETTINGS).exists() else checkpoint.parent.parent
        label = run_label(found, without=("checkpoint",))
        acts_in = [f"{key}={typed[key]}" for key in ("env", "task") if key in typed and typed["stage"] == "evaluate"]
        name = "+".join([checkpoint.stem, *acts_in, *([] if label == DEFAULT else [label])])
        home = run if (run / SETTINGS).exists() else Path("outputs", folder_name(str(checkpoint.parent)))
        folder = home / (EVALUATIONS if typed["stage"] == "evaluate" else EXPORTS) / folder_name(name)
    return found if folder is None else [*found, f"hydra.run.dir={_quoted(str(folder))}"]


def folders(source: str) -> list[Path]:
    """The folders that `source=A:B` names; one whose own name has a colon is one."""
    return [Path(source)] if Path(source).exists() else [Path(part) for part in source.split(":") if part]


def usual() -> Mapping[str, Any]:
    """The settings that this command would have if it had chosen from groups alone and typed no value."""
    hydra = HydraConfig.get()
    groups = [override for override in hydra.overrides.task if parts(override)[0] in hydra.runtime.choices]
    return {**_composed(groups, resolve=True), "model_name": hydra.runtime.choices["model"]}


def untyped() -> Mapping[str, Any]:
    """The settings of the command that says nothing."""
    return {**_composed(["run_dir=."], resolve=True), "model_name": "elmur"}


def explained(error: Exception, arguments: Sequence[str]) -> Exception:
    """The error in our words, where it is Hydra's on what was typed: with the nearest name that there is."""
    text = " ".join(str(error).split())
    if "Could not find '" in text and (packages := not_allowed()):
        allowed = f"plugins=[{','.join(packages)}]"
        return UsageError(f"{sentence(error)}; {', '.join(packages)} may have it, which {allowed} allows")
    if "Config group override must be a string" in text:
        groups = [path.name for path in CONF.iterdir() if path.is_dir()]
        typed = next((argument for argument in arguments if parts(argument)[0] in groups), "")
        return UsageError(f"{typed}: expected the name of an option; `python run.py --help` lists them")
    unknown = re.match(r"Could not override '([^']+)'", text)
    if unknown is None:
        return error
    key = unknown[1]
    value = next((given for name, _, given in map(parts, arguments) if name == key), "")
    groups = [path.relative_to(CONF).as_posix() for path in CONF.rglob("*") if path.is_dir()]
    having = [group for group in groups if value and (CONF / group / f"{value}.yaml").is_file()]
    tree = _composed([])
    known = [*groups, *tree, *(path for path, _ in leaves(tree))]
    near = difflib.get_close_matches(key, having, n=1) or difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]}? " if near and near[0] != key else ""
    if value and any(one in ("-m", "--multirun") or one.startswith("sweep=") for one in arguments):
        hint += f"where what is swept (task=A,B) brings it, write ++{key}={value}; "
    return UsageError(f"{key}: there is no such setting; {hint}`python run.py --cfg job` shows those there are")


def _composed(overrides: list[str], resolve: bool = False) -> Any:
    there = GlobalHydra.instance().is_initialized()
    with nullcontext() if there else initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose("run", overrides), resolve=resolve)


def parts(argument: str) -> tuple[str, str, str]:
    """Key, sign and value of an override, without what Hydra's grammar adds; no sign where it is none."""
    key, equals, value = argument.partition("=")
    if key.startswith("-"):
        return argument, "", ""
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1].replace(f"\\{value[0]}", value[0])
    return key.lstrip("+~"), equals, value


def _path(argument: str, several: bool) -> str:
    """An override whose value is a path, in Hydra's grammar; several: commas tell the values of a sweep apart."""
    key, equals, value = argument.partition("=")
    if not equals or key.lstrip("+") not in PATHS or value[:1] in ("'", '"', "["):
        return argument
    if several and re.fullmatch(r"\w+\(.*\)", value):
        return argument
    return f"{key}={','.join(_quoted(part) for part in value.split(',')) if several else _quoted(value)}"


def _quoted(path: str) -> str:
    """A path as one value of Hydra's grammar, with `~` for the home folder; what refers to other settings stays."""
    path = str(Path(path).expanduser()) if path.startswith("~") else path
    if PLAIN.fullmatch(path) or "${" in path:
        return path
    escaped = path.replace("'", "\\'")
    return f"'{escaped}'"
