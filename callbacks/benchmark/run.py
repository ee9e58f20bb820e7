"""Speed of training, acting and data on this machine, as ratios within one run."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from callbacks.benchmark.rates import measure_tasks
from callbacks.benchmark.recomputing import RecomputingPolicy, filled
from callbacks.benchmark.timing import Work, linear_maps, product, take_turns, threads
from elmur.batch import SegmentBatch
from elmur.build import build
from elmur.compiled import has_compiler
from elmur.files import write_json
from elmur.memory import LRU
from elmur.model import ELMUR, MemoryDesign
from elmur.module import SequenceModule
from elmur.moe import MixtureOfExperts
from elmur.optim import adamw
from elmur.policy import StreamingPolicy
from elmur.published.config import model_config
from elmur.sequence_model import SequenceModel
from elmur.spec import Discrete, TaskSpec, Vector
from envs.family import EnvFamily
from envs.rollout import Policy, rollout

log = logging.getLogger(__name__)

# The published T-Maze configuration: its sizes, and its work per segment step as ../shared/reference counts it.
LANES, CONTEXT, CLIP, SEGMENT_FLOP = 128, 10, 5.0, 8.4e9
EXPERTS = {"num_experts": 2, "top_k": 3, "n_shared_experts": 2, "routed_d_ff": 32, "shared_d_ff": 512}
SPEC = TaskSpec("tmaze", {"state": Vector(4)}, Discrete((4,)), 30)
REFERENCE_RATE = 170e9  # of one core of the machine that the milliseconds per step are stated for
TARGETS = {"share": 0.5, "streaming": 8.0, "milliseconds": 4.5, "data": 5.0}
SECONDS = 5.0  # of each measurement

Rows = list[dict[str, Any]]


def run_benchmarks(
    seed: int,
    folder: Path,
    module: SequenceModule,
    data: Any,
    env: EnvFamily,
    others: Mapping[str, Callable[[], Rows]],
) -> None:
    """Measure, show a table per subject, and write `benchmark.json` into the folder. Takes about two minutes.

    others: what else is measured, by the name of its table.
    module, data, env: the learner, datamodule and environment of the configuration, for the rows that name "recipe".
    """
    data.prepare_data()
    data.setup()
    module.build_model(data.spec)
    parts: dict[str, Callable[[], Rows]] = {
        "matrix products": measure_products,
        "training": partial(measure_training, module, data),
        "acting": partial(measure_acting, {"published": paper_model(), "recipe": module.model}, module.context_length),
        "data": partial(measure_data, module, data),
        "rollouts": partial(measure_rollouts, module, env),
        **others,
    }
    if env.benchmark:  # last, for it changes the module's model
        parts["tasks"] = partial(measure_tasks, module, env.benchmark, SECONDS / 3)
    results: dict[str, Rows] = {}
    bar = Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), transient=True)
    with bar, torch.random.fork_rng():
        torch.manual_seed(seed)
        task = bar.add_task("")
        for name, measure in parts.items():
            bar.update(task, description=f"measuring {name}")
            results[name] = measure()
    load = [round(number, 2) for number in os.getloadavg()]
    for name, rows in results.items():
        show(name, rows)
    about = {"torch": str(torch.__version__), "cpus": os.cpu_count(), "load": load, "seed": seed, "targets": TARGETS}
    write_json(folder / "benchmark.json", {**about, "time": time.strftime("%F %T"), "results": results})
    log.info("load of the machine: %s (others' work lowers what several threads reach); written to %s", load, folder)


def show(title: str, rows: Rows) -> None:
    """The rows as a table; numbers with three digits that count."""
    table = Table(title=title, title_justify="left")
    for heading in rows[0]:
        table.add_column(heading, justify="left" if isinstance(rows[0][heading], str) else "right")
    for row in rows:
        table.add_row(*[readable(value) for value in row.values()])
    Console().print(table)


def readable(value: Any) -> str:
    """Three digits that count of a number, anything else as it is."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def measure_products() -> Rows:
    """The machine's rate: a large product, and the widest one of the published configuration."""
    rows = []
    shapes = {"1024 x 1024 x 1024": (1024, 1024, 1024), "1280 x 128 x 2176": (1280, 128, 2176)}
    for number in (1, 2):
        with threads(number):
            made = {
                (name, str(dtype)[6:]): product(*sizes, dtype)
                for name, sizes in shapes.items()
                for dtype in (torch.float32, torch.bfloat16)
            }
            seconds = take_turns({"/".join(key): work for key, (work, _) in made.items()}, SECONDS / 2)
        rows += [
            {"product": name, "type": kind, "threads": number, "GFLOP/s": flop / seconds[f"{name}/{kind}"] / 1e9}
            for (name, kind), (_, flop) in made.items()
        ]
    return rows


