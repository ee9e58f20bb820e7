"""Checks on the settings of a command before anything is done."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from callbacks.errors import UsageError

STAGES = ("train", "collect", "convert", "evaluate", "report", "import", "benchmark")
LARGEST_SEED = 2**32 - 1
# The keys of the sections that are nobody's arguments; every other section is checked by the signature it goes to.
# fmt: off
SECTIONS = {
    "": (
        "stage", "seed", "resume", "allow_mismatch", "checkpoint", "source", "shards", "run_dir", "collect",
        "evaluation", "env", "model", "module", "data", "trainer", "callbacks", "logger", "observation", "plugins",
        "recipe", "selection",
    ),
    "env": (
        "name", "id", "metric", "chance", "reference", "suite", "lengths", "make", "variants", "selection", "expert",
        "dataset", "archive", "benchmark", "render",
    ),
}


def check_settings(settings: dict[str, Any]) -> None:
    """Raises UsageError for keys that nothing reads and values that no stage can use."""
    from elmur.registry import plugins

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
    if unnamed := [name for name in settings["plugins"] or () if name not in plugins()]:
        raise UsageError(
            f"plugins: {unnamed[0]!r} stands in a file, which cannot allow it; type plugins=[{unnamed[0]}] or set "
            "ELMUR_PLUGINS"
        )
    if settings["stage"] not in STAGES:
        raise UsageError(f"stage: expected one of {', '.join(STAGES)}; found {settings['stage']!r}")
    if not isinstance(settings["allow_mismatch"], list):
        found = settings["allow_mismatch"]
        raise UsageError(f"allow_mismatch: expected a list, allow_mismatch=[{found}]; found {found!r}")
    if str(settings["trainer"].get("precision")).startswith("16"):
        found = settings["trainer"]["precision"]
        raise UsageError(
            f"trainer.precision: {found} is refused: gradients would be clipped, and seen to be infinite, while "
            "they are scaled; use bf16-mixed"
        )
    clip = settings["trainer"].get("gradient_clip_val")
    if isinstance(clip, int | float) and clip < 0:
        raise UsageError(f"trainer.gradient_clip_val: expected 0 or more, or null; found {clip}")
    seed = settings["seed"]
    if type(seed) is not int or not 0 <= seed <= LARGEST_SEED:
        raise UsageError(f"seed: expected a whole number from 0 to {LARGEST_SEED}; found {seed!r}")


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
