"""hydra/sweeper=compare: models compared fairly, first a search of learning rates, then the runs that are reported."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf, open_dict

if TYPE_CHECKING:
    from callbacks.command.settings import Settings
    from callbacks.comparison.plan import Contender, Overrides

log = logging.getLogger("sweep")
SEARCH, RUNS = "search", "runs"  # folders below that of the sweep


class Comparison(BasicSweeper):
    """A Hydra sweeper: values of the keys `search` are chosen for each model, with other seeds than are reported.

    params: as of Hydra's basic sweeper. search: the keys whose values are tried. search_seeds: training seeds of these
    runs. Every combination of what else is swept, seeds apart, is a contender; all are trained and judged alike. One
    that cannot be built for its task is left out, and that is said.
    """

    def __init__(
        self, search: Sequence[str], search_seeds: Sequence[int], params: dict[str, str] | None = None
    ) -> None:
        super().__init__(max_batch_size=None, params=params)
        self._search, self._search_seeds = tuple(search), tuple(search_seeds)
        self._launched = 0

    def sweep(self, arguments: list[str]) -> Any:
        # Hydra imports this file whenever it starts.
        from callbacks.comparison.plan import contenders, rows_of
        from callbacks.comparison.table import write_tables

        assert self.hydra_context is not None and self.config is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        jobs = self.split_arguments(parser.parse_overrides([*self._parse_config(), *arguments]), None)[0]
        found = self._weighed(contenders(jobs, self._search, self._search_seeds))
        searched = [(one, *run) for one in found for run in one.search()]
        for (one, point, _), folder in zip(searched, self._launch([run for *_, run in searched], SEARCH), strict=True):
            one.searched.setdefault(point, []).extend(rows_of([folder]))
        for seed in found[0].seeds if found else ():  # so that there are tables of all contenders soon
            runs = [(one, run) for one in found if (run := one.report(seed)) is not None]
            for (one, _), folder in zip(runs, self._launch([run for _, run in runs], RUNS), strict=True):
                one.reported += rows_of([folder])
            write_tables([one for one in found if one.reported], Path(self.config.hydra.sweep.dir))

    def _weighed(self, found: Sequence[Contender]) -> list[Contender]:
        """The contenders that can be built for their task, with what they cost; what all their runs will take is said.

        Raises UsageError where they are not treated alike.
        """
        from callbacks.command.quiet import quieten
        from callbacks.comparison.forecast import measured, seconds_of
        from callbacks.comparison.plan import check_alike, check_apart
        from callbacks.errors import sentence
        from elmur.build import BuildError

        quieten()
        settings = [self._settings(one.first) for one in found]
        check_alike([(one.name, of) for one, of in zip(found, settings, strict=True)])
        there, seconds, runs = [], 0.0, 0
        for one, reported in zip(found, settings, strict=True):
            try:
                one.cost = measured(reported)
            except BuildError as error:
                log.warning("left out: %s: %s", one.name, sentence(error))
                continue
            there.append(one)
            searched = [run for _, run in one.search()]
            if searched:
                check_apart(search := self._settings(searched[0]), reported)
                seconds += len(searched) * seconds_of(search, one.cost)
            seconds += len(one.seeds) * seconds_of(reported, one.cost)
            runs += len(searched) + len(one.seeds)
        log.info(
            "%d contenders, %d runs: %s if all of them are new and come one after another, collecting and the "
            "environments' own time apart", len(there), runs, timedelta(seconds=round(seconds)),
        )  # fmt: skip
        return there

    def _settings(self, overrides: Overrides) -> Settings:
        """What a run with these overrides would compute."""
        from callbacks.command.settings import Settings, check_choices, in_force

        assert self.hydra_context is not None and self.config is not None
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        choices: Any = OmegaConf.to_container(config.hydra.runtime.choices)
        check_choices(choices)
        with open_dict(config):
            del config["hydra"]
            config.run_dir = "."
        tree: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        return Settings.of(in_force(tree, overrides), model_name=choices["model"])

    def _launch(self, runs: Sequence[Overrides], folder: str) -> list[Path]:
        """Carry the runs out below a folder of the sweep, where they are not finished yet; where each of them is."""
        from callbacks.command.local import quoted

        assert self.config is not None and self.launcher is not None
        if not runs:
            return []
        place = f"hydra.sweep.dir={quoted(Path(self.config.hydra.sweep.dir, folder))}"
        returned = self.launcher.launch([[*run, place] for run in runs], initial_job_idx=self._launched)
        self._launched += len(runs)
        for job in returned:
            _ = job.return_value  # raises what a job raised
        found = [job.hydra_cfg for job in returned]
        return [Path(config.hydra.runtime.output_dir) for config in found if config is not None]
