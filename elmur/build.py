"""Objects from plain dictionaries that name a class: the only way in which a configuration becomes code.

`{"_target_": "elmur.model.ELMUR", "d_model": 64, ...}` is called with the other keys; `_partial_: true` leaves the call
for later. The signature of what is named is the schema: an unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import typing
from collections.abc import Mapping
from functools import partial
from types import UnionType
from typing import Any

from elmur.registry import MODELS, NOTHING, Registry, plugin_of

# Annotations whose values are checked; an int will do for a float, a bool for nothing else.
PLAIN: dict[str, Any] = {"int": int, "float": (int, float), "str": str, "bool": bool, "None": type(None)}

MOST_NAMES = 12  # that an error lists


class _Empty(typing.Protocol):
    """What every protocol has."""


class BuildError(ValueError):
    """A configuration that cannot be built; the message names the key and what would be right."""


def build(config: Any, path: str = "config", role: str | None = None, registry: Registry = MODELS, **extra: Any) -> Any:
    """What a nested configuration describes. `extra` are further arguments of the outermost call.

    path: how the configuration is called in error messages. role: what it has to be, one of the registry's; None where
    it may be each of them. Raises BuildError for a name that the registry does not have in that place, an unknown or
    missing key, or a value that its constructor refuses.
    """
    if isinstance(config, list | tuple):
        return [build(value, f"{path}[{i}]", role, registry) for i, value in enumerate(config)]
    if not isinstance(config, dict):
        return config
    if is_named := "_target_" in config:
        role, name = look_up(config, path, role, registry)
        target = resolve(name, f"{path}._target_", role, registry)
    node = {
        key: build(value, f"{path}.{key}", registry.below(role, key), registry)
        for key, value in config.items()
        if key != "_target_"
    }
    return call(target, {**node, **extra}, path, kind_of(role, registry)) if is_named else node


def look_up(config: Mapping[str, Any], path: str, role: str | None, registry: Registry) -> tuple[str, str]:
    """The role and the import path of what a configuration names; nothing is imported. Raises BuildError."""
    found = registry.find(config["_target_"], role)
    if found is None:
        raise BuildError(f"{path}._target_: {registry.refusal(config['_target_'], role)}")
    known = registry.roles.get(found[0])
    is_partial = config.get("_partial_", False)
    if type(is_partial) is not bool or (known and known.partial is not None and is_partial != known.partial):
        expected = "true or false" if known is None or known.partial is None else str(known.partial).lower()
        raise BuildError(f"{path}._partial_: expected {expected} for a {found[0]}; found {is_partial!r}")
    return found


def check_names(config: Any, path: str, role: str | None, registry: Registry) -> None:
    """Raises BuildError for a name that has no place in a configuration; without importing anything."""
    if isinstance(config, list | tuple):
        for i, value in enumerate(config):
            check_names(value, f"{path}[{i}]", role, registry)
    if not isinstance(config, dict):
        return
    if "_target_" in config:
        role, _ = look_up(config, path or "config", role, registry)
    for key, value in config.items():
        if key != "_target_":
            check_names(value, f"{path}.{key}".lstrip("."), registry.below(role, key), registry)


def call(target: Any, arguments: dict[str, Any], path: str, kind: Any = None) -> Any:
    """`target(**arguments)`, or a partial of it; errors carry the path of the configuration.

    kind: the class, or the protocol, that it has to give.
    """
    is_partial = arguments.pop("_partial_", False)
    check_arguments(target, arguments, path, is_partial)
    if is_partial:
        return partial(target, **arguments)
    try:
        made = target(**arguments)
    except BuildError:
        raise
    except (ValueError, TypeError) as error:
        raise BuildError(f"{path}: {error}") from error
    if kind is not None and made is not None and not isinstance(made, kind):
        raise BuildError(f"{path}: expected a {kind.__name__}, found a {type(made).__name__}")
    return made


def resolve(name: str, path: str, role: str | None, registry: Registry) -> Any:
    """The class or function at an import path that `look_up` gave. Raises BuildError where there is none."""
    module_name, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == name.partition(".")[0]:
            raise BuildError(f"{path}: there is no {name!r} ({error})") from error
        raise BuildError(
            f"{path}: {name} needs the Python package {missing}, which is not installed here; `make setup` installs "
            "what is missing"
        ) from error
    except (ImportError, AttributeError) as error:
        raise BuildError(f"{path}: there is no {name!r} ({error})") from error
    if (package := plugin_of(name)) is not None and not registry.is_listed(name):
        check_plugin(found, name, package, path, role, registry)
    return found


def check_plugin(found: Any, name: str, package: str, path: str, role: str | None, registry: Registry) -> None:
    """Raises BuildError unless a member of a plugin is defined there, and is what its place needs."""
    # What a module merely imports is not its own: without this, mypkg.models.torch would open all of torch.
    home = getattr(found, "__module__", None) or ""
    if not callable(found) or not f"{home}.".startswith(f"{package}."):
        raise BuildError(f"{path}: {name!r} is refused; it is not a class or function that {package} defines")
    known, kind = registry.roles.get(role or NOTHING), kind_of(role, registry)
    if isinstance(found, type):
        if kind is None or fits(found, kind):
            return
    elif known is not None and known.functions:
        return
    wanted = f"a class of kind {known.kind}" if known and known.kind else "a class"
    raise BuildError(f"{path}: {name!r} is refused; as {role} there belongs {wanted}")


def kind_of(role: str | None, registry: Registry) -> Any:
    """The class or protocol that what stands in a place of this role has to be of; None where there is no such one."""
    known = registry.roles.get(role or NOTHING)
    if known is None or known.kind is None:
        return None
    module, _, name = known.kind.rpartition(".")
    return getattr(importlib.import_module(module), name)


def fits(found: type, kind: Any) -> bool:
    """Whether a class is of a kind; of a protocol where it has all of its methods."""
    if getattr(kind, "_is_protocol", False):
        own = {name for name, value in vars(kind).items() if inspect.isfunction(value)} - set(vars(_Empty))
        return all(callable(getattr(found, name, None)) for name in own)
    return issubclass(found, kind)


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