def paper_model() -> ELMUR:
    """The published T-Maze configuration with the paper's semantics (`experiment=tmaze_published`)."""
    memory = MemoryDesign(memory_size=2, memory_dropout=0.01, write=LRU(0.79))
    experts = partial(MixtureOfExperts, **EXPERTS, load_balancing_loss_coef=0.1)
    return ELMUR(SPEC, 128, 2, 2, dropout=0.1, dropatt=0.17, feedforward=experts, memory=memory)


def published_model() -> SequenceModel:
    """The same with the published code's numerics, which compute a candidate for every slot."""
    config = {
        "env_name": "tmaze", "state_dim": 4, "act_dim": 4, "d_model": 128, "n_layer": 2, "n_head": 2, "dropout": 0.1,
        "dropatt": 0.17, "memory_dropout": 0.01, "memory_size": 2, "lru_blend_alpha": 0.79, "pre_lnorm": False,
        "max_seq_len": 1024, "sequence_format": "s", "use_moe": True, "load_balancing_loss_coef": 0.1, **EXPERTS,
    }  # fmt: skip
    model: SequenceModel = build(model_config(config), "model", "model", spec=SPEC)
    return model


def measure_training(module: SequenceModule, data: Any) -> Rows:
    """Training steps against the machine's rate, taken in turns with a large product."""
    steps = {
        "published sizes": training_step(wrapped(paper_model()), made_up(LANES, CONTEXT), CLIP),
        "published numerics": training_step(wrapped(published_model()), made_up(LANES, CONTEXT), CLIP),
    }
    rows: Rows = []
    multiply, flop = product(1024, 1024, 1024)
    for number in (1, 2):
        with threads(number):
            for name, step in steps.items():
                seconds = take_turns({"product": multiply, "step": step, "again": multiply}, SECONDS)
                rate = 2 * flop / (seconds["product"] + seconds["again"])
                share = SEGMENT_FLOP / seconds["step"] / rate
                rows.append(training_row(name, number, seconds["step"], rate / 1e9, f"{share:.2f}", ">= 0.5 at 2"))
            recipe = training_step(module, next(iter(data.train_dataloader())), CLIP)
            seconds = take_turns({"product": multiply, "step": recipe}, SECONDS / 2)
            rows.append(training_row("recipe", number, seconds["step"], flop / seconds["product"] / 1e9))
    return rows


def training_row(
    name: str, number: int, seconds: float, rate: float, share: str = "", wanted: str = ""
) -> dict[str, Any]:
    """One row of the table of training."""
    return {
        "training step": name, "threads": number, "milliseconds": seconds * 1e3, "GFLOP/s there": rate,
        "share of it": share, "required": wanted,
    }  # fmt: skip


def wrapped(model: SequenceModel) -> SequenceModule:
    """A learner of this model."""
    module = SequenceModule(lambda spec: model, CONTEXT, label_smoothing=0.16)
    module.build_model(model.spec)
    return module


def made_up(lanes: int, steps: int) -> SegmentBatch:
    """A window of random observations in the midst of an episode: its memory is written, since more will follow."""
    observation, action = {"state": torch.randn(lanes, steps, 4)}, torch.randint(4, (lanes, steps))
    return SegmentBatch.of(observation, action, begins=False, ends=False)


def training_step(module: SequenceModule, batch: SegmentBatch, clip: float) -> Work:
    """Forward, backward, clipping and fused AdamW on one window, again and again."""
    module.train()
    optimizer, noise = adamw(module.model, lr=1e-4), torch.Generator().manual_seed(0)

    def step() -> None:
        window = module.run_window(batch, "train", noise)
        loss = window.loss / window.counted
        optimizer.zero_grad()
        (loss if window.balance is None else loss + window.balance).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), clip)
        optimizer.step()

    return step


