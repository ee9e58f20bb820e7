"""Checkpoint files of unknown origin as plain data: no code is run, no damage passes, nothing larger than the file."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from elmur.files import check_regular
from elmur.sequence_model import SequenceModel
from elmur.state import bytes_of, tensors_of

# Keys from which Lightning would build objects that the file names (CVE-2026-58659); we write none of them.
OBJECTS = ("hyper_parameters", "hparams_name", "hparams_type", "datamodule_hyper_parameters", "datamodule_hparams_name")
LARGEST_TABLES = 1 << 28  # numbers in tables of positions, which are no weights
LEAST_COUNT = 1 << 20  # numbers up to this may stand in the smallest file
LEAST_MEMORY = 1 << 26  # bytes of memory of one lane that a model of the smallest file may have
MOST_SHARED = 64  # times as many numbers as a file holds may be tensors that share them: tied weights do
MOST_NODES, DEEPEST = 10_000, 32  # of a model's description
EXECUTED = "nothing in it was executed"
EXPECTED: dict[str, tuple[type, ...]] = {"spec": (str,), "model": (dict,), "context_length": (int,)}


class UntrustedError(ValueError):
    """Bytes that are not what they should be; the message is the part of a sentence after "found"."""


def check_zip(path: Path) -> None:
    """Compare every member of a zip with its checksum, which torch does not.

    Raises UntrustedError for damage, for a zip that is larger unpacked than packed, and for what is no zip: the formats
    of before say themselves how much is to be allocated.
    """
    try:
        check_regular(path)
    except ValueError as error:
        raise UntrustedError(str(error).partition("found ")[2]) from error
    if not zipfile.is_zipfile(path):
        raise UntrustedError(f"no zip as torch.save writes, a file that is damaged or holds code; {EXECUTED}")
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


def check_tensors(content: Any, size: int) -> None:
    """Raises UntrustedError for tensors that are not plain numbers in memory, or more of them than the file has bytes.

    content: whatever a file held, nested as it likes. size: of the file. A tensor of stride 0 tells of gigabytes in one
    number; so do sparse ones, those without storage, and many that share one; tied weights are a few.
    """
    seen: set[int] = set()
    largest: dict[int, int] = {}  # where numbers lie -> bytes of the largest tensor of them
    total, held, open_nodes = 0, 0, [content]
    while open_nodes:
        node = open_nodes.pop()
        if isinstance(node, Tensor):
            if node.layout != torch.strided or node.is_quantized or node.device.type == "meta":
                raise UntrustedError(f"a tensor that is not dense ({node.layout}, {node.dtype}); {EXECUTED}")
            needed, place = node.numel() * node.element_size(), node.untyped_storage().data_ptr()
            before = largest.get(place, 0)
            largest[place] = max(needed, before)
            total, held = total + needed, held + largest[place] - before
            if held > size or total > MOST_SHARED * size:
                raise UntrustedError(f"tensors of {max(held, total)} bytes in {size}; {EXECUTED}")
        elif isinstance(node, dict | list | tuple | set | frozenset) and id(node) not in seen:
            seen.add(id(node))
            open_nodes += [*node.keys(), *node.values()] if isinstance(node, dict) else node


def check_plain(config: Any, size: int) -> None:
    """Raises UntrustedError for a description of a model that is larger than the file that it stands in.

    size: of the file. Every number in it counts something that costs room or time.
    """
    most = max(size, LEAST_COUNT)
    count, open_nodes = 0, [(config, 0)]
    while open_nodes:
        node, depth = open_nodes.pop()
        count += 1
        if count > MOST_NODES or depth > DEEPEST:
            raise UntrustedError(f"a description with more than {MOST_NODES} values, or nested deeper than {DEEPEST}")
        if isinstance(node, dict):
            open_nodes += [(value, depth + 1) for pair in node.items() for value in pair]
        elif isinstance(node, list | tuple):
            open_nodes += [(value, depth + 1) for value in node]
        elif type(node) is int and abs(node) > most:
            raise UntrustedError(f"a description with the number {node:.0e} in a file of {size} bytes")
        elif isinstance(node, float) and not math.isfinite(node):
            raise UntrustedError(f"a description with the number {node}")
        elif node is not None and not isinstance(node, bool | int | float | str):
            raise UntrustedError(f"a description with a {type(node).__name__}")


def check_content(checkpoint: Mapping[str, Any], size: int) -> None:
    """Raises UntrustedError unless a checkpoint has what acting with it needs, and nothing that names objects.

    size: of its file, in bytes.
    """
    objects = [key for key in OBJECTS if key in checkpoint]
    if objects:
        raise UntrustedError(f"the key {objects[0]!r}, from which objects could be built; {EXECUTED}")
    ours, weights = checkpoint["elmur"], checkpoint["state_dict"]
    for key, kinds in EXPECTED.items():
        if key not in ours or type(ours[key]) not in kinds:
            raise UntrustedError(f"elmur.{key} = {_short(ours.get(key))} where {kinds[0].__name__} belongs")
    head = ours.get("head")
    if head is not None and (not isinstance(head, dict) or "_target_" not in head):
        raise UntrustedError(f"elmur.head = {_short(head)} where the configuration of a head belongs")
    if ours["context_length"] < 1:
        raise UntrustedError(f"elmur.context_length = {ours['context_length']} where 1 or more belongs")
    check_plain({**ours["model"], "context_length": ours["context_length"]}, size)
    if not isinstance(weights, dict) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise UntrustedError(f"state_dict = {_short(weights)} where tensors by name belong")
    for name, tensor in weights.items():
        if tensor.is_floating_point() and bool(torch.isnan(tensor).any()):
            raise UntrustedError(f"numbers that are not finite in its weights {name!r}")


def outline(build: Callable[[], SequenceModel]) -> tuple[SequenceModel, int]:
    """A model on the device "meta", and the bytes that one lane's memory will take; nothing is allocated."""
    with torch.device("meta"):
        model = build()
        return model, bytes_of(tensors_of(model.initial_memory(1)))


