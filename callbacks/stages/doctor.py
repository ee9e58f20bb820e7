"""stage=doctor: what the run of these settings could learn, what it leaves without effect, and what it would cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from callbacks.command.checks import check_buildable
from callbacks.command.parts import datamodule, env_family, evaluation_plan, learner
from callbacks.command.settings import Settings
from callbacks.stages.rounds import rounds_of


def run(settings: Settings) -> None:
    """What the run of these settings could learn, what it leaves without effect, and what it would cost."""
    from callbacks.inspect import doctor
    from callbacks.inspect.costs import costs

    check_buildable(settings)
    family, plan = env_family(settings), evaluation_plan(settings)
    with TemporaryDirectory() as folder:
        windows, patient = examined(settings, Path(folder))
    said, sheet = doctor.findings(patient)
    said += doctor.schedule(patient.module, patient.size, windows[0].num_steps)
    said += costs(patient.module, windows[0], patient.size, family, plan).findings()
    doctor.show(said, [sheet], Path(settings.run_dir), {"label": settings.label, "model": settings.model_name})


def examined(settings: Settings, folder: Path) -> tuple[list[Any], Any]:
    """Windows of one episode of a few lanes, and all that the doctor looks at; what is missing is collected here."""
    import lightning

    from callbacks.inspect import doctor
    from callbacks.inspect.costs import Size
    from callbacks.inspect.regime import Regime

    def learner_of(sections: Mapping[str, Any]) -> Any:
        lightning.seed_everything(settings.seed, workers=False, verbose=False)
        module = learner(replace(settings, **sections))
        module.build_model(data.spec)
        return module

    data, bytes_there = few_episodes(settings, folder)
    family, horizon = env_family(settings), data.spec.horizon
    cut = {"context_length": settings.module["context_length"], "backprop_segments": settings.data["backprop_segments"]}
    regime = Regime.of(family.make, family.variants, horizon, **cut)
    number = min(doctor.MOST_WINDOWS, regime.windows)
    windows = list(islice(data.train_dataloader(), number))
    an_episode, asked = (horizon or 0) * data.step_bytes, rounds_of(settings)
    run = Size(
        settings.data["lanes"],
        settings.trainer.get("max_steps") or 0,
        bytes_there or settings.collect.get("num_episodes", 0) * an_episode,
        bool(bytes_there),
        labelled=0 if asked is None else asked.number * asked.episodes * an_episode,
    )
    sections = {"model": settings.model, "module": settings.module}
    return windows, doctor.Patient(learner_of(sections), windows, learner_of, sections, regime, run)


def few_episodes(settings: Settings, folder: Path) -> tuple[Any, int]:
    """The data of a few lanes, indexed, and the bytes of the shards that are there; 0: some were collected in `folder`.

    What is there is taken, be it fewer episodes than are asked for.
    """
    from callbacks.inspect import doctor

    few = {**settings.data, "num_workers": 0, "lanes": doctor.LANES, "validation_fraction": 0.0}
    data = datamodule(replace(settings, data={**few, "verify": False}), learner(settings))
    there = sum(path.stat().st_size for path in data.found())
    if there:
        data.collect = None
    else:
        left_out = ("check", "noise", "mixture")
        collect = {key: value for key, value in settings.collect.items() if key not in left_out}
        collect |= {"num_episodes": doctor.EPISODES, "num_envs": doctor.LANES, "shard_episodes": doctor.EPISODES}
        asked = replace(settings, data={**few, "root": str(folder)}, collect=collect)
        data = datamodule(asked, learner(settings))
        data.reads = replace(data.reads, best_fraction=None)  # of so few none is left out
    data.prepare_data()
    data.setup()
    return data, there