def segment_of_acting(policy: Policy, spec: TaskSpec, num_envs: int, steps: int) -> Work:
    """Acting through one more segment, with all that goes with it: numpy in and out, a write, the next one opened."""
    batch = filled(spec, num_envs, 1)
    observation = {name: part[:, 0].numpy() for name, part in batch.observation.items()}
    reward, first = np.zeros(num_envs, np.float32), np.ones(num_envs, np.bool_)
    policy.start(num_envs)
    policy.observe(policy.act(observation, first), reward)

    def act() -> None:
        for _ in range(steps):
            policy.observe(policy.act(observation, ~first), reward)

    return act


def measure_acting(models: Mapping[str, SequenceModel], recipe_length: int) -> Rows:
    """Streaming, also compiled where that can be, against recomputing, on one thread.

    Beside it what the bare matrix products of both would allow.
    """
    rows: Rows = []
    multiply, flop = product(1024, 1024, 1024)
    for name, model in models.items():
        length = recipe_length if name == "recipe" else CONTEXT
        policies: dict[str, Policy] = {
            "streaming": StreamingPolicy(model, length),
            "growing": RecomputingPolicy(model, length, whole=False),
            "whole": RecomputingPolicy(model, length, whole=True),
        }
        if has_compiler():
            policies["compiled"] = StreamingPolicy(model, length, compiled=True)
        for num_envs in (1, 100):
            torch.compiler.reset()  # else the second number of environments would get the code for any number
            with threads(1):
                works = {k: segment_of_acting(p, model.spec, num_envs, length) for k, p in policies.items()}
                bare = {f"bare {k}": linear_maps(model, work) for k, work in works.items() if k != "compiled"}
                seconds = take_turns({**works, **bare, "product": multiply}, SECONDS)
            for acting in ("streaming", "compiled"):
                if acting not in policies:
                    continue
                step = seconds[acting] / length * 1e3
                row = {"model": name, "envs": num_envs, "acting": acting, "ms a step": step}
                row["at 170 GFLOP/s"] = step * flop / seconds["product"] / REFERENCE_RATE
                for kind in ("growing", "whole"):
                    row[f"times {kind}"] = seconds[kind] / seconds[acting]
                    row[f"products, {kind}"] = seconds[f"bare {kind}"] / seconds["bare streaming"]
                rows.append({**row, "required": TARGETS["streaming"]})
    return rows


def measure_data(module: SequenceModule, data: Any) -> Rows:
    """Batches of the datamodule alone, over whole epochs, against training on them; on one thread."""
    loader = data.train_dataloader()
    with threads(1):
        step = training_step(module, next(iter(loader)), CLIP)
        seconds = take_turns({"epoch": lambda: sum(1 for _ in loader), "step": step}, SECONDS)
    fetched = len(loader) / seconds["epoch"]
    return [{
        "batches/s": fetched, "windows/s in training": 1 / seconds["step"],
        "times faster": fetched * seconds["step"], "required": TARGETS["data"],
    }]  # fmt: skip


def measure_rollouts(module: SequenceModule, env: EnvFamily) -> Rows:
    """Steps per second of the acting loop, all environments together, in the longest variant."""
    rows: Rows = []
    policies: dict[str, Policy] = {
        "expert": env.expert, "recipe": StreamingPolicy(module.model, module.context_length)
    }  # fmt: skip
    variant = list(env.variants.values())[-1]
    for num_envs in (1, 20, 100):
        vector = env.make(num_envs=num_envs, **variant)
        with threads(1):
            works = {
                name: partial(rollout, vector, policy, range(num_envs), max_steps=200)
                for name, policy in policies.items()
            }
            seconds = take_turns(works, SECONDS / 3, least=3)
            lengths = {name: max(episode.length for episode in work()) for name, work in works.items()}
        vector.close()
        rows += [
            {"policy": name, "envs": num_envs, "env steps/s": lengths[name] * num_envs / seconds[name]}
            for name in works
        ]
    return rows
