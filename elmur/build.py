"""Objects from plain dictionaries that name a class: the only way in which a configuration becomes code.

`{"_target_": "elmur.model.ELMUR", "d_model": 64, ...}` is called with the other keys; `_partial_: true` leaves the call
for later. The signature of what is named is the schema: an unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import typing
from collections.abc import Sequence
from functools import partial
from types import UnionType
from typing import Any

from elmur.aliases import current

ALLOWED = (
    "elmur", "data", "envs", "callbacks",
    "torch.optim",
    "lightning.pytorch.trainer", "lightning.pytorch.loggers", "lightning.pytorch.callbacks",
    "lightning.pytorch.strategies", "lightning.pytorch.profilers",
)  # fmt: skip


# Annotations whose values are checked; an int will do for a float, a bool for nothing else.
PLAIN: dict[str, Any] = {"int": int, "float": (int, float), "str": str, "bool": bool, "None": type(None)}

MOST_NAMES = 12  # that an error lists


class BuildError(ValueError):
    """A configuration that cannot be built; the message names the key and what would be right."""


def build(config: Any, path: str = "config", allowed: Sequence[str] = ALLOWED, **extra: Any) -> Any:
    """What a nested configuration describes. `extra` are further arguments of the outermost call.

    path: how the configuration is called in error messages. allowed: packages whose members may be named.
    Raises BuildError for a name outside them, an unknown or missing key, or a value that its constructor refuses.
    """
    if isinstance(config, dict):
        node = {key: build(value, f"{path}.{key}", allowed) for key, value in config.items() if key != "_target_"}
        if "_target_" not in config:
            return node
        return call(resolve(config["_target_"], path, allowed), {**node, **extra}, path)
    if isinstance(config, list | tuple):
        return [build(value, f"{path}[{i}]", allowed) for i, value in enumerate(config)]
    return config


def call(target: Any, arguments: dict[str, Any], path: str) -> Any:
    """`target(**arguments)`, or a partial of it; errors carry the path of the configuration."""
    is_partial = arguments.pop("_partial_", False)
    check_arguments(target, arguments, path, is_partial)
    if is_partial:
        return partial(target, **arguments)
    try:
        return target(**arguments)
    except BuildError:
        raise
    except (ValueError, TypeError) as error:
        raise BuildError(f"{path}: {error}") from error


def resolve(name: Any, path: str, allowed: Sequence[str]) -> Any:
    """The class or function called `name`, if it is defined in an allowed package."""
    if not isinstance(name, str) or not _inside(name, allowed):
        raise BuildError(f"{path}._target_: {name!r} is refused; only members of {', '.join(allowed)} may be named")
    module_name, _, attribute = current(name).rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == name.partition(".")[0]:
            raise BuildError(f"{path}._target_: there is no {name!r} ({error})") from error
        missing = f"{name} needs the Python package {package}, which is not installed here"
        raise BuildError(f"{path}: {missing}; `make setup` installs what is missing") from error
    except (ImportError, AttributeError) as error:
        raise BuildError(f"{path}._target_: there is no {name!r} ({error})") from error
    # What a module merely imports is not its own: without this, elmur.memory.torch would open all of torch.
    if not callable(found) or not _inside(getattr(found, "__module__", "") or "", allowed):
        raise BuildError(f"{path}._target_: {name!r} is refused; it is not defined in {', '.join(allowed)}")
    return found


def _inside(name: str, allowed: Sequence[str]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in allowed)


def check_arguments(target: Any, arguments: dict[str, Any], path: str, is_partial: bool) -> None:
    """Raises BuildError for keys that `target` does not take, and, if it is to be called, for those it misses."""
    try:
        parameters = inspect.signature(target).parameters.values()
    except (ValueError, TypeError):  # a builtin without a signature: its own error must do
        return
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    unknown = [] if any(p.kind is p.VAR_KEYWORD for p in parameters) else [k for k in arguments if k not in names]
    label = getattr(target, "__qualname__", str(target))
    if unknown:
        near = difflib.get_close_matches(unknown[0], names, n=1)
        hint = (
            f"; did you mean {path}.{near[0]}?"
            if near
            else f"; it takes {', '.join(names[:MOST_NAMES])}" + ", ..." * (len(names) > MOST_NAMES)
        )
        raise BuildError(f"{path}.{unknown[0]}: unknown key of {label}{hint}")
    for parameter in parameters:
        check_type(parameter, arguments, path)
    required = [p.name for p in parameters if p.default is p.empty and p.name in names]
    missing = [name for name in required if name not in arguments]
    if missing and not is_partial:
        raise BuildError(f"{path}.{missing[0]}: missing; {label} needs it")


def check_type(parameter: inspect.Parameter, arguments: dict[str, Any], path: str) -> None:
    """Raises BuildError where a parameter annotated as a plain value is given another kind of value."""
    kinds = _kinds(parameter.annotation)
    if parameter.name not in arguments or not set(kinds) <= set(PLAIN):
        return
    value = arguments[parameter.name]
    if not any(isinstance(value, PLAIN[kind]) and not (type(value) is bool and kind != "bool") for kind in kinds):
        raise BuildError(f"{path}.{parameter.name}: expected {' or '.join(kinds)}, found {value!r}")


def _kinds(annotation: Any) -> list[str]:
    """The names of the types that an annotation unites, be it text or the thing itself."""
    if isinstance(annotation, str):
        return annotation.split(" | ")
    united = (
        typing.get_args(annotation) if typing.get_origin(annotation) in (typing.Union, UnionType) else (annotation,)
    )
    return ["None" if kind is type(None) else getattr(kind, "__name__", str(kind)) for kind in united]
