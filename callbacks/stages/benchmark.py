"""stage=benchmark: speed of training, acting and data on this machine, as ratios."""

from __future__ import annotations

from pathlib import Path

from callbacks.command.parts import datamodule, env_family, learner
from callbacks.command.settings import Settings


def run(settings: Settings) -> None:
    """Speed of training, acting and data on this machine, as ratios."""
    from callbacks.benchmark.run import run_benchmarks

    module = learner(settings)
    parts = module, datamodule(settings, module), env_family(settings)
    run_benchmarks(settings.seed, Path(settings.run_dir), *parts)
