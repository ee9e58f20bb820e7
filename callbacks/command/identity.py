"""What makes a run this run and no other: its settings, its folder, its code."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from textwrap import shorten
from typing import Any

from callbacks.command.processes import is_first_process
from callbacks.errors import UsageError
from elmur.aliases import renamed

log = logging.getLogger(__name__)
SETTINGS, ROW = "settings.json", "result.json"
MAX_LABEL = 60
MOST_OF_A_VALUE = 80  # characters of it that an error shows
# What does not make a run another one.
NOT_SETTINGS = (
    "recipe", "selection", "run_dir", "resume", "logger", "stage", "shards", "model_was_chosen", "allow_mismatch",
    "plugins",
)  # fmt: skip
# In each section: where a run is carried out, which does not make it another one.
PLACE = {
    "trainer": ("accelerator", "devices", "num_nodes", "strategy"),
    "module": ("gpu",),
    "data": ("keep",),
    "evaluation": ("device",),
}
# Neither do the processes that collect, what is shown in the end, and what training does not read.
NOT_COMPARED = {
    **PLACE,
    "collect": ("processes",),
    "evaluation": (*PLACE["evaluation"], "video"),
    "env": ("archive", "benchmark", "render", "recipe"),
}


def run_label(overrides: str) -> str:
    """A folder name for the overrides of a command, e.g. `model.d_model-128+model.n_layer-3`.

    Without `=` and `,`, so that a path inside can be typed into a command as it is. What is long or holds other signs
    is shortened, with a hash.
    """
    safe = re.sub(r"[^\w.+-]", "_", overrides.replace("=", "-").replace(",", "+"))
    if len(safe) <= MAX_LABEL and not re.search(r"[^\w.=,+-]", overrides):
        return safe or "default"
    return f"{safe[: MAX_LABEL - 9]}-{hashlib.sha256(overrides.encode()).hexdigest()[:8]}"


def alone_in(folder: Path) -> AbstractContextManager[None]:
    """A block in which no other run uses the folder; the first process of a run holds the lock for all of them."""
    from elmur.files import exclusive

    return exclusive(folder / ".running") if is_first_process() else nullcontext()


def comparable(settings: dict[str, Any]) -> dict[str, Any]:
    """What makes a run this one: neither where it is carried out or its files lie, nor who is told of it."""
    places = {settings[key]: f"${{{key}}}" for key in ("run_dir", "shards")}

    def portable(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: portable(value) for key, value in node.items()}
        if isinstance(node, list):
            return [portable(value) for value in node]
        for place, name in places.items() if isinstance(node, str) else ():
            if node == place or node.startswith(f"{place}/"):
                return name + node[len(place) :]
        return node

    parts = {
        section: {key: value for key, value in settings[section].items() if key not in left_out}
        for section, left_out in NOT_COMPARED.items()
    }
    return portable({key: value for key, value in {**settings, **parts}.items() if key not in NOT_SETTINGS})


def check_same_run(folder: Path, compared: dict[str, Any], allowed: Sequence[str] = ()) -> None:
    """Raises UsageError where the folder holds a run with other settings, or of other code, that has got somewhere.

    allowed: keys that may differ, with all below them; what then does is said. A finished run may be of other code.
    """
    if not any((folder / "checkpoints").glob("*.ckpt")) and not (folder / ROW).exists():
        return
    try:
        there = renamed(json.loads((folder / SETTINGS).read_text()))
    except FileNotFoundError:
        raise UsageError(
            f"{folder} holds checkpoints or a result of another stage; give hydra.run.dir=ANOTHER"
        ) from None
    except ValueError as error:
        raise UsageError(f"{folder / SETTINGS}: damaged ({error}); delete {folder} to run again") from error
    there.pop("shards", None)  # where they lay
    there.get("env", {}).pop("recipe", None)  # read by tuned/ alone, which has given its values to those who use them
    here = json.loads(json.dumps(compared))
    if (folder / ROW).exists() or "code" not in here or "code" not in there:
        there, here = ({key: value for key, value in one.items() if key != "code"} for one in (there, here))
    found = changed(there, here)
    refused = [path for path in sorted(found) if not any(f"{path}.".startswith(f"{key}.") for key in allowed)]
    if refused:
        raise UsageError(
            f"{folder} holds a run with other settings: {'; '.join(found[path] for path in refused[:5])}; delete the "
            f"folder, or give hydra.run.dir=ANOTHER, or go on all the same with allow_mismatch=[{','.join(refused)}]"
        )
    for path in found:
        log.warning("%s goes on although %s", folder, found[path])


def changed(old: Any, new: Any, path: str = "") -> dict[str, str]:
    """What differs between two configurations: key -> a sentence."""
    if isinstance(old, dict) and isinstance(new, dict):
        found: dict[str, str] = {}
        for key in sorted(set(old) | set(new)):
            found |= changed(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
        return found
    was, now = (shorten(str(value), MOST_OF_A_VALUE, placeholder=" ...") for value in (old, new))
    return {} if old == new else {path: f"{path} is {was} there, {now} here"}


def check_no_run(folder: Path) -> None:
    """Raises UsageError where the folder holds a training run, whose result would be overwritten."""
    if (folder / SETTINGS).exists():
        raise UsageError(f"{folder} holds a training run; give hydra.run.dir=ANOTHER")
