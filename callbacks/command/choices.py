"""The options that a person chose: that they go together, and that each is in force."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from callbacks.command.registry import PLATFORM
from callbacks.errors import UsageError
from elmur.build import look_up, resolve

CONF = Path(__file__).resolve().parents[2] / "conf"
PLACES = {"model/write": "model.memory.write"}  # of options that do not lie where their group's name says


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
