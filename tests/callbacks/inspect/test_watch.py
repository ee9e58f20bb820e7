"""Training watched: losses do not change, numbers are those of the memory, and what is wrong is said once."""

from __future__ import annotations

import csv
import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.inspect.glance import Glance, glance
from callbacks.inspect.watch import MemoryWatch
from elmur.layer import ELMURLayer
from elmur.memory import LRU
from elmur.model import ELMUR, MemoryDesign
from elmur.module import SequenceModule
from elmur.moe import MixtureOfExperts
from envs.hidden import Demand
from tests.command import DEEP, TINY, CommandLine
from tests.elmur.samples import SPEC, make_batch


def metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "logs" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_every_way_of_learning_is_watched(cli: CommandLine) -> None:
    done = cli.run(*TINY, *DEEP, "module=cql", "callbacks.memory.every_n_updates=2", to=cli.folder / "cql")
    assert (done.code, done.stderr) == (0, ""), done.stderr
    assert sum(bool(row.get("memory/slot_age")) for row in metrics(cli.folder / "cql")) == 3


def test_losses_are_the_same_with_the_watch_and_without(cli: CommandLine) -> None:
    told = {}
    for name, word in {"on": "callbacks.memory.every_n_updates=2", "off": "~callbacks.memory"}.items():
        done = cli.run(*TINY, *DEEP, "model/feedforward=moe", word, to=cli.folder / name)
        assert (done.code, done.stderr) == (0, ""), done.stderr
        told[name] = metrics(cli.folder / name)
    losses = {name: [row["train/loss"] for row in rows if row["train/loss"]] for name, rows in told.items()}
    assert losses["on"] == losses["off"] and len(losses["on"]) == 6
    watched = [row for row in told["on"] if row.get("memory/slot_age")]
    assert [row["update"] for row in watched] == ["2", "4", "6"]
    for row in watched:
        assert 0 <= float(row["memory/read_unwritten"]) <= 1 <= float(row["memory/expert_load"])
        assert float(row["memory/write_grad_norm"]) > 0 and 0 < float(row["memory/change"]) <= 1
    assert not any("memory/slot_age" in row for row in told["off"])


def module_of(design: MemoryDesign, **model: object) -> SequenceModule:
    torch.manual_seed(0)
    made = SequenceModule(lambda spec: ELMUR(spec, 16, 1, 2, 0.1, 0.1, memory=design, **model), context_length=4)  # type: ignore[arg-type]
    made.build_model(SPEC)
    return made


def test_the_age_of_slots_and_what_was_never_written() -> None:
    """Segments of 4 steps, two slots: ages 0, then 4 and 0, then 4 and 0; in the second segment one holds nothing."""
    module = module_of(MemoryDesign(memory_size=2, memory_init_std=0.0, write=LRU(1.0)))
    state = torch.get_rng_state()
    found = glance(module.train(), make_batch(3, 16, dtype=torch.float32))
    assert torch.equal(state, torch.get_rng_state()) and module.training and module.model.training
    assert found.numbers["memory/slot_age"] == pytest.approx((0 + 2 + 2) / 3)
    assert 0 < found.numbers["memory/read_unwritten"] < 1 / 3  # of three segments one reads a slot that holds nothing
    assert found.alike is not None and -1 <= found.alike <= 1


def test_the_size_of_what_is_read() -> None:
    """A reader whose last map gives its bias alone adds that much to every token."""
    module = module_of(MemoryDesign())
    layer: Any = next(part for part in module.modules() if isinstance(part, ELMURLayer))
    for bias, expected in ((0.0, 0.0), (1e6, 1.0)):
        torch.nn.init.zeros_(layer.reader.out.weight)
        torch.nn.init.constant_(layer.reader.out.bias, bias)
        found = glance(module, make_batch(2, 8, dtype=torch.float32)).numbers["memory/read_size"]
        assert found == pytest.approx(expected, abs=1e-4)


def test_the_load_of_experts() -> None:
    experts = partial(MixtureOfExperts, num_experts=4, top_k=1, n_shared_experts=0)
    module = module_of(MemoryDesign(), feedforward=experts)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, MixtureOfExperts):
                part.router.weight.zero_()  # ties go to one expert: four times an even share
    assert glance(module, make_batch(2, 8, dtype=torch.float32)).numbers["memory/expert_load"] == pytest.approx(4.0)


@pytest.mark.parametrize(("items", "collapsed"), [(1, False), (8, True)])
def test_alike_slots_are_a_fault_where_several_things_are_held(
    caplog: pytest.LogCaptureFixture, items: int, collapsed: bool
) -> None:
    watch = MemoryWatch()
    watch._demand = Demand(items, "cards", 30)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            watch.judge(Glance({}, alike=0.999, unread=0.9))
    assert ["collapsed" in text for text in caplog.messages] == ([True, False] if collapsed else [False])
    assert "90 % of the slots that are written are hardly read" in caplog.messages[-1]


def test_a_writer_without_gradient_is_said_once(cli: CommandLine) -> None:
    done = cli.run(*TINY, *DEEP, "data.backprop_segments=1")
    assert (done.code, done.stderr) == (0, ""), done.stderr
    assert " ".join(done.stdout.split()).count("the writer gets no gradient") == 1
