"""Sinks for metrics beside the local files."""

from __future__ import annotations

import logging
import netrc
import os
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import Logger

log = logging.getLogger(__name__)


def wandb_logger(
    project: str, save_dir: str, mode: Literal["auto", "online", "offline"] = "auto", **settings: Any
) -> Logger:
    """A Weights & Biases logger; `auto` goes offline, and says so, where there is no account on this machine."""
    from lightning.pytorch.loggers import WandbLogger  # imports wandb, an extra

    if mode not in ("auto", "online", "offline"):
        raise ValueError(f"logger.mode must be auto, online or offline; found {mode!r}")
    offline = mode == "offline" or (mode == "auto" and not has_account())
    if offline:
        log.warning("wandb: logging offline into %s; send it later with `wandb sync`", Path(save_dir) / "wandb")
    return WandbLogger(project=project, save_dir=save_dir, offline=offline, **settings)


def has_account() -> bool:
    """Whether a key of Weights & Biases is in the environment or in the user's netrc file, and may be used."""
    if os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun"):
        return False
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return any("wandb" in host for host in netrc.netrc().hosts)
    except (OSError, netrc.NetrcParseError):
        return False
