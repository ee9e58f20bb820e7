"""What makes a run this run and no other: what it computes, by its settings and its code. Its folder holds the two."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from textwrap import shorten
from typing import Any

from callbacks.command.processes import is_first_process
from callbacks.command.registry import PLATFORM
from callbacks.command.settings import Settings, leaves
from callbacks.errors import UsageError
from elmur.aliases import renamed
from elmur.files import LockError, exclusive, read_json

log = logging.getLogger(__name__)
SETTINGS, ROW = "settings.json", "result.json"
VALIDATION = "validation.json"  # in the place of a row, where nobody acts
MOST_OF_A_VALUE = 80  # characters of it that an error shows
# In each section: where a run is carried out.
PLACE = {
    "trainer": ("accelerator", "devices", "num_nodes", "strategy"),
    "module": ("gpu",),
    "data": ("keep",),
    "evaluation": ("device",),
}
# Keys that do not make a run another one: where and how it is carried out, what is shown of it and logged, and what
# other stages read.
UNCOUNTED = (
    "run_dir", "shards", "resume", "checkpoint", "source", "reader", "reader.*", "writer", "writer.*", "spec", "stage",
    "allow_mismatch", "model_was_chosen", "label", "command", "title", "code", "plugins", "logger", "logger.*",
    "export", "export.*", "inspect", "inspect.*",
    *(f"{section}.{key}*" for section, keys in PLACE.items() for key in keys),
    "trainer.default_root_dir", "trainer.log_every_n_steps", "trainer.enable_progress_bar", "trainer.profiler*",
    "trainer.enable_model_summary", "data.num_workers", "data.verify", "data.root", "collect.processes",
    "*.processes", "callbacks.*.folder", "callbacks.*.device", "evaluation.video", "evaluation.isolate",
    "evaluation.step_timeout",
    "env.archive*", "env.benchmark*", "env.render*", "env.chance", "env.reference*", "env.suite", "env.name",
)  # fmt: skip
REFERRED = ("recipe", "recipe.*", "selection", "selection.*")  # to, by keys that count
# Callbacks that only look on, tell or save, by their short names.
ONLOOKERS = ("progress", "throughput", "memory", "metrics", "stop", "resume", "summary", "plain_summary",
             "device_stats", "learning_rate")  # fmt: skip
SELECTING = ("selection", "validation")  # callbacks that keep the best checkpoint, by their short names
# What cannot change in the middle of a run, whatever is allowed: its streams, its order of data, the network's shapes.
FIXED = (
    "seed", "*.seed", "data.lanes", "data.backprop_segments", "data.validation_fraction", "*.context_length",
    "rounds", "rounds.*",
    "model_name", "model.*", "module._target_", "module.optimizer._target_", "module.optimizer.decay_all", "env.id",
    "env.make*",
)  # fmt: skip
FREE_IN_MODELS = ("*dropout", "*dropatt", "*lru_blend_alpha", "*load_balancing_loss_coef")
# Settings of a run that are a path, and where they lie: names of places stand for the places in a settings file.
PLACED = ("root", "folder", "default_root_dir", "save_dir")
# What a command says and its run does not keep.
OF_A_COMMAND = (
    "run_dir", "resume", "stage", "allow_mismatch", "model_was_chosen", "checkpoint", "source", "reader", "writer",
    "spec", "command", "title", "export",
)  # fmt: skip


def alone_in(folder: Path) -> AbstractContextManager[None]:
    """A block in which no other run uses the folder; the first process of a run holds the lock for all of them."""
    return exclusive(folder / ".running") if is_first_process() else nullcontext()


def counts(key: str, tree: Mapping[str, Any]) -> bool:
    """Whether a run with another value of this key computes something else; tree: the settings that it is one of."""
    parts = key.replace("/", ".").split(".")
    if parts[0] == "callbacks" and len(parts) > 1:
        callback, known = (tree.get("callbacks") or {}).get(parts[1]), PLATFORM.roles["callback"].names
        if isinstance(callback, Mapping) and callback.get("_target_") in (*ONLOOKERS, *map(known.get, ONLOOKERS)):
            return False
    return not _matches(".".join(parts), UNCOUNTED)


@lru_cache(1 << 16)
def _matches(key: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def selects(tree: Mapping[str, Any]) -> bool:
    """Whether a callback of these settings keeps the best checkpoint."""
    known = PLATFORM.roles["callback"].names
    named = [one.get("_target_") for one in (tree.get("callbacks") or {}).values() if isinstance(one, Mapping)]
    return any(name in (*SELECTING, *map(known.get, SELECTING)) for name in named)


def essence(tree: Mapping[str, Any]) -> dict[str, Any]:
    """What a run computes: dotted key -> value, of the settings that count."""
    counted = {path: value for path, value in leaves(tree) if counts(path, tree)}
    return {path: value for path, value in counted.items() if not _matches(path, REFERRED)}


def computed(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without what does not count, as they stand."""

    def kept(node: Any, path: str) -> Any:
        if not isinstance(node, Mapping):
            return node
        paths = {key: f"{path}.{key}".lstrip(".") for key in node}
        return {key: kept(value, paths[key]) for key, value in node.items() if counts(paths[key], tree)}

    return kept(tree, "")


