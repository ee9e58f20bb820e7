"""Damaged files by the thousand, read in a process of their own, since it may crash.

    python -m tests.faults.bytes_fuzz KIND FILE FIRST LAST

Every file must be refused with the error of its reader, or give exactly what was written. The number of the file in
work is kept in a file beside, so that the test which started this process can name the one that killed it.
"""

from __future__ import annotations

import io
import json
import resource
import signal
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PATIENCE = 30  # seconds for one file, after which the process dies of SIGALRM
MEMORY = {"shard": 2 << 30, "checkpoint": 8 << 30, "resealed": 8 << 30}  # torch alone maps some of it


def mutate(whole: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with one to three damages, of kinds that disks, networks and malice produce."""
    for _ in range(int(rng.integers(1, 4))):
        whole = _KINDS[int(rng.integers(len(_KINDS)))](whole, rng)
    return whole


def _place(whole: bytes, rng: np.random.Generator) -> int:
    return int(rng.integers(max(len(whole), 1)))


def _flip(whole: bytes, rng: np.random.Generator) -> bytes:
    damaged = bytearray(whole)
    for _ in range(int(rng.integers(1, 5))):
        if damaged:
            damaged[_place(whole, rng)] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def _put(whole: bytes, rng: np.random.Generator, run: bytes) -> bytes:
    at = _place(whole, rng)
    return whole[:at] + run + whole[at + len(run) :]


def _noise(whole: bytes, rng: np.random.Generator) -> bytes:
    return _put(whole, rng, rng.bytes(int(rng.integers(1, 65))))


def _blank(whole: bytes, rng: np.random.Generator) -> bytes:
    return _put(whole, rng, (b"\0" if rng.random() < 0.5 else b"\xff") * int(rng.integers(1, 4097)))


def _number(whole: bytes, rng: np.random.Generator) -> bytes:
    value = int(rng.choice([0, 1, 2**7, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63 - 8]))
    return _put(whole, rng, value.to_bytes(8, "little")[: int(rng.choice([2, 4, 8]))])


def _cut(whole: bytes, rng: np.random.Generator) -> bytes:
    return whole[: _place(whole, rng)]


def _drop(whole: bytes, rng: np.random.Generator) -> bytes:
    at = _place(whole, rng)
    return whole[:at] + whole[at + int(rng.integers(1, 513)) :]


def _insert(whole: bytes, rng: np.random.Generator) -> bytes:
    at = _place(whole, rng)
    return whole[:at] + rng.bytes(int(rng.integers(1, 513))) + whole[at:]


def _copy(whole: bytes, rng: np.random.Generator) -> bytes:
    at = _place(whole, rng)
    return _put(whole, rng, whole[at : at + int(rng.integers(1, 513))])


_KINDS: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    _flip, _flip, _noise, _blank, _number, _cut, _drop, _insert, _copy,
)  # fmt: skip


def reseal(whole: bytes, rng: np.random.Generator) -> bytes:
    """A checkpoint whose pickle is damaged inside a zip with right checksums, as malice would make it."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as source, zipfile.ZipFile(target, "w") as copy:
        for member in source.infolist():
            content = source.read(member)
            copy.writestr(member.filename, mutate(content, rng) if member.filename.endswith("data.pkl") else content)
    return target.getvalue()


def read_shard(path: Path) -> Any:
    """Everything that a shard says, in a form that can be compared."""
    from data.shard import Shard

    with Shard(path) as shard:
        shard.verify()
        rows = int(shard.offsets[-1])
        arrays = {
            key: shard.read(key, 0, len(shard.offsets) - 1 if column.per_episode else rows).tobytes()
            for key, column in shard.columns.items()
        }
        said = [shard.attribute(name) for name in ("provenance", "statistics", "normalise")]
        return arrays, shard.offsets.tolist(), shard.spec.to_json(), said


def read_checkpoint(path: Path) -> Any:
    """Everything in a checkpoint, in a form that can be compared."""
    from elmur.checkpoint import read_checkpoint

    return plain(read_checkpoint(path))


def plain(value: Any) -> Any:
    """Nested values with tensors as bytes, so that equality is of bits."""
    import torch

    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def act_with(path: Path) -> None:
    """Use a checkpoint as far as evaluation does before it acts."""
    from elmur.checkpoint import load_policy

    load_policy(path)


def main(kind: str, file: str, first: int, last: int) -> None:
    """Read the damaged files of these numbers, and say how many were refused, were right, or were neither."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY[kind], MEMORY[kind]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if kind == "shard":
        from data.shard import ShardError

        refusals: tuple[type[Exception], ...] = (ShardError,)
    else:
        from elmur.build import BuildError  # for a name that damage made unknown
        from elmur.checkpoint import CheckpointError

        refusals = (CheckpointError, BuildError)
    read = read_shard if kind == "shard" else read_checkpoint
    whole, damaged = Path(file).read_bytes(), Path(f"{file}.{first}")
    truth = read(Path(file))
    counts: dict[str, Any] = {"refused": 0, "same": 0, "wrong": []}
    for number in range(first, last):
        Path(f"{file}.{first}.number").write_text(str(number))
        rng = np.random.default_rng([0xF022, number])
        damaged.write_bytes(reseal(whole, rng) if kind == "resealed" else mutate(whole, rng))
        signal.alarm(PATIENCE)
        try:
            found = read(damaged)
            if kind == "resealed":  # that its author changed it cannot be seen; only that it does no harm
                act_with(damaged)
            outcome = "same" if kind == "resealed" or found == truth else f"{number}: other content was accepted"
        except refusals as error:
            outcome = "refused" if "\n" not in str(error) else f"{number}: more than one sentence: {error}"
        except BaseException as error:
            outcome = f"{number}: {type(error).__name__} {error}"
        signal.alarm(0)
        if outcome in counts:
            counts[outcome] += 1
        else:
            counts["wrong"].append(outcome[:300])
    sys.stdout.write(json.dumps(counts) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
