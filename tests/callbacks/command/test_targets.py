"""Names of code in composed configurations."""

from __future__ import annotations

from typing import Any

import pytest

from callbacks.command.targets import check_names, refuse_pickles
from callbacks.errors import UsageError
from elmur.build import BuildError

LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


def hydra(**sections: Any) -> dict[str, Any]:
    return {"hydra": sections, "model": {"_target_": "elmur.model.ELMUR", "class": "an argument that is called so"}}


@pytest.mark.parametrize(
    "config",
    [
        hydra(),
        hydra(launcher={"_target_": LAUNCHER}),
        hydra(launcher={"_target_": "hydra_plugins.elmur_local.LocalLauncher"}),
        hydra(
            job_logging={
                "handlers": {
                    "file": {"class": "logging.FileHandler", "filename": "${hydra.runtime.output_dir}/run.log"}
                }
            }
        ),
        hydra(callbacks={"slurm": {"_target_": "callbacks.command.slurm.WithoutAccounting"}}),
    ],
)
def test_what_we_use_is_allowed(config: dict[str, Any]) -> None:
    check_names(config)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model": {"_target_": "os.system"}}, "model._target_: 'os.system' is refused"),
        ({"a": [{"b": {"_target_": "elmurious.f"}}]}, r"a\[0\].b._target_: 'elmurious.f' is refused"),
        ({"a": {"_target_": 3}}, "a._target_: 3 is refused"),
        (
            {"callbacks": {"x": {"_target_": "data.atomic.write_text"}}},
            "callbacks.x._target_: .* as callback there are",
        ),
        ({"callbacks": {"x": {"_target_": "elmur.build.call"}}}, "callbacks.x._target_"),
        ({"module": {"optimizer": {"_target_": "torch.optim.AdamW", "_partial_": True}}}, "elmur.optim.adamw"),
        ({"trainer": {"profiler": {"_target_": "torch.profiler.profile"}}}, "as profiler there are"),
        ({"env": {"expert": {"_target_": "callbacks.selection.RolloutSelection"}}}, "as expert there are"),
        (hydra(launcher={"_target_": "basic"}), "by their whole name"),
        (hydra(launcher={"setup": ["touch x"]}), "hydra.launcher.setup: only the command line may say it"),
        (hydra(launcher={"additional_parameters": {"wrap": "x"}}), "only the command line may say it"),
        (hydra(launcher={"comment": "x\ntouch y"}), "hydra.launcher.comment: expected one line"),
        (hydra(sweeper={"custom_search_space": "os.system"}), "only the command line may say it"),
        (hydra(searchpath=["pkg://elsewhere"]), "hydra.searchpath: only the command line may say it"),
        (hydra(job={"env_set": {"LD_PRELOAD": "x.so"}}), "hydra.job.env_set.LD_PRELOAD: set it in the environment"),
        (hydra(job_logging={"handlers": {"x": {"stream": "ext://os.system"}}}), "a log goes to ext://sys.stdout"),
        (hydra(job_logging={"handlers": {"x": {"filename": "/etc/cron.d/x"}}}), "a log lies in the output folder"),
        (
            hydra(job_logging={"handlers": {"x": {"filename": "${hydra.runtime.output_dir}/../../x.log"}}}),
            "a log lies in the output folder",
        ),
        ({"a": {"_target_": "${oc.env:NAME}"}}, "is refused"),
        (hydra(launcher={"_target_": "hydra_plugins.x.os.system"}), "hydra.launcher._target_"),
        (hydra(sweeper={"_target_": "subprocess.Popen"}), "hydra.sweeper._target_"),
        (hydra(job_logging={"handlers": {"x": {"()": "os.system"}}}), r"hydra.job_logging.handlers.x.\(\)"),
        (hydra(job_logging={"handlers": {"x": {"class": "logging.config.fileConfig"}}}), "fileConfig' is refused"),
        (hydra(job_logging={"handlers": "${elsewhere}"}), "only a filename may refer to another value"),
        (hydra(hydra_logging="${elsewhere}"), "only a filename may refer to another value"),
        (hydra(callbacks="${elsewhere}"), "only a filename may refer to another value"),
        (hydra(callbacks={"x": {"_target_": "os.system"}}), "as hydra callback there are callbacks.command.slurm"),
    ],
)
def test_what_is_not_on_the_list_is_refused(config: dict[str, Any], says: str) -> None:
    with pytest.raises((UsageError, BuildError), match=says):
        check_names(config)


def test_the_command_line_may_say_what_a_file_may_not() -> None:
    check_names(hydra(launcher={"setup": ["module load cuda"]}), ["seed=1", "hydra.launcher.setup=[module load cuda]"])


@pytest.mark.parametrize("option", ["--experimental-rerun", "--experimental-rerun=x.pickle", "--exp", "--e"])
def test_nothing_is_unpickled_to_repeat_a_run(option: str) -> None:
    with pytest.raises(UsageError, match=r"--e\S* would run code that a file holds; repeat the command itself"):
        refuse_pickles(["seed=1", option, "x.pickle"])
    refuse_pickles(["seed=1", "--cfg", "job", "experiment=x"])
