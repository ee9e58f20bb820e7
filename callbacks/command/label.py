"""What was set, in a few words that people read: the names of run folders, and titles of tables."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from callbacks.command.identity import counts
from callbacks.command.settings import leaves

DEFAULT = "default"
LONGEST = 80  # of a folder's name; what is longer is cut and marked
# What stands in the folder's name by itself, or does not make a run another one.
ELSEWHERE = ("seed", "env", "model", "task", "sweep")
READ = ("checkpoint", "source")  # what a stage reads; without effect on a training run, which reads neither


def run_label(overrides: Sequence[str], config: Mapping[str, Any] | None = None, without: Collection[str] = ()) -> str:
    """`what_was_set` as the name of one folder."""
    return folder_name(what_was_set(overrides, config, without))


def what_was_set(
    overrides: Sequence[str], config: Mapping[str, Any] | None = None, without: Collection[str] = ()
) -> str:
    """What the overrides of a command set, e.g. `d_model=128+lr=1e-3`; `default` where they set nothing that counts.

    A key has as many of its last parts as tell it from all others in sections that count: what another stage reads,
    or a logger, renames no folder.
    config: the unresolved configuration. without: keys to leave out.
    """
    tree = dict(config or {})
    given = [_split(override) for override in overrides]
    sections = {name: section for name, section in tree.items() if name != "hydra" and counts(name, tree)}
    known = {key for key, _ in given} | {path for path, _ in leaves(sections)}
    parts = [
        f"no_{short(key, known)}" if value is None else f"{short(key, known)}={readable(value)}"
        for key, value in given
        if key not in (*ELSEWHERE, *without) and not key.startswith("hydra") and (key in READ or counts(key, tree))
    ]
    return "+".join(sorted(parts)) or DEFAULT


def search_name(overrides: Sequence[str]) -> str:
    """All that was typed for a search, Hydra's own keys apart, as the name of one file.

    Other tasks, models, seeds or data are another search: what one of them reached says nothing of the others.
    """
    given = [(key, value) for key, value in map(_split, overrides) if not key.startswith("hydra")]
    return folder_name("+".join(sorted(f"no_{k}" if v is None else f"{k}={readable(v)}" for k, v in given)) or DEFAULT)


def folder_name(text: str) -> str:
    """The text as the name of one folder, the same where it can be.

    What is too long or holds signs that a folder's name should not have is cut, and marked with a hash of the whole.
    """
    safe = re.sub(r"[^\w.=,+-]+", "_", text).strip("_")
    if safe == text and len(text) <= LONGEST:
        return text
    return f"{safe[: LONGEST - 7].rstrip('_+')}~{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def readable(value: str) -> str:
    """A typed value in one spelling: numbers as short as they are exact, lists without brackets, text unquoted."""
    text = value.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    if text.startswith("[") and text.endswith("]"):
        return ",".join(readable(part) for part in text[1:-1].split(","))
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text, re.IGNORECASE) or re.fullmatch(r"[+-]?\d+", text):
        return text
    plain = repr(float(text)).removesuffix(".0")
    mantissa, _, power = f"{float(text):e}".partition("e")
    short = f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}"
    return short if float(short) == float(text) and len(short) <= len(plain) else plain


def _split(override: str) -> tuple[str, str | None]:
    """Key and value of an override; None where it takes something out."""
    key, equals, value = override.lstrip("+").partition("=")
    if key.startswith("~"):
        return key.lstrip("~"), None
    return key, value if equals else None


def short(key: str, known: Collection[str]) -> str:
    """The last parts of a key that no other key ends in."""
    parts = re.split(r"[./]", key)
    for number in range(1, len(parts)):
        ending = parts[-number:]
        if sum(re.split(r"[./]", other)[-number:] == ending for other in known) <= 1:
            return ".".join(ending)
    return ".".join(parts)
