"""Cost of acting by the length of history, all models: `python -m docs.measure_acting [STEPS]`, to 100,000 if not said.

Every option of conf/model with its own values for T-Maze, untrained, one environment, one thread: milliseconds of a
step and bytes of state after 10, 100, ... steps of one episode. Writes docs/acting.csv and docs/acting.svg.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import run  # noqa: F401  the resolvers of conf/
from callbacks.benchmark.acting import ActingCost, cost_of_acting
from callbacks.report.panels import COLOURS, Drawing
from elmur.build import build
from elmur.files import write_text
from elmur.spec import Discrete, TaskSpec, Vector

HERE = Path(__file__).resolve().parent
CONF = HERE.parent / "conf"
TMAZE = TaskSpec("tmaze", {"state": Vector(4)}, Discrete((4,)))
CONTINUOUS = ("diffusion_policy",)  # which it is alone in: it cannot act in the T-Maze
Costs = dict[str, list[ActingCost]]


def measure(histories: list[int]) -> Costs:
    """The costs of each model, by its name."""
    found: Costs = {}
    for name in sorted(path.stem for path in (CONF / "model").glob("*.yaml")):
        if name in CONTINUOUS:
            continue
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config: Any = OmegaConf.to_container(compose("run", [f"model={name}", "run_dir=out"]), resolve=True)
        torch.manual_seed(0)
        model = build(config["model"], "model", "model", spec=TMAZE)
        found[name] = list(cost_of_acting(model, config["module"]["context_length"], 1, histories))
        sys.stderr.write(f"{name}: {' '.join(f'{cost.ms:.2f}' for cost in found[name])} ms\n")
    return found


def write(found: Costs) -> None:
    """The table as CSV, and a figure of both quantities."""
    lines = [f"{name},{c.history},{c.ms:.3f},{c.state_bytes}" for name, costs in found.items() for c in costs]
    write_text(HERE / "acting.csv", "\n".join(["model,history,ms,state_bytes", *lines, ""]))
    write_text(HERE / "acting.svg", Drawing((9, 5), lambda drawn: draw(drawn.subplots(1, 2), found)).svg)


def draw(axes: Any, found: Costs) -> None:
    """Milliseconds of a step and bytes of state, a line for each model."""
    for number, (name, costs) in enumerate(found.items()):
        style: dict[str, Any] = {"linestyle": ("-", "--")[number // len(COLOURS)], "label": name}
        history = [cost.history for cost in costs]
        axes[0].plot(history, [cost.ms for cost in costs], **style)
        axes[1].plot(history, [cost.state_bytes for cost in costs], **style)
    for one, quantity in zip(axes, ("ms of a step, one thread", "bytes of state"), strict=True):
        one.set(xscale="log", yscale="log", xlabel="steps of the episode so far", ylabel=quantity)
        one.grid(alpha=0.3)
    axes[1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)


if __name__ == "__main__":
    most = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    write(measure([10**n for n in range(1, len(str(most)))]))
