"""Errors in one sentence: what is refused, and how it is said."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from callbacks.report.text import plain

MOST_NAMES = 12  # that an error lists where some are near
GO_ON_LEANER = "the same command goes on from the last checkpoint, with data.num_workers=0 it needs less"


class UsageError(ValueError):
    """A command that cannot be carried out; the message says what to change."""


def refuse(error: BaseException) -> NoReturn:
    """Say what went wrong, and end with exit code 1."""
    sys.stderr.write(f"error: {plain(sentence(error), most=None)} (HYDRA_FULL_ERROR=1 shows the traceback)\n")
    sys.exit(1)


def nearest(name: str, known: Sequence[str]) -> str:
    """What there is instead of `name`: all of it, or of many the nearest."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) if len(known) > MOST_NAMES else []
    if near:
        return f"the nearest of {len(known)} are {', '.join(near)}"
    return f"there are {', '.join(known)}"


def sentence(error: BaseException) -> str:
    """What went wrong, in one line and without the traceback."""
    text = " ".join(str(error).split())
    if unknown := re.match(r"Could not override '([^']+)'", text):
        return f"{unknown[1]}: there is no such setting; `python run.py --cfg job` shows those there are"
    if option := re.search(r"Could not find '(.+)/(.+?)' Available options in '.+?': (.*?)( Config search|$)", text):
        return f"{option[1]}={option[2]}: there is no such option; {nearest(option[2], option[3].split())}"
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, OSError) and not error.filename and text == str(OSError(error.errno, error.strerror)):
        return f"{error.strerror}: could not write into the output folder, hydra.run.dir"
    if re.match(r"Caught \w+ in DataLoader worker", text):  # with its traceback, whose last line says what was wrong
        return re.sub(r"^(Original )?[\w.]+: ", "", str(error).strip().splitlines()[-1])
    if re.search(r"DataLoader worker .*Bus error", text):
        return f"a worker found too little shared memory, /dev/shm, for its batch: make it larger, or {GO_ON_LEANER}"
    if re.search(r"DataLoader worker .*(killed|exited)", text):
        return f"{text.split('. ')[0]}: the system ended it, mostly for want of memory; {GO_ON_LEANER}"
    # What nobody foresaw is named by its type as well.
    foreseen = isinstance(error, ValueError | RuntimeError | OSError) or type(error).__module__.startswith(
        ("hydra", "omegaconf", "lightning")
    )
    return text if text and foreseen else f"{type(error).__name__} {text}".strip()
