"""Settings that packages outside this repository bring: their `conf` folders, which are searched after our own.

A package that a person allows, plugins=[mypkg] or ELMUR_PLUGINS=mypkg, may have options for any group there, such as
mypkg/conf/env/mine.yaml. They lie beside it, or beside a module of it that it names by an entry point of the group
`elmur.plugins`. Of two options with one name ours is taken; what they may name is checked as always.
"""

from __future__ import annotations

import importlib.util
from importlib.metadata import entry_points
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from callbacks.errors import UsageError
from elmur.registry import plugins

GROUP = "elmur.plugins"


class PackageSettings(SearchPathPlugin):
    """Adds these folders to those that Hydra searches."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for package in dict.fromkeys(plugins()):
            for folder in settings_of(package):
                search_path.append(package, str(folder))


def offer_settings() -> None:
    """From now on Hydra finds the options of the packages that are allowed."""
    Plugins.instance().register(PackageSettings)


def settings_of(package: str) -> list[Path]:
    """The folders of options that a package brings. Raises UsageError where there is no such package."""
    named = [point.module for point in entry_points(group=GROUP) if f"{point.module}.".startswith(f"{package}.")]
    found = []
    for module in dict.fromkeys(named or [package]):
        try:
            spec = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            spec = None
        if spec is None:
            raise UsageError(
                f"plugins: there is no package {module!r} here; install it, or put its parent folder on PYTHONPATH"
            )
        found += [Path(place, "conf") for place in spec.submodule_search_locations or ()]
    return [folder for folder in found if folder.is_dir()]


def not_allowed() -> list[str]:
    """The installed packages that bring options and are not allowed."""
    packages = {point.module.partition(".")[0] for point in entry_points(group=GROUP)}
    return sorted(packages - {package.partition(".")[0] for package in plugins()})
