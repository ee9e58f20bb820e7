"""Checks on a command before anything is done, and errors in one sentence."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from textwrap import shorten
from types import TracebackType
from typing import Any, NoReturn

log = logging.getLogger(__name__)
SETTINGS, ROW = "settings.json", "result.json"
PUBLISHED = Path(__file__).resolve().parents[1] / "conf" / "published"  # experiment -> the tasks that it has values for
MAX_LABEL = 60
MOST_OF_A_VALUE = 80  # characters of it that an error shows
# What does not make a run another one.
NOT_SETTINGS = ("run_dir", "resume", "logger", "stage", "shards", "model_was_chosen", "allow_mismatch")
STAGES = ("train", "collect", "convert", "evaluate", "report", "import", "benchmark")
LARGEST_SEED = 2**32 - 1
MOST_NAMES = 12  # that an error lists where some are near
GO_ON_LEANER = "the same command goes on from the last checkpoint, with data.num_workers=0 it needs less"
OTHER_STAGES = ("archive", "benchmark", "render")  # keys of env that training does not read
# Where a run is carried out, which does not make it another one.
PLACE = ("accelerator", "devices", "num_nodes", "strategy")
# Set by torchrun, srun and Lightning for each of the processes that work on one run.
RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK")
# The keys of the sections that are nobody's arguments; every other section is checked by the signature it goes to.
# fmt: off
SECTIONS = {
    "": (
        "stage", "seed", "resume", "allow_mismatch", "checkpoint", "source", "shards", "run_dir", "collect",
        "evaluation", "env", "model", "module", "data", "trainer", "callbacks", "logger", "observation",
    ),
    "env": (
        "name", "id", "metric", "chance", "reference", "suite", "lengths", "make", "variants", "selection", "expert",
        "dataset", "recipe", "archive", "benchmark", "render",
    ),
}
# fmt: on


class UsageError(ValueError):
    """A command that cannot be carried out; the message says what to change."""


def run_label(overrides: str) -> str:
    """A folder name for the overrides of a command, e.g. `model.d_model-128+model.n_layer-3`.

    Without `=` and `,`, so that a path inside can be typed into a command as it is. What is long or holds other signs
    is shortened, with a hash.
    """
    safe = re.sub(r"[^\w.+-]", "_", overrides.replace("=", "-").replace(",", "+"))
    if len(safe) <= MAX_LABEL and not re.search(r"[^\w.=,+-]", overrides):
        return safe or "default"
    return f"{safe[: MAX_LABEL - 9]}-{hashlib.sha256(overrides.encode()).hexdigest()[:8]}"


def check_settings(settings: dict[str, Any]) -> None:
    """Raises UsageError for keys that nothing reads and values that no stage can use."""
    for section, known in SECTIONS.items():
        for key in settings[section] if section else settings:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
                raise UsageError(f"{section}{'.' * bool(section)}{key}: there is no such setting; {hint}")
    for name, callback in settings["callbacks"].items():
        if not isinstance(callback, dict) or "_target_" not in callback:
            raise UsageError(f"callbacks.{name}: expected a callback, {{_target_: ..., ...}}; found {callback!r}")
    if settings["logger"] and "_target_" not in settings["logger"]:
        key = next(iter(settings["logger"]))
        raise UsageError(
            f"logger.{key}: there is no such setting; the CSV log takes none, choose logger=tensorboard or wandb"
        )
    if settings["stage"] not in STAGES:
        raise UsageError(f"stage: expected one of {', '.join(STAGES)}; found {settings['stage']!r}")
    if not isinstance(settings["allow_mismatch"], list):
        found = settings["allow_mismatch"]
        raise UsageError(f"allow_mismatch: expected a list, allow_mismatch=[{found}]; found {found!r}")
    clip = settings["trainer"].get("gradient_clip_val")
    if isinstance(clip, int | float) and clip < 0:
        raise UsageError(f"trainer.gradient_clip_val: expected 0 or more, or null; found {clip}")
    seed = settings["seed"]
    if type(seed) is not int or not 0 <= seed <= LARGEST_SEED:
        raise UsageError(f"seed: expected a whole number from 0 to {LARGEST_SEED}; found {seed!r}")


def check_choices(choices: Mapping[str, Any]) -> None:
    """Raises UsageError for a task of another env than the one chosen, or that the experiment has no values for."""
    env, task = choices["env"], choices.get("task")
    if task and not task.startswith(f"{env}_"):
        raise UsageError(f"task={task} does not belong to env={env}; leave env out, the task brings its own")
    folder = PUBLISHED / str(choices.get("experiment"))
    known = sorted(path.stem for path in folder.glob("*.yaml") if (PUBLISHED.parent / "task" / path.name).exists())
    if known and task not in known:
        given = f"task={task}" if task else "no task"
        raise UsageError(f"experiment={folder.name} has nothing for {given}; choose one of task={','.join(known)}")


def is_first_process() -> bool:
    """Whether this process writes what is written once; known before the processes of a run have found each other."""
    return not any(int(os.environ.get(name) or 0) for name in RANKS)


def alone_in(folder: Path) -> AbstractContextManager[None]:
    """A block in which no other run uses the folder; the first process of a run holds the lock for all of them."""
    from data.atomic import exclusive

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

    trainer = {key: value for key, value in settings["trainer"].items() if key not in PLACE}
    env = {key: value for key, value in settings["env"].items() if key not in OTHER_STAGES}
    collect = {key: value for key, value in settings["collect"].items() if key != "processes"}
    evaluation = {key: value for key, value in settings["evaluation"].items() if key != "video"}
    parts = {**settings, "env": env, "trainer": trainer, "collect": collect, "evaluation": evaluation}
    return portable({key: value for key, value in parts.items() if key not in NOT_SETTINGS})


def check_same_run(folder: Path, compared: dict[str, Any], allowed: Sequence[str] = ()) -> None:
    """Raises UsageError where the folder holds a run with other settings, or of other code, that has got somewhere.

    allowed: keys that may differ, with all below them; what then does is said. A finished run may be of other code.
    """
    if not any((folder / "checkpoints").glob("*.ckpt")) and not (folder / ROW).exists():
        return
    try:
        there = json.loads((folder / SETTINGS).read_text())
    except FileNotFoundError:
        raise UsageError(
            f"{folder} holds checkpoints or a result of another stage; give hydra.run.dir=ANOTHER"
        ) from None
    except ValueError as error:
        raise UsageError(f"{folder / SETTINGS}: damaged ({error}); delete {folder} to run again") from error
    there.pop("shards", None)  # where they lay
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


def check_variants(env: Mapping[str, Any]) -> Any:
    """The TaskSpec of an env, each variant of which is made once. Raises BuildError for one that cannot be."""
    from elmur.build import call

    first = call(env["make"], {"num_envs": 1}, "env.make")
    try:
        spec = first.spec
    finally:
        first.close()
    for section in ("variants", "selection"):
        for name, variant in env[section].items():
            call(env["make"], {"num_envs": 1, **variant}, f"env.{section} {name}").close()
    return spec


def quieten() -> None:
    """Leave out what Lightning says of itself at every start, and what all processes would say; warnings stay."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handleError = partial(_stop_at_full_log, handler)  # type: ignore[method-assign]
    if not is_first_process():
        logging.getLogger().setLevel(logging.WARNING)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.trainer.connectors.checkpoint_connector"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning on torch 2.13, nothing of ours
    warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")  # no validation set
    warnings.filterwarnings("ignore", message="The `srun` command is available")  # one process is what was asked for
    warnings.filterwarnings("ignore", message=".*does not have many workers")  # reading is not what takes the time
    sys.excepthook = _of_the_main_thread


