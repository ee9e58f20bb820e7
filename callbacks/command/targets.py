"""No configuration names code outside the allow-list: checked as it is composed, before Hydra builds anything of it."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from callbacks.errors import UsageError

LOGGING = re.compile(r"logging\.(Stream|File|Null)Handler|logging\.handlers\.Rotating\w+|colorlog\.ColoredFormatter")
STREAMS = re.compile(r"ext://sys\.std(out|err)")  # logging imports whatever else stands behind ext://
# What runs a shell or imports by a path of its own.
TYPED = (
    "hydra.launcher.setup", "hydra.launcher.additional_parameters", "hydra.sweeper.custom_search_space",
    "hydra.searchpath",
)  # fmt: skip
OWN_FOLDERS = re.compile(
    r"\$\{hydra\.(runtime\.output_dir|run\.dir|sweep\.dir)\}/(?!.*(\.\.|\$)).*|\$\{hydra\.runtime\.output_dir\}/\$\{hydra\.job\.name\}\.log"
)


def guard_composition() -> None:
    """From now on Hydra hands out no configuration that names what is not allowed; UsageError says which key does.

    Hydra builds `hydra.callbacks`, launchers and log handlers by itself, some while it still composes, and refuses
    only what is on its list of dangerous names. All configurations come from here, also those of a multirun's jobs.
    """
    load = ConfigLoaderImpl.load_configuration
    if hasattr(load, "__wrapped__"):
        return

    @functools.wraps(load)
    def checked(self: Any, config_name: str | None, overrides: list[str], *arguments: Any, **options: Any) -> Any:
        config = load(self, config_name, overrides, *arguments, **options)
        check_names(config, overrides)
        return config

    ConfigLoaderImpl.load_configuration = checked  # type: ignore[method-assign]


def check_names(config: Any, overrides: Sequence[str] = ()) -> None:
    """Raises UsageError or BuildError for a name in a composed configuration that is not on the list.

    Hydra's own part included. overrides: what was typed, which may say what no file may.
    """
    from callbacks.command.registry import PLATFORM
    from elmur import build

    whole = config if OmegaConf.is_config(config) else OmegaConf.create(config)
    config = OmegaConf.to_container(whole, resolve=False)
    hydra = config.get("hydra") or {}
    build.check_names({key: value for key, value in config.items() if key != "hydra"}, "", "run", PLATFORM)
    build.check_names(hydra, "hydra", "hydra", PLATFORM)
    for path, key, name in _leaves(hydra, "hydra"):
        # Hydra builds these by itself: not even a plugin's, nor under a short or a former name.
        if key == "_target_" and not PLATFORM.is_listed(name):
            raise UsageError(
                f"{path}: {name!r} is refused; give Hydra its own launchers and sweepers by their whole name"
            )
    typed = tuple(override.lstrip("+").partition("=")[0] for override in overrides)
    for path in TYPED:
        section, _, key = path.rpartition(".")
        if OmegaConf.select(whole, section, default={}).get(key) and path not in typed:
            raise UsageError(f"{path}: only the command line may say it, not a file; type {path}=...")
    for path, _, text in _leaves(hydra.get("launcher"), "hydra.launcher"):
        if isinstance(text, str) and "\n" in text:  # it would become a line of a shell script
            raise UsageError(f"{path}: expected one line, found {text!r}")
    if settings := (hydra.get("job") or {}).get("env_set"):
        raise UsageError(f"hydra.job.env_set.{next(iter(settings))}: set it in the environment of the command instead")
    check_logging(hydra)


def allow_typed_plugins(arguments: Sequence[str]) -> None:
    """Allow the packages that a command names, `plugins=[mypkg]`, here and in the processes that it starts.

    They are read from the command itself: what a file says of `plugins` is compared with them, and adds nothing.
    Raises UsageError for what is no list of packages.
    """
    from elmur.registry import ENVIRONMENT, allow_plugins, plugins

    for argument in arguments:
        key, is_given, _ = argument.lstrip("+").partition("=")
        if not is_given or key != "plugins":
            continue
        value = OverridesParser.create().parse_override(argument).value()
        if not isinstance(value, list):
            raise UsageError(f"{argument}: expected a list of packages, as in plugins=[mypkg]")
        allow_plugins(str(name) for name in value)
    os.environ[ENVIRONMENT] = ",".join(dict.fromkeys(plugins()))


def refuse_pickles(arguments: Sequence[str]) -> None:
    """Raises UsageError for `--experimental-rerun FILE`, which would unpickle FILE, under any of its shorter names."""
    for argument in arguments:
        option = argument.partition("=")[0]
        if len(option) > len("--e") - 1 and "--experimental-rerun".startswith(option):
            raise UsageError(
                f"{option} would run code that a file holds; repeat the command itself, or give resume=FOLDER"
            )


def check_logging(hydra: Mapping[str, Any]) -> None:
    """Raises UsageError where Hydra's logging would build, import or write what is none of its business."""
    for section in ("job_logging", "hydra_logging", "callbacks"):
        for path, key, value in _leaves(hydra.get(section), f"hydra.{section}"):
            if not isinstance(value, str):
                continue
            if "${" in value and key != "filename":  # what it stands for would go unseen
                raise UsageError(f"{path}: {value!r} is refused; only a filename may refer to another value")
            if section == "callbacks":
                continue
            if key in ("class", "()") and not LOGGING.fullmatch(value):
                raise UsageError(
                    f"{path}: {value!r} is refused; give Hydra its own launchers, sweepers and log handlers"
                )
            if "://" in value and not STREAMS.fullmatch(value):
                raise UsageError(
                    f"{path}: {value!r} is refused; a log goes to ext://sys.stdout, ext://sys.stderr or a file"
                )
            if key == "filename" and not OWN_FOLDERS.fullmatch(value):
                wanted = "${hydra.runtime.output_dir}/NAME.log"
                raise UsageError(f"{path}: {value!r} is refused; a log lies in the output folder, {wanted}")


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
