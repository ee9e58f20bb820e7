"""What a sweep will take is told from its own jobs, and a sweep of a paper has as many as its table needs."""

from __future__ import annotations

import re

import pytest
from hydra import compose

from callbacks.command.sweeps import forecast, jobs
from tests.command import ROOT

CONF = ROOT / "conf"
# Counted from the publications: rows by columns by seeds.
PAPERS = {
    "paper_tmaze_grid": 7 * 3,
    "paper_tmaze_million": 3,
    "paper_popgym48": 48 * 5 * 3,
    "paper_mikasa": 4 * 3,
    "paper_ablation": 8 * 3,
    "paper_ablation_blend": 11 * 2 * 3,  # trained to write, and not
    "paper_ablation_memory": 3 * 3 * 2 * 3,  # lengths by slots by deviations by seeds
    "paper_cost": 9 * 3,
    "gradient": 3 * 5 * 3 * 3,  # models by segments by slots by seeds
    "mikasa32": (32 - 3) * 3,  # ShellGame needs a download
}


@pytest.mark.parametrize("name", sorted(PAPERS))
def test_a_papers_sweep_says_what_it_will_take(conf: None, name: str) -> None:
    config = compose("run", [f"sweep={name}"], return_hydra_config=True)
    found = jobs(config)
    assert len(found) == len({tuple(job) for job in found}) == PAPERS[name]
    said = forecast(found, config.hydra.callbacks.sweep.costs, config.hydra.launcher.n_jobs)
    assert said.startswith(f"{PAPERS[name]} runs, ") and "about " in said and "B where none is finished" in said


def test_every_sweep_of_a_paper_is_counted() -> None:
    assert {path.stem for path in (CONF / "sweep").glob("paper_*.yaml")} == PAPERS.keys() - {"gradient", "mikasa32"}


def test_the_page_that_lists_them_has_their_numbers() -> None:
    """Of each it says that what it takes is told first."""
    page = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `run.py sweep=(\w+)` \|.*\| (\d+) \|$", page, re.MULTILINE)
    assert {name: int(runs) for name, runs in listed} == PAPERS


def test_what_is_typed_narrows_a_sweep(conf: None) -> None:
    config = compose("run", ["sweep=paper_tmaze_grid", "seed=0"], return_hydra_config=True)
    assert [sorted(job) for job in jobs(config)] == [
        sorted(["sweep=paper_tmaze_grid", "seed=0", "experiment=tmaze_grid", f"recipe.train_length={length}"])
        for length in (9, 30, 90, 150, 300, 600, 900)
    ]


def test_the_cost_of_a_run_is_that_of_what_is_swept() -> None:
    """Two runs of an hour and one of 30 minutes on one core, 10 MB each."""
    units = {"length=9": {"seconds": 1800, "megabytes": 10}, "any": {"seconds": 3600, "megabytes": 10}}
    said = forecast([["length=9", "seed=0"], ["length=30"], ["length=90"]], units)
    assert said.startswith("3 runs, 1 side by side: about 2:30:00 and 30.0 MB where")
    with pytest.raises(KeyError):
        forecast([["length=30"]], {"length=9": units["any"]})
