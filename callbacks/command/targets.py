"""No configuration names code outside the allow-list: checked as it is composed, before Hydra builds anything of it."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import OmegaConf

from callbacks.errors import UsageError

# What Hydra itself builds of `hydra.*` before it calls us.
PLUGINS = re.compile(r"(hydra\._internal\.core_plugins|hydra_plugins)\.[\w.]+(Launcher|Sweeper)")
LOGGING = re.compile(r"logging\.(Stream|File|Null)Handler|logging\.handlers\.Rotating\w+|colorlog\.ColoredFormatter")
NAMES = {"_target_": PLUGINS, "()": LOGGING, "class": LOGGING}


def guard_composition() -> None:
    """From now on Hydra hands out no configuration that names what is not allowed; UsageError says which key does.

    Hydra builds `hydra.callbacks`, launchers and log handlers by itself, some while it still composes, and refuses
    only what is on its list of dangerous names. All configurations come from here, also those of a multirun's jobs.
    """
    load = ConfigLoaderImpl.load_configuration
    if hasattr(load, "__wrapped__"):
        return

    @functools.wraps(load)
    def checked(self: Any, *arguments: Any, **options: Any) -> Any:
        config = load(self, *arguments, **options)
        check_names(OmegaConf.to_container(config, resolve=False))
        return config

    ConfigLoaderImpl.load_configuration = checked  # type: ignore[method-assign]


def check_names(config: Any) -> None:
    """Raises UsageError for a name in a composed configuration, Hydra's own part included, that is not allowed."""
    from elmur.build import ALLOWED, resolve

    hydra = config.get("hydra") or {}
    for section in ("job_logging", "hydra_logging", "callbacks"):
        for path, key, value in _leaves(hydra.get(section), f"hydra.{section}"):
            if isinstance(value, str) and "${" in value and key != "filename":  # what it stands for would go unseen
                raise UsageError(f"{path}: {value!r} is refused; only a filename may refer to another value")
    for path, key, name in _leaves(config, ""):
        inside = path.startswith("hydra.")
        if key not in NAMES or (not inside and key != "_target_"):
            continue  # an argument that happens to be called so
        text = name if isinstance(name, str) else ""
        if path.startswith("hydra.callbacks."):
            resolve(name, path.removesuffix("._target_"), ("callbacks",))
            continue
        if inside and not NAMES[key].fullmatch(text):
            raise UsageError(f"{path}: {name!r} is refused; give Hydra its own launchers, sweepers and log handlers")
        if not inside and not text.startswith(tuple(f"{package}." for package in ALLOWED)):
            raise UsageError(f"{path}: {name!r} is refused; only members of {', '.join(ALLOWED)} may be named")


def _leaves(node: Any, path: str, key: str = "") -> Iterator[tuple[str, str, Any]]:
    """Every value of a nested configuration: its whole path, its key, itself."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _leaves(value, f"{path}.{name}".lstrip("."), str(name))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _leaves(value, f"{path}[{i}]", key)
    else:
        yield path, key, node
