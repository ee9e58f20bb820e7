"""Speed of training, acting, data and environments on this machine, as ratios within one run."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from callbacks.benchmark.acting import measure_acting, measure_tasks, players
from callbacks.benchmark.timing import CPU, GPU, SECONDS, Rows
from callbacks.benchmark.training import cases, measure_data, measure_training
from callbacks.report.sheets import Sheet
from elmur.files import write_json
from elmur.module import SequenceModule
from envs.family import EnvFamily

log = logging.getLogger(__name__)
ENVS = (1, 20, 100)  # of the configured environment


def run_benchmarks(
    seed: int, folder: Path, module: SequenceModule, data: Any, env: EnvFamily, seconds: float = SECONDS
) -> None:
    """Measure, show a table per subject, write `benchmark.json` into the folder. Takes minutes, most of them compiling.

    module, data, env: the learner, datamodule and environment of the configuration, for the rows that name "recipe".
    """
    data.prepare_data()
    data.setup()
    module.build_model(data.spec)
    results: dict[str, Rows] = {}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, measure in parts(module, data, env, seconds).items():
            log.info("measuring %s", name)
            results[name] = measure()
    load = [round(number, 2) for number in os.getloadavg()]
    for name, rows in results.items():
        Sheet(name, [{heading: readable(value) for heading, value in row.items()} for row in rows]).show(Console())
    about = {"torch": str(torch.__version__), "cpus": os.cpu_count(), "load": load, "seed": seed}
    write_json(folder / "benchmark.json", {**about, "time": time.strftime("%F %T"), "results": results})
    log.info("load of the machine: %s (others' work lowers what several threads reach); written to %s", load, folder)


def parts(module: SequenceModule, data: Any, env: EnvFamily, seconds: float) -> dict[str, Callable[[], Rows]]:
    """What there is to measure, by the name of its table."""
    found: dict[str, Callable[[], Rows]] = {}
    for device in (CPU, GPU) if torch.cuda.is_available() else (CPU,):
        on = "" if device == CPU else f" on {torch.cuda.get_device_name()}"
        found[f"training{on}"] = partial(lambda at: measure_training(cases(module, data, at), at, seconds), device)
        found[f"acting{on}"] = partial(lambda at: measure_acting(players(module, at), at, seconds), device)
    found["data"] = partial(measure_data, module, data, seconds)
    make = partial(env.world, **list(env.variants.values())[-1])
    configured = [{"make": make, "expert": lambda: env.expert, "envs": number} for number in ENVS]
    # Last, for it changes the module's model.
    found["environments"] = partial(measure_tasks, module, [*configured, *env.benchmark], seconds / 3)
    return found


def readable(value: Any) -> Any:
    """Three significant digits of a number, anything else as it is."""
    if not isinstance(value, float):
        return value
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
