"""Checkpoint files of unknown origin as plain data: no code is run, no damage passes, nothing larger than the file."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Keys from which Lightning would build objects that the file names (CVE-2026-58659); we write none of them.
OBJECTS = ("hyper_parameters", "hparams_name", "hparams_type", "datamodule_hyper_parameters", "datamodule_hparams_name")
LARGEST_TABLES = 1 << 28  # numbers in tables of positions, which are no weights
EXECUTED = "nothing in it was executed"
EXPECTED: dict[str, tuple[type, ...]] = {"spec": (str,), "model": (dict,), "context_length": (int,)}


class UntrustedError(ValueError):
    """Bytes that are not what they should be; the message is the part of a sentence after "found"."""


def check_zip(path: Path) -> None:
    """Compare every member of a zip with its checksum, which torch does not; other files are left to their reader.

    Raises UntrustedError for damage, and for a zip that is larger unpacked than packed.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            if any(".." in name.split("/") or name.startswith("/") for name in names) or len(set(names)) < len(names):
                raise UntrustedError(f"a zip whose members leave its folder or share a name; {EXECUTED}")
            declared, size = sum(member.file_size for member in members), path.stat().st_size
            if declared > size or any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise UntrustedError(f"a compressed zip that declares {declared} bytes in {size}; {EXECUTED}")
            broken = archive.testzip()
    except UntrustedError:
        raise
    except Exception as error:  # zipfile lets struct.error, OverflowError and others through
        raise UntrustedError(f"a damaged zip ({' '.join(str(error).split())[:200]}); {EXECUTED}") from error
    if broken is not None:
        raise UntrustedError(f"damaged bytes in its member {broken!r}; {EXECUTED}")


def check_content(checkpoint: Mapping[str, Any]) -> None:
    """Raises UntrustedError unless a checkpoint has what acting with it needs, and nothing that names objects."""
    objects = [key for key in OBJECTS if key in checkpoint]
    if objects:
        raise UntrustedError(f"the key {objects[0]!r}, from which objects could be built; {EXECUTED}")
    ours, weights = checkpoint["elmur"], checkpoint["state_dict"]
    for key, kinds in EXPECTED.items():
        if key not in ours or type(ours[key]) not in kinds:
            raise UntrustedError(f"elmur.{key} = {_short(ours.get(key))} where {kinds[0].__name__} belongs")
    if ours["context_length"] < 1:
        raise UntrustedError(f"elmur.context_length = {ours['context_length']} where 1 or more belongs")
    if not isinstance(weights, dict) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise UntrustedError(f"state_dict = {_short(weights)} where tensors by name belong")
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UntrustedError(f"numbers that are not finite in its weights {name!r}")


def check_fit(build: Callable[[], torch.nn.Module], layers: Any, weights: Mapping[str, Tensor]) -> None:
    """Raises UntrustedError unless the described model takes just these weights; it is built without any memory.

    build: makes the model. layers: how many it is to have, of which each costs time to build, whatever its size.
    """
    if type(layers) is int and layers > len(weights):
        raise UntrustedError(f"{layers} layers for {len(weights)} weights")
    try:
        with torch.device("meta"):
            model = build()
    except (RuntimeError, OverflowError, MemoryError, ArithmeticError, LookupError, TypeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UntrustedError(f"a model that cannot be built ({reason[:200]})") from error
    expected = model.state_dict()
    for name in sorted(expected.keys() | weights.keys()):
        mine, theirs = (_outline(tensors.get(name)) for tensors in (expected, weights))
        if mine != theirs:
            raise UntrustedError(f"weights {name!r} as {theirs}, where the model it describes has {mine}")
    if sum(buffer.numel() for buffer in model.buffers()) > LARGEST_TABLES:
        raise UntrustedError("a model with larger tables than any of ours")


def _outline(tensor: Tensor | None) -> str:
    if tensor is None:
        return "nothing"
    return f"{'real' if tensor.is_floating_point() else str(tensor.dtype)}{list(tensor.shape)}"


def _short(value: Any) -> str:
    text = json.dumps(value, default=lambda v: type(v).__name__, skipkeys=True)
    return text if len(text) <= 60 else text[:57] + "..."