def portable(settings: Settings) -> dict[str, Any]:
    """The settings as a file keeps them: with the names of places instead of the places."""
    places = {settings.run_dir: "${run_dir}", settings.shards: "${shards}"}

    def named(node: Any, key: str = "") -> Any:
        if isinstance(node, dict):
            return {name: named(value, name) for name, value in node.items()}
        for place, name in places.items() if key in PLACED and isinstance(node, str) else ():
            if node == place or node.startswith(f"{place}/"):
                return name + node[len(place) :]
        return node

    return {key: named(value) for key, value in vars(settings).items() if key not in OF_A_COMMAND}


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings that a run in this folder began with. Raises FileNotFoundError, or UsageError for a damaged file."""
    path = folder / SETTINGS
    try:
        found = read_json(path)
    except ValueError as error:
        raise UsageError(f"{path}: damaged ({error}); delete {folder} to run again") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path}: expected the settings of a run, found {type(found).__name__}")
    settings: dict[str, Any] = renamed(found)
    if isinstance(settings.get("env"), dict):
        settings["env"].pop("recipe", None)  # where it stood once; what was read of it stands where it was read
    return settings


def place_of_data(tree: Mapping[str, Any]) -> Path:
    """Where the trajectories of a run lie; tree: its settings as `portable` and a settings file have them."""
    shards = str(tree.get("shards"))
    return Path(str((tree.get("data") or {}).get("root") or shards).replace("${shards}", shards)).resolve()


def check_same_run(
    folder: Path, settings: Settings, defaults: Callable[[], Mapping[str, Any]], code: str | None = None
) -> list[str]:
    """The keys in which the run in the folder differs, all of them allowed; none where there is no run.

    defaults: gives the settings that this command would have without typed values; a key that was not known when the
    run began and has its default is no difference. code: of this run; a finished one may be of other code.
    Raises UsageError for other differences, or where what is there is no training run.
    """
    finished = any((folder / name).exists() for name in (ROW, VALIDATION))
    if not finished and not any((folder / "checkpoints").glob("*.ckpt")):
        return []
    try:
        there = read_settings(folder)
    except FileNotFoundError:
        raise UsageError(
            f"{folder} holds checkpoints or a result of another stage; give hydra.run.dir=ANOTHER"
        ) from None
    here = renamed(json.loads(json.dumps(portable(settings))))  # as what is read from there
    found = changed(essence(there), essence(here), defaults)
    if not finished and code is not None and "code" in there and there["code"] != code:
        found["code"] = f"code is {there['code']} there, {code} here"
    _check_allowed(folder, found, settings.allow_mismatch)
    for sentence in found.values():
        log.warning("%s goes on although %s", folder, sentence)
    return list(found)


def changed(
    old: Mapping[str, Any], new: Mapping[str, Any], defaults: Callable[[], Mapping[str, Any]] = dict
) -> dict[str, str]:
    """What differs between two essences: key -> a sentence."""
    differ = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
    if unknown := {key for key in differ if key not in old}:
        usual = essence(defaults())
        differ -= {key for key in unknown if key in usual and usual[key] == new[key]}
    found = {}
    for key in sorted(differ):
        was, now = (shorten(str(of.get(key)), MOST_OF_A_VALUE, placeholder=" ...") for of in (old, new))
        found[key] = f"{key} is {was} there, {now} here"
    return found


def can_change(key: str) -> bool:
    """Whether a value of this key, changed in the middle of a run, has an effect from there on."""
    if key.startswith("model.") and any(fnmatchcase(key, pattern) for pattern in FREE_IN_MODELS):
        return True
    return not any(fnmatchcase(key, pattern) for pattern in FIXED)


def _check_allowed(folder: Path, found: Mapping[str, str], allowed: list[str]) -> None:
    """Raises UsageError for a difference that is not allowed, or that nothing can come of."""
    fixed = [key for key in found if not can_change(key)]
    refused = [key for key in found if not any(f"{key}.".startswith(f"{name}.") for name in allowed)]
    if not (fixed or refused):
        return
    said = "; ".join(found[key] for key in [*fixed, *(key for key in refused if key not in fixed)][:5])
    ways = "delete the folder, or give hydra.run.dir=ANOTHER"
    if fixed:
        ways += f"; {', '.join(fixed[:5])} cannot change in the middle of a run"
    else:
        ways += f", or go on all the same with allow_mismatch=[{','.join(refused)}]"
    raise UsageError(f"{folder} holds a run with other settings: {said}; {ways}")


def check_no_run(folder: Path) -> None:
    """Raises UsageError where the folder holds a training run, whose result would be overwritten."""
    if (folder / SETTINGS).exists():
        raise UsageError(f"{folder} holds a training run; give hydra.run.dir=ANOTHER")


def evaluation_identity(settings: Settings, checkpoint: Path) -> str:
    """What makes an evaluation this one: the env, the plan, and the checkpoint to the byte."""
    return judged_identity({"env": settings.env, "evaluation": settings.evaluation}, checkpoint)


def judged_identity(settings: Mapping[str, Any], checkpoint: Path) -> str:
    """The same of settings as a row keeps them, where they say no place: whether it is the row of this checkpoint."""
    from elmur.checkpoint import files_of

    about = essence({part: settings.get(part) or {} for part in ("env", "evaluation")})
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for part in files_of(checkpoint):
        digest.update(part.read_bytes())
    return digest.hexdigest()[:32]


def remove_traces(folder: Path) -> None:
    """Remove the folder of a command that was refused, where there is nothing in it but what every command leaves."""
    ours = {".hydra", ".running", "run.log"}
    if not is_first_process() or not folder.is_dir() or {path.name for path in folder.iterdir()} - ours:
        return
    try:
        with exclusive(folder / ".running"):
            shutil.rmtree(folder)
        for above in list(folder.parents)[:4]:
            above.rmdir()
    except (LockError, OSError):  # another command is at work there, or the folder above holds more
        return
