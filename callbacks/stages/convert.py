"""stage=convert: episodes of another format as shards where training looks for them, or shards in another format."""

from __future__ import annotations

import logging
from functools import partial

from callbacks.command.parts import env_family, named
from callbacks.command.registry import PLATFORM
from callbacks.command.settings import Settings
from callbacks.errors import UsageError
from elmur.build import build, call
from elmur.files import read_text
from elmur.spaces import Spaces
from elmur.spec import SpecError, TaskSpec
from envs.family import EnvFamily
from envs.vector import recorded_in

log = logging.getLogger(__name__)
LARGEST_SPEC = 1 << 20  # bytes of a TaskSpec in JSON
NO_SOURCE = (
    "stage=convert needs source=FOLDER and its format, reader=minari, lerobot, robomimic or npz; or source=FOLDER of a "
    "published archive and an env that has one, task=popgym_... or task=mikasa_... observation=rgb"
)


def run(settings: Settings) -> None:
    """Episodes of another format as shards where training looks for them; with a writer, those in its format."""
    family, data = env_family(settings), settings.data
    if settings.writer is not None:
        made = build(settings.writer, "writer", "writer", PLATFORM)(root=data["root"])
        log.info("%s, made of the shards in %s", made, data["root"])
        return
    if settings.reader is not None and settings.reader.get("source", "") is not None:
        reader, spec = build(settings.reader, "reader", "reader", PLATFORM), task_to_convert_to(settings, family)
    elif family.archive is not None and settings.source is not None:
        decoder = family.archive()
        reader, spec = partial(named("reader", "archive"), decoder, settings.source), decoder.spec
    else:
        raise UsageError(NO_SOURCE)
    source, normalise = str(settings.source or settings.reader["_target_"]), bool(settings.collect.get("normalise"))  # type: ignore[index]
    shards = named("trajectories", "convert")(
        reader, data["root"], source, spec, data["on_bad_shard"], normalise=normalise
    )
    log.info("%d shards in %s", len(shards), data["root"])


def task_to_convert_to(settings: Settings, family: EnvFamily) -> TaskSpec | Spaces | str:
    """The task of a file, spec=FILE, or of the env, by its own values; its name alone where there are neither."""
    if settings.spec is not None:
        try:
            return TaskSpec.from_json(read_text(settings.spec, most=LARGEST_SPEC))
        except (SpecError, ValueError, OSError) as error:
            raise UsageError(f"spec={settings.spec}: expected a TaskSpec in JSON, found {error}") from error
    if family.make is None:
        return family.id
    return call(recorded_in, {"make_env": family.make}, "env.make")
