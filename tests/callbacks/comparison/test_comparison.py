"""A comparison: who contends, what is chosen, that nobody is treated otherwise, and the tables by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from callbacks.command.settings import SECTIONS, Settings
from callbacks.comparison.forecast import Cost
from callbacks.comparison.plan import Contender, check_alike, check_apart, contenders
from callbacks.comparison.table import against, scores, search, variants, write_tables
from callbacks.errors import UsageError
from callbacks.evaluation.outcomes import Outcome
from callbacks.report.row import Cost as Spent
from callbacks.report.row import Row
from envs.rollout import Episode

LR = "module.optimizer.lr"
JOBS = [
    [f"seed={seed}", f"{LR}={lr}", "sweep=compare", "task=tmaze_t30", f"model={model}"]
    for seed in (0, 1)
    for lr in ("1e-3", "3e-3")
    for model in ("elmur", "gru")
]


def row(model: str, seed: int, *won: int) -> Row:
    """A row with ten episodes in each variant, so many of which were won."""
    played = {
        f"T={t}": Outcome.of([Episode(i, 9, float(i < n), {"success": i < n}) for i in range(10)], 1.0)
        for t, n in zip((9, 30), won, strict=True)
    }
    return Row(task="tmaze", model=model, seed=seed, outcomes=played, updates=4, cost=Spent(train_seconds=2.0))


def contender(name: str, *wins: tuple[int, int], parameters: int = 1000) -> Contender:
    made = Contender(name, (f"model={name}",), ((f"{LR}=1e-3",),), tuple(range(len(wins))), (100,))
    made.reported = [row(name, seed, *won) for seed, won in enumerate(wins)]
    made.cost = Cost(parameters, 60, 0.25, {1: 1.25, 100: 20.0}, 2048)
    return made


def settings(seed: int = 0, **sections: Any) -> Settings:
    given: dict[str, Any] = {name: {} for name in SECTIONS} | {"env": {"id": "tmaze"}} | sections
    return Settings(stage="train", seed=seed, run_dir="out", shards="s", model_name="gru", **given)


def test_every_combination_is_searched_and_then_reported_with_other_seeds() -> None:
    elmur, gru = contenders(JOBS, [LR], [100, 101])
    assert (elmur.name, gru.name) == ("elmur", "gru")
    searched = [run for _, run in gru.search()]
    assert len(searched) == 4 and all("model=gru" in run and "sweep=compare_search" in run for run in searched)
    assert {run[-1] for run in searched} == {"seed=100", "seed=101"} and elmur.seeds == (0, 1)
    gru.searched = {point: [row("gru", 100, 4, 4)] for point in gru.points}
    assert gru.report(1) == ("sweep=compare", "task=tmaze_t30", "model=gru", f"{LR}=1e-3", "seed=1")


def test_a_seed_that_is_searched_with_is_not_reported() -> None:
    with pytest.raises(UsageError, match=r"seed=1: by this seed of hydra.sweeper.search_seeds"):
        contenders(JOBS, [LR], [1])


def test_the_best_mean_is_chosen_and_of_equal_ones_the_first() -> None:
    one = contenders(JOBS, [LR], [100])[0]
    low, high = one.points
    one.searched = {low: [row("elmur", 100, 6, 6)], high: [row("elmur", 100, 5, 7)]}
    assert one.chosen == low
    one.searched[high] = [row("elmur", 100, 6, 7)]
    assert one.chosen == high
    one.searched[high] = []  # its run has failed
    assert one.chosen == low
    one.searched = {}
    assert one.report(0) is None


def test_what_has_one_value_is_not_searched() -> None:
    fixed = contenders([job for job in JOBS if f"{LR}=1e-3" in job], [LR], [100])[0]
    assert list(fixed.search()) == [] and fixed.report(0) is not None


def test_what_else_differs_names_a_contender() -> None:
    jobs = [[*job, f"model.d_model={d}"] for job in JOBS for d in (8, 16)]
    names = [one.name for one in contenders(jobs, [LR], [100])]
    assert names == ["elmur model.d_model=8", "elmur model.d_model=16", "gru model.d_model=8", "gru model.d_model=16"]


def test_contenders_are_trained_and_judged_alike() -> None:
    longer = settings(trainer={"max_steps": 200})
    check_alike([("gru", longer), ("lstm", settings(seed=1, trainer={"max_steps": 200}, model={"d_model": 4}))])
    with pytest.raises(UsageError, match=r"trainer.max_steps: 150 for elmur and 200 for gru.*type trainer.max_steps="):
        check_alike([("gru", longer), ("elmur", settings(trainer={"max_steps": 150}))])
    check_alike([("gru", longer), ("elmur", settings(env={"id": "other"}, trainer={"max_steps": 150}))])


@pytest.mark.parametrize(("first", "says"), [(500_000, "of the report"), (5, "of the selection of checkpoints")])
def test_the_search_plays_episodes_of_its_own(first: int, says: str) -> None:
    reported = settings(evaluation={"num_episodes": 100}, selection={"num_episodes": 20})
    check_apart(settings(evaluation={"first_seed": 250_000}), reported)
    with pytest.raises(UsageError, match=f"first_seed={first}.*{says}"):
        check_apart(settings(evaluation={"first_seed": first}), reported)


def test_the_tables_say_what_the_rows_do() -> None:
    """Means of 10 episodes by hand: elmur 1.0 and 0.75, gru twice 0.75; of the four pairs two are won, two equal."""
    both = [contender("elmur", (10, 10), (10, 5)), contender("gru", (10, 5), (5, 10), parameters=2001)]
    first, second = scores("tmaze", both).lines
    assert (first["score"], second["score"], first["seeds"]) == (0.875, 0.75, 2)
    low, high = first["95 %"]
    assert low < 0.875 < high < 1.0 or high == 1.0
    assert (first["s an update, runs"], first["ms an update"], first["state, bytes"]) == ("0.5", "250", "2,048")
    assert (first["ms a step, 1 env"], first["ms a step, 100 envs"]) == ("1.25", "20")
    assert "factor of two: 1,000 to 2,001" in scores("tmaze", both).notes[0]
    assert against("tmaze", both).lines[0] == {"model": "elmur", "elmur": None, "gru": 0.75}
    assert variants("tmaze", both).lines[1] == {"model": "gru", "seeds": 2, "T=9": 0.75, "T=30": 0.75}


def test_variants_of_one_policy_are_no_more_episodes() -> None:
    """Ten episodes in two variants, half of them won, are ten episodes: Wilson's by its formula, centred on 1/2."""
    ours = [contender("mlp", (5, 5)), contender("gru", (5, 5), (5, 5))]
    for line, episodes in zip(scores("tmaze", ours).lines, (10, 20), strict=True):
        reach = 1.959964 / (1 + 1.959964**2 / episodes) * (1 / (4 * episodes) + (1.959964 / (2 * episodes)) ** 2) ** 0.5
        assert line["95 %"] == pytest.approx((0.5 - reach, 0.5 + reach))


def test_the_search_has_a_stated_budget(tmp_path: Path) -> None:
    one = contender("gru", (10, 10))
    one.points = ((f"{LR}=1e-3",), (f"{LR}=3e-3",))
    one.searched = {one.points[0]: [row("gru", 100, 1, 2)], one.points[1]: [row("gru", 100, 3, 4)]}
    (line,) = search("tmaze", [one]).lines
    assert line == {
        "model": "gru", "lr=1e-3": pytest.approx(0.15), "lr=3e-3": pytest.approx(0.35), "runs": 2,
        "updates in all": "8", "chosen": "3e-3",
    }  # fmt: skip
    write_tables([one], tmp_path)
    assert "| gru | 3e-3 | 1 | 1.00 |" in (tmp_path / "comparison.md").read_text()
    assert (tmp_path / "comparison.csv").read_text().startswith("table,model,lr,seeds,score,95 % low,95 % high")