def described(build: Callable[[], SequenceModel], layers: Any, given: int, size: int) -> Mapping[str, Tensor]:
    """The weights of a described model, on the device "meta": parameters and buffers, and nothing allocated.

    build: makes the model. layers: how many it is to have, of which each costs time to build, whatever its size.
    given: how many weights there are for it. size: of their file in bytes, which one lane's memory may not exceed by
    much. Raises UntrustedError where the model is larger than its file can tell.
    """
    if type(layers) is int and layers > given:
        raise UntrustedError(f"{layers} layers for {given} weights")
    try:
        model, needed = outline(build)
    except (RuntimeError, OverflowError, MemoryError, ArithmeticError, LookupError, TypeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UntrustedError(f"a model that cannot be built ({reason[:200]})") from error
    if sum(buffer.numel() for buffer in model.buffers()) > LARGEST_TABLES:
        raise UntrustedError("a model with larger tables than any of ours")
    if needed > max(size, LEAST_MEMORY):
        raise UntrustedError(f"a memory of {needed} bytes for each episode, in a file of {size} bytes")
    if (numbers := sum(parameter.numel() for parameter in model.parameters())) > size:  # tied ones count once
        raise UntrustedError(f"a model of {numbers} weights in a file of {size} bytes")
    return model.state_dict(keep_vars=True)


def check_fit(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Raises UntrustedError unless a described model takes just these weights; a buffer alone may have infinities."""
    for name in sorted(expected.keys() | weights.keys()):
        mine, theirs = (_outline(tensors.get(name)) for tensors in (expected, weights))
        if mine != theirs:
            raise UntrustedError(f"weights {name!r} as {theirs}, where the model it describes has {mine}")
        if isinstance(expected[name], nn.Parameter) and not bool(torch.isfinite(weights[name]).all()):
            raise UntrustedError(f"numbers that are not finite in its weights {name!r}")


def _outline(tensor: Tensor | None) -> str:
    if tensor is None:
        return "nothing"
    return f"{'real' if tensor.is_floating_point() else str(tensor.dtype)}{list(tensor.shape)}"


def _short(value: Any) -> str:
    text = json.dumps(value, default=lambda v: type(v).__name__, skipkeys=True)
    return text if len(text) <= 60 else text[:57] + "..."
