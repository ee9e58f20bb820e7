"""stage=collect: the shards that training would use, collected now."""

from __future__ import annotations

import logging

from callbacks.command.parts import collector
from callbacks.command.settings import Settings

log = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """The shards that training would use, collected now."""
    served = collector(settings)()
    log.info("%d shards in %s", len(served.paths), settings.data["root"])
