"""`resume=FOLDER`: the training run in a folder goes on with the settings that it was started with.

The stored settings are data, which anybody may have written: they name what a run names, write into the run's folder
alone, and choose neither the shards nor who is told of the run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path, PurePosixPath
from typing import Any

from callbacks.command.arguments import EVALUATIONS, parts
from callbacks.command.identity import OF_A_COMMAND, PLACE, PLACED, SETTINGS, read_settings
from callbacks.command.registry import PLATFORM
from callbacks.command.settings import CONF, SECTIONS, Settings, leaves
from callbacks.errors import UsageError
from elmur.build import check_names

# What may be said anew beside it: where the run is carried out, and who is told of it.
FREE = (
    "resume", "plugins", "allow_mismatch", "logger", "shards",
    *(f"{section}.{key}" for section, keys in PLACE.items() for key in keys),
)  # fmt: skip
# Keys of what is written or read besides: of profilers and of Lightning's own callbacks.
PATHS = re.compile(r".*(path|dir|file|filename|folder|root)")
KNOWN = {key.name for key in fields(Settings)} | {"code"}  # of a settings file


def resumed(tree: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The settings of the run to go on with, at the places of this command; without `resume` they are as they came.

    tree: the resolved configuration of this command. Raises UsageError where there is no run, where the command asks
    for other settings than the run's, or where it would write elsewhere.
    """
    if tree.get("resume") is None:
        return dict(tree)
    folder = Path(tree["resume"])
    if Path(tree["run_dir"]).resolve() != folder.resolve():
        raise UsageError(
            f"resume={folder}: a run goes on in its own folder, by itself, with resume= on the command line; leave -m, "
            f"sweep= and hydra.run.dir= out"
        )
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if not any(key == free or key.startswith(f"{free}.") for free in FREE):
            raise UsageError(f"resume={folder} takes its settings from that folder; leave {override} out")
    try:
        there = read_settings(folder)
    except FileNotFoundError:
        raise UsageError(f"resume={folder}: there is no training run in that folder") from None
    check_stored(there, folder / SETTINGS)
    if not any(override.lstrip("+").startswith("shards=") for override in overrides):
        check_shards(there.get("shards"), tree["shards"], folder / SETTINGS)
    places = {"run_dir": tree["run_dir"], "shards": tree["shards"]}
    kept = {key: value for key, value in there.items() if key not in (*OF_A_COMMAND, "logger")}
    found = {**tree, **_placed(kept, places, folder / SETTINGS), **places, "resume": None}
    here = {
        section: {**found[section], **{key: tree[section][key] for key in keys if key in tree[section]}}
        for section, keys in PLACE.items()
    }
    return {**found, **here, "logger": tree["logger"]}


def check_stored(there: Mapping[str, Any], file: Path) -> None:
    """Raises UsageError or BuildError for what are no settings of a run, and for names that none has there."""
    wrong = [key for key in SECTIONS if not isinstance(there.get(key), dict)]
    wrong += [key for key in ("model_name", "label") if not isinstance(there.get(key), str | None)]
    if wrong:
        raise UsageError(f"{file}: expected the settings of a run, with {', '.join(wrong)}; give the run's own command")
    if unknown := sorted(there.keys() - KNOWN):
        raise UsageError(f"{file}: {unknown[0]}: there is no such setting; give the run's own command")
    for key, value in there.items():
        check_names(value, f"{file}: {key}", PLATFORM.below("run", key), PLATFORM)


def check_shards(stored: Any, here: str, file: Path) -> None:
    """Raises UsageError where a file would choose another place for shards than the command, which says nothing."""
    if stored is not None and (not isinstance(stored, str) or Path(stored).resolve() != Path(here).resolve()):
        raise UsageError(
            f"{file}: shards: expected {here!r}, found {stored!r}, which a file alone cannot choose; if that is where "
            f"they are to be, add shards={stored}"
        )


def _placed(node: Any, places: Mapping[str, str], file: Path, path: str = "") -> Any:
    """Settings of a file with the places in place of their names. Raises UsageError for a path that leads elsewhere."""
    if isinstance(node, dict):
        return {key: _placed(value, places, file, f"{path}.{key}".lstrip(".")) for key, value in node.items()}
    section, _, key = path.partition(".")
    last = path.rpartition(".")[2]
    if not key or section in places or node is None:
        return node
    if last in PLACED and isinstance(node, str):
        for name, place in places.items():
            head, rest = f"${{{name}}}", node.removeprefix(f"${{{name}}}")
            if node.startswith(head) and (not rest or rest.startswith("/")) and ".." not in PurePosixPath(rest).parts:
                return place + rest
    elif last not in PLACED and not PATHS.fullmatch(last) and not any(map(_leads_out, _texts(node))):
        return node
    raise UsageError(
        f"{file}: {path}: expected a path in ${{run_dir}} or ${{shards}}, found {node!r}, which leads out of the run's "
        "folder; give the run's own command"
    )


def _texts(node: Any) -> list[str]:
    """Every text in a value, lists with sections in them too."""
    if isinstance(node, list):
        return [text for value in node for _, leaf in leaves(value) for text in _texts(leaf)]
    return [node] if isinstance(node, str) else []


def _leads_out(text: str) -> bool:
    return text.startswith(("/", "~")) or ".." in re.split(r"[/\\]", text)


def check_folders(arguments: Sequence[str]) -> None:
    """Raises UsageError where a folder that a command goes on in holds a link out of it, a pipe or a device.

    Whatever adds to a file of such a name writes, or waits, elsewhere. Nor may it hold this project.
    """
    for key, _, value in map(parts, arguments):
        if key in ("resume", "hydra.run.dir") and value:
            folder = Path(value).expanduser()
            if folder.resolve() in (CONF.parent, *CONF.parent.parents, *Path.cwd().parents):
                raise UsageError(f"{key}={value}: this folder holds more than a run; give another {key}")
            check_folder(folder)


def check_folder(folder: Path) -> None:
    """Raises UsageError where the folder of a run, or of an evaluation within it, holds what leads out of it."""
    home = folder.parent.parent if folder.parent.name == EVALUATIONS else folder
    for entry in (folder, *folder.rglob("*")):
        if entry.match("wandb/*run-*/*/*"):  # of a run of wandb, which links to its own logs and is written to once
            continue
        try:
            is_ours = entry.is_file() or entry.is_dir() or (not entry.is_symlink() and not entry.exists())
            is_ours = is_ours and entry.resolve().is_relative_to(home.resolve())
        except (OSError, RuntimeError):  # links in a circle
            is_ours = False
        if not is_ours:
            is_a_runs = any((folder / name).exists() for name in (SETTINGS, ".hydra", "checkpoints"))
            instead = "delete it" if is_a_runs else f"{folder} is no run's, give another hydra.run.dir"
            raise UsageError(f"{entry}: expected a file in this folder, found a link or a pipe; {instead}")