def _of_the_main_thread(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show an error, but not of the thread that hands tensors to a worker that was killed: the loader tells of it."""
    lost = isinstance(error, ConnectionError | EOFError)
    if not lost or threading.current_thread() is threading.main_thread():
        sys.__excepthook__(kind, error, trace)


def refuse(error: BaseException) -> NoReturn:
    """Say what went wrong, and end with exit code 1."""
    sys.stderr.write(f"error: {sentence(error)} (HYDRA_FULL_ERROR=1 shows the traceback)\n")
    sys.exit(1)


def nearest(name: str, known: Sequence[str]) -> str:
    """What there is instead of `name`: all of it, or of many the nearest."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) if len(known) > MOST_NAMES else []
    if near:
        return f"the nearest of {len(known)} are {', '.join(near)}"
    return f"there are {', '.join(known)}"


def _stop_at_full_log(handler: logging.FileHandler, record: logging.LogRecord) -> None:
    """Let what went wrong in writing a log end the run, instead of a traceback for each line of it."""
    error = sys.exc_info()[1]
    if isinstance(error, OSError):
        raise type(error)(error.errno, f"could not write {handler.baseFilename}: {error.strerror}") from error
    logging.Handler.handleError(handler, record)


def sentence(error: BaseException) -> str:
    """What went wrong, in one line and without the traceback."""
    text = " ".join(str(error).split())
    if unknown := re.match(r"Could not override '([^']+)'", text):
        return f"{unknown[1]}: there is no such setting; `python run.py --cfg job` shows those there are"
    if option := re.search(r"Could not find '(.+)/(.+?)' Available options in '.+?': (.*?)( Config search|$)", text):
        return f"{option[1]}={option[2]}: there is no such option; {nearest(option[2], option[3].split())}"
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, OSError) and not error.filename and text == str(OSError(error.errno, error.strerror)):
        return f"{error.strerror}: could not write into the output folder, hydra.run.dir"
    if re.search(r"DataLoader worker .*(killed|exited)", text):
        return f"{text.split('. ')[0]}: the system ended it, mostly for want of memory; {GO_ON_LEANER}"
    # What nobody foresaw is named by its type as well.
    foreseen = isinstance(error, ValueError | RuntimeError | OSError) or type(error).__module__.startswith(
        ("hydra", "omegaconf", "lightning")
    )
    return text if text and foreseen else f"{type(error).__name__} {text}".strip()
