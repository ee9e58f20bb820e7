"""Settings: what a command asks for, read once from its configuration and checked before anything is done."""

from __future__ import annotations

import difflib
import inspect
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from callbacks.command.registry import PLATFORM
from callbacks.errors import UsageError
from elmur.build import look_up, resolve
from elmur.registry import plugins

CONF = Path(__file__).resolve().parents[2] / "conf"
PLACES = {"model/write": "model.memory.write"}  # of options that do not lie where their group's name says
STAGES = tuple(PLATFORM.roles["stage"].names)
LARGEST_SEED = 2**32 - 1
SECTIONS = ("env", "model", "module", "data", "trainer", "callbacks", "collect", "evaluation")
PATHS = ("shards", "run_dir", "resume", "checkpoint", "source", "spec")
# Arguments of Lightning's Trainer that would act beside what this project does: those of their values that are
# harmless, and what to do instead.
NOT_OURS: dict[str, tuple[tuple[Any, ...], str]] = {
    "accumulate_grad_batches": ((1,), "every window is an update; data.lanes is its batch"),
    "fast_dev_run": ((False, 0), "debug=quick makes a few updates"),
    "overfit_batches": ((0, 0.0), "collect.num_episodes says how many episodes there are to overfit"),
    "barebones": ((False,), "callbacks=none and logger=null leave out what is not needed"),
    "plugins": ((None,), "checkpoints and SLURM have this project's own"),
    "callbacks": ((None,), "callbacks are a section of their own: +callbacks.NAME._target_=..."),
    "logger": ((None,), "logger=csv, tensorboard or wandb chooses one"),
    "enable_checkpointing": ((False,), "callbacks.resume writes checkpoints"),
}

# Sections that may be absent: whether what stands there is named, and what is expected of it.
OPTIONAL = {
    "reader": (True, "reader=minari, lerobot, robomimic or npz"),
    "writer": (True, "writer=minari"),
    "rounds": (False, "rounds=aggregate, or null"),
    "logger": (False, "logger=csv, tensorboard, wandb or null"),
}
# Sections that others refer to: where what they do not have can be set.
READ_BY_OTHERS = {
    "selection": "+callbacks.selection.KEY= sets what choosing a checkpoint takes",
    "recipe": "what a model or its training takes is set in model. and module.",
}
ABOUT = ("model_name", "model_was_chosen", "label", "command", "title")  # fields that are no keys of the configuration

