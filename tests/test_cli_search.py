"""hydra/sweeper=optuna by its command line: runs are judged by their selection metric, and a study goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command import DEEP, TINY, CommandLine

optuna = pytest.importorskip("optuna")
SEARCH = ("-m", "hydra/sweeper=optuna", "module.optimizer.lr=tag(log,interval(1e-4,1e-2))")
SMALL = (*TINY, *DEEP, "env.lengths=[9]", "trainer.max_steps=3")


def rows(folder: Path) -> dict[float, float]:
    """Learning rate -> the score by which the best checkpoint was chosen, of every run."""
    found = [json.loads(path.read_text()) for path in folder.rglob("result.json")]
    return {row["settings"]["module"]["optimizer"]["lr"]: row["selection_score"] for row in found}


@pytest.mark.slow
def test_a_search_goes_on_where_it_was_and_says_what_was_best(cli: CommandLine) -> None:
    folder = cli.folder / "sweep"
    command = (*SEARCH, *SMALL, f"hydra.sweep.dir={folder}")
    done = cli.run(*command, "hydra/launcher=local", "hydra.sweeper.n_jobs=2", "hydra.sweeper.n_trials=2")
    assert done.code == 0, done.stdout + done.stderr
    (file,) = folder.glob("*.study.db")
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{file}")
    trials = {trial.params["module.optimizer.lr"]: trial.value for trial in study.trials}
    assert len(trials) == 2 and trials == pytest.approx(rows(folder))
    # A search that is killed in the midst of a run leaves that trial running: it is the next to be run.
    lost = study.ask({"module.optimizer.lr": study.trials[0].distributions["module.optimizer.lr"]}).params
    done = cli.run(*command, "hydra.sweeper.n_trials=3")
    assert done.code == 0, done.stdout + done.stderr
    assert "2 of 3 trials have a result" in done.stdout and "was interrupted and is run again" in done.stdout
    found = rows(folder)
    assert len(found) == 3 and any(lr == pytest.approx(lost["module.optimizer.lr"]) for lr in found)
    best = max(found.values())
    assert f"best of 3 trials: {best}, with module.optimizer.lr=" in done.stdout
    chosen = float(done.stdout.rpartition("with module.optimizer.lr=")[2].split()[0])
    assert next(score for lr, score in found.items() if lr == pytest.approx(chosen)) == best
    done = cli.run(*command, "hydra.sweeper.n_trials=3")
    assert done.code == 0 and "3 of 3 trials have a result" in done.stdout and "finished after" not in done.stdout
    done = cli.run(*command, "seed=1", "hydra.sweeper.n_trials=1")
    assert done.code == 0 and "0 of 1 trials have a result" in done.stdout, "another seed is another search"
    assert len(list(folder.glob("*.study.db"))) == 2


def test_a_search_without_a_metric_to_go_by_is_refused(cli: CommandLine) -> None:
    folder = f"hydra.sweep.dir={cli.folder}/nothing"
    done = cli.run(*SEARCH, *SMALL, folder, "hydra.sweeper.n_trials=1", "model.n_head=3")  # 16 / 3: every run fails
    assert done.code == 1
    assert "no run has a result to go by; each needs callbacks.selection" in done.stderr, done.stderr
    done = cli.run(*SEARCH, *SMALL, folder, "hydra.sweeper.n_trials=0")
    assert done.code == 1 and "expected n_trials and n_jobs of 1 or more; found 0 and 1" in done.stderr
