"""`resume=FOLDER`: the training run in a folder goes on with the settings that it was started with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from callbacks.command.identity import PLACE, PLACED, SETTINGS, read_settings
from callbacks.errors import UsageError

# What may be said anew beside it: where the run is carried out, and who is told of it.
FREE = (
    "resume", "plugins", "allow_mismatch", "logger", "shards",
    *(f"{section}.{key}" for section, keys in PLACE.items() for key in keys),
)  # fmt: skip


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
    chosen = any(override.lstrip("+").startswith("shards=") for override in overrides)
    places = {"run_dir": tree["run_dir"], "shards": tree["shards"] if chosen else there["shards"]}
    found = {**tree, **_placed(there, places, folder / SETTINGS), **places, "resume": None}
    here = {
        section: {**found[section], **{key: tree[section][key] for key in keys if key in tree[section]}}
        for section, keys in PLACE.items()
    }
    return {**found, **here, "logger": tree["logger"]}


def _placed(node: Any, places: Mapping[str, str], file: Path, path: str = "") -> Any:
    """Settings of a file with the places in place of their names. Raises UsageError for a path that leads elsewhere."""
    if isinstance(node, dict):
        return {key: _placed(value, places, file, f"{path}.{key}".lstrip(".")) for key, value in node.items()}
    if path.rpartition(".")[2] not in PLACED or not isinstance(node, str):
        return node
    for name, place in places.items():
        head, rest = f"${{{name}}}", node.removeprefix(f"${{{name}}}")
        if node.startswith(head) and (not rest or rest.startswith("/")) and ".." not in PurePosixPath(rest).parts:
            return place + rest
    raise UsageError(
        f"{file}: {path}: expected a path in ${{run_dir}} or ${{shards}}, found {node!r}; give the run's own command"
    )