Section = dict[str, Any]  # of a configuration, to be built by `elmur.build.build`


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a command asks for; the fields are the root keys of the configuration, and there are no others.

    Sections are built by callbacks/command/parts.py, each by the signature of what it describes.
    model_name: the option of the group `model`, which `model_was_chosen` says was typed. label: what was set beside the
    defaults, as folders and tables name it. command: what was typed. title: of the report on a sweep; None without one.
    observation, recipe, selection: values that the sections refer to.
    """

    stage: str
    seed: int
    run_dir: str
    shards: str
    env: Section
    model: Section
    module: Section
    data: Section
    trainer: Section
    callbacks: Section
    collect: Section
    evaluation: Section
    export: Section = field(default_factory=dict)
    logger: Section | None = None
    resume: str | None = None
    checkpoint: str | None = None
    source: str | None = None
    reader: Section | None = None
    writer: Section | None = None
    spec: str | None = None
    allow_mismatch: list[str] = field(default_factory=list)
    plugins: list[str] = field(default_factory=list)
    observation: str | None = None
    recipe: Section | None = None
    selection: Section | None = None
    rounds: Section | None = None
    inspect: Section | None = None
    model_name: str
    model_was_chosen: bool = False
    label: str | None = None
    command: str | None = None
    title: str | None = None

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise UsageError(f"stage: expected one of {', '.join(STAGES)}; found {self.stage!r}")
        if type(self.seed) is not int or not 0 <= self.seed <= LARGEST_SEED:
            raise UsageError(f"seed: expected a whole number from 0 to {LARGEST_SEED}; found {self.seed!r}")
        found: Any = self.allow_mismatch
        if not isinstance(found, list):
            raise UsageError(f"allow_mismatch: expected a list, allow_mismatch=[{found}]; found {found!r}")
        for name in PATHS:
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value.strip()):
                where = " (or the variable ELMUR_SHARDS)" if name == "shards" else ""
                raise UsageError(f"{name}{where}: expected a path; found {value!r}")
        if unnamed := [name for name in self.plugins or () if name not in plugins()]:
            raise UsageError(
                f"plugins: {unnamed[0]!r} stands in a file, which cannot allow it; type plugins=[{unnamed[0]}] or set "
                "ELMUR_PLUGINS"
            )
        for name in SECTIONS:
            if not isinstance(getattr(self, name), dict):
                raise UsageError(f"{name}: expected a section of settings; found {getattr(self, name)!r}")
        self._check_parts()

    @classmethod
    def of(cls, tree: Mapping[str, Any], **about: Any) -> Settings:
        """The settings of a resolved configuration. Raises UsageError for keys that nothing reads."""
        known = [key.name for key in fields(cls) if key.name not in ABOUT]
        for key in tree:
            if key not in known:
                raise UsageError(f"{key}: there is no such setting; {_instead(key, known)}")
        if missing := [name for name in SECTIONS if name not in tree]:
            raise UsageError(f"{missing[0]}: this section is missing; choose one of its options, which --help lists")
        for path, value in leaves(tree):
            for number in value if isinstance(value, list) else [value]:
                if isinstance(number, float) and not math.isfinite(number):
                    raise UsageError(f"{path}: expected a finite number; found {value}")
        return cls(**{**tree, **about})

    def _check_parts(self) -> None:
        """Raises UsageError for values that no stage can use."""
        from envs.family import EnvFamily

        known = [key.name for key in fields(EnvFamily)]
        for key in self.env:
            if key not in known:
                raise UsageError(f"env.{key}: there is no such setting; {_instead(key, known, 'env.')}")
        for name, callback in self.callbacks.items():
            if not isinstance(callback, dict) or "_target_" not in callback:
                raise UsageError(f"callbacks.{name}: expected a callback, {{_target_: ..., ...}}; found {callback!r}")
        for name, (is_named, expected) in OPTIONAL.items():
            found = getattr(self, name)
            if found is not None and (not isinstance(found, dict) or (is_named and "_target_" not in found)):
                raise UsageError(f"{name}: expected {expected}; found {found!r}")
        if self.logger and "_target_" not in self.logger:
            key = next(iter(self.logger))
            raise UsageError(
                f"logger.{key}: there is no such setting; the CSV log takes none, choose logger=tensorboard or wandb"
            )
        for key, (harmless, instead) in NOT_OURS.items():
            if key in self.trainer and self.trainer[key] not in harmless:
                raise UsageError(f"trainer.{key}: {self.trainer[key]!r} is refused; {instead}")
        self._check_numbers()

    def _check_numbers(self) -> None:
        """Raises UsageError for numbers of the trainer that Lightning would take and stumble over later."""
        precision = str(self.trainer.get("precision"))
        if precision.startswith("16"):
            raise UsageError(
                f"trainer.precision: {precision} is refused: gradients would be clipped, and seen to be infinite, "
                "while they are scaled; use bf16-mixed"
            )
        if precision == "bf16-true":
            raise UsageError(
                "trainer.precision: bf16-true is refused: positions, clocks and statistics of the data would be "
                "rounded in training, and not while acting; use bf16-mixed"
            )
        clip, every, updates = (
            self.trainer.get(key) for key in ("gradient_clip_val", "log_every_n_steps", "max_steps")
        )
        if isinstance(clip, int | float) and clip < 0:
            raise UsageError(f"trainer.gradient_clip_val: expected 0 or more, or null; found {clip}")
        if isinstance(every, int) and every < 1:
            raise UsageError(f"trainer.log_every_n_steps: expected 1 or more; found {every}")
        endless = self.trainer.get("max_time") is None and self.trainer.get("max_epochs") in (None, -1)
        if isinstance(updates, int) and (updates == 0 or updates < -1 or (updates == -1 and endless)):
            raise UsageError(f"trainer.max_steps: expected 1 update or more; found {updates}")


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a nested configuration by its dotted path; lists are values, and so are empty sections."""
    if isinstance(node, Mapping) and (node or not path):
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def _instead(key: str, known: Sequence[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {prefix}{near[0]}?" if near else f"known are {', '.join(known)}"


def check_spelling(overrides: Sequence[str]) -> None:
    """Raises UsageError where an option of a group inside a section is chosen with a dot, `model.position=rope`."""
    for override in overrides:
        key, equals, value = override.lstrip("+").partition("=")
        group = key.replace(".", "/")
        if equals and "." in key and (CONF / group / f"{value}.yaml").is_file():
            raise UsageError(f"{override}: an option of a group is chosen with a slash, {group}={value}")


def check_read(overrides: Sequence[str], tree: Mapping[str, Any]) -> None:
    """Raises UsageError for a key that is added to what other sections refer to, `recipe` or `selection`, unread.

    tree: the configuration, unresolved. `++` adds or changes, in a sweep over models: there any of them may read it.
    """
    for override in overrides:
        key, equals, _ = override.lstrip("+").partition("=")
        section, _, name = key.partition(".")
        if not (equals and name and override.startswith("+") and section in READ_BY_OTHERS):
            continue
        texts = [str(value) for _, value in leaves(tree)]
        if override.startswith("++"):
            texts += [path.read_text() for path in CONF.rglob("*.yaml")]
        if not any(re.search(rf"\b{section}\.{re.escape(name.partition('.')[0])}\b", text) for text in texts):
            known, instead = ", ".join(tree.get(section) or {}) or "none", READ_BY_OTHERS[section]
            raise UsageError(f"{key}: nothing reads it, known are {known}; {instead.replace('KEY', name)}")


def check_choices(choices: Mapping[str, Any]) -> None:
    """Raises UsageError for a task of another env than the one chosen, or that the experiment has no values for."""
    env, task = choices["env"], choices.get("task")
    if task and not task.startswith(f"{env}_"):
        raise UsageError(f"task={task} does not belong to env={env}; leave env out, the task brings its own")
    experiment, tasks = choices.get("experiment"), {path.stem for path in (CONF / "task").glob("*.yaml")}
    stems = [path.stem.removeprefix(f"{experiment}_") for path in (CONF / "published").glob(f"{experiment}_*.yaml")]
    if (known := sorted(tasks & set(stems))) and task not in known:
        given = f"task={task}" if task else "no task"
        raise UsageError(f"experiment={experiment} has nothing for {given}; choose one of task={','.join(known)}")


def in_force(settings: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The settings with each option that was typed as it is, without what was meant for the option it replaces.

    `experiment=` and `tuned/` set values of the options that they choose. Where another one is typed, as in
    `model/write=none experiment=tmaze_published`, values that it does not take leave with the option they belong to.
    """
    typed = dict(override.lstrip("+").partition("=")[::2] for override in overrides)
    for group in [key for key in typed if "/" in key]:
        path, node, role = PLACES.get(group, group.replace("/", ".")), settings, "run"
        for key in path.split("."):
            node, role = node.get(key) if isinstance(node, dict) else None, PLATFORM.below(role, key)  # type: ignore[assignment]
        if not isinstance(node, dict) or "_target_" not in node:
            continue
        role, name = look_up(node, path, role, PLATFORM)
        known = inspect.signature(resolve(name, path, role, PLATFORM)).parameters
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
            continue
        kept = {"_target_", "_partial_", *known, *(k.rpartition(".")[2] for k in typed if k.startswith(f"{path}."))}
        for key in [key for key in node if key not in kept]:
            del node[key]
    return settings
