"""The conversion of a published archive, as run.py puts it together."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from data.convert import convert
from data.readers.archive import Archive


def converted(decoder: Any, source: Path, root: Path, on_bad_file: Any = "fail", **options: Any) -> list[Path]:
    reader = partial(Archive, decoder, source)
    return convert(reader, root, str(source), decoder.spec, on_bad_file, normalise=False, progress=False, **options)
