"""Names of code in composed configurations."""

from __future__ import annotations

from typing import Any

import pytest

from callbacks.command.targets import check_names
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
        hydra(launcher={"_target_": "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"}),
        hydra(job_logging={"handlers": {"file": {"class": "logging.FileHandler", "filename": "${hydra.x}/run.log"}}}),
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
        ({"a": {"_target_": "${oc.env:NAME}"}}, "is refused"),
        (hydra(launcher={"_target_": "hydra_plugins.x.os.system"}), "hydra.launcher._target_"),
        (hydra(sweeper={"_target_": "subprocess.Popen"}), "hydra.sweeper._target_"),
        (hydra(job_logging={"handlers": {"x": {"()": "os.system"}}}), r"hydra.job_logging.handlers.x.\(\)"),
        (hydra(job_logging={"handlers": {"x": {"class": "logging.config.fileConfig"}}}), "fileConfig' is refused"),
        (hydra(job_logging={"handlers": "${elsewhere}"}), "only a filename may refer to another value"),
        (hydra(hydra_logging="${elsewhere}"), "only a filename may refer to another value"),
        (hydra(callbacks="${elsewhere}"), "only a filename may refer to another value"),
        (hydra(callbacks={"x": {"_target_": "os.system"}}), "only members of callbacks may be named"),
    ],
)
def test_what_is_not_on_the_list_is_refused(config: dict[str, Any], says: str) -> None:
    with pytest.raises((UsageError, BuildError), match=says):
        check_names(config)
