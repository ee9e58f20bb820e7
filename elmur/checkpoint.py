"""Checkpoints read, without executing anything, and checked before use; and the policy in an export, also written."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch

from elmur.aliases import renamed
from elmur.build import build
from elmur.files import atomic_open, check_regular, read_json, read_text, write_bytes, write_json
from elmur.objectives.objective import with_head
from elmur.policy import StreamingPolicy
from elmur.sequence_model import SequenceModel
from elmur.spec import SpecError, TaskSpec
from elmur.untrusted import UntrustedError, check_content, check_fit, check_tensors, check_zip, described

CHECKPOINT_VERSION = 1
# What an export holds for `load`, beside its programs.
CONFIG, TASK, WEIGHTS, EXPORT_VERSION = "config.json", "task.json", "model.safetensors", 1
MOST_TEXT = 1 << 20  # bytes of a configuration
IN_A_RUN = ("checkpoints/best.ckpt", "checkpoints/last.ckpt", "best.ckpt", "last.ckpt")  # the first that is there


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file, what was found and what was expected."""


class _Noted(io.RawIOBase):
    """A file that keeps the first error of writing it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        try:
            return self._file.write(content)
        except OSError as error:
            self.error = self.error or error
            raise


def save_whole(content: Any, path: Path) -> None:
    """What torch.save writes, whole or not at all; an OSError names the file."""
    with atomic_open(path) as file:
        noted = _Noted(file)
        try:
            torch.save(content, noted)  # type: ignore[arg-type]
        except RuntimeError as error:  # torch says nothing of a full disk, only that less was written
            raise noted.error or error from error


def read_checkpoint(path: Path | str, map_location: Any | None = "cpu") -> dict[str, Any]:
    """A checkpoint of ours, or the folder of an export, as plain data: never unpickles code.

    Raises CheckpointError for anything else.
    """
    path = Path(path)
    if is_export(path):
        return checked(path, read_export(path))
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such checkpoint")
    checkpoint: dict[str, Any] = load_plain(path, "a checkpoint of this project", map_location)
    ours = checkpoint.get("elmur") if isinstance(checkpoint, dict) else None
    if not isinstance(ours, dict) or "state_dict" not in checkpoint:
        raise CheckpointError(
            f"{path}: expected a checkpoint of this project (key 'elmur'), found another file; weights of the "
            "published code are read by stage=import"
        )
    if ours.get("version") != CHECKPOINT_VERSION:
        raise CheckpointError(
            f"{path}: expected checkpoint version {CHECKPOINT_VERSION}, found {ours.get('version')}; "
            "use the code that wrote it"
        )
    return checked(path, checkpoint)


def checked(path: Path, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The same content, which acting can use. Raises CheckpointError where it cannot."""
    try:
        check_content(checkpoint, weights_file(path).stat().st_size)
    except UntrustedError as error:
        raise CheckpointError(f"{path}: expected a checkpoint of this project, found {error}") from error
    checkpoint["elmur"]["model"] = renamed(checkpoint["elmur"]["model"])
    return checkpoint


def weights_file(path: Path) -> Path:
    """The file that holds the weights: the checkpoint itself, or one in the folder of an export."""
    return path / WEIGHTS if path.is_dir() else path


def files_of(path: Path) -> list[Path]:
    """The files that say all of a policy: the checkpoint itself, or three in the folder of an export."""
    return [path / name for name in (WEIGHTS, CONFIG, TASK)] if path.is_dir() else [path]


def is_export(path: Path) -> bool:
    """Whether it is the folder of an export (`write_policy`)."""
    return (path / CONFIG).is_file() and (path / WEIGHTS).is_file()


def read_export(path: Path) -> dict[str, Any]:
    """What a checkpoint would hold, from the folder of an export; its programs are not looked at.

    Raises CheckpointError for a folder that is damaged, or of another version.
    """
    expected = "the folder of an export (stage=export)"
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(
            f'{path}: reading it needs the Python package safetensors; pip install "elmur[export]"'
        ) from error
    try:
        config, spec = read_json(path / CONFIG, MOST_TEXT), read_text(path / TASK, MOST_TEXT)
        check_regular(path / WEIGHTS)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: expected {expected}, found {error}") from error
    if not isinstance(config, dict) or config.get("library") != "elmur":
        raise CheckpointError(f"{path / CONFIG}: expected {expected}, found no library = elmur in it")
    if config.get("format") != EXPORT_VERSION:
        raise CheckpointError(
            f"{path / CONFIG}: expected format {EXPORT_VERSION}, found {config.get('format')}; use the code that wrote "
            "it"
        )
    try:
        weights = load_file(path / WEIGHTS)
    except Exception as error:  # what a damaged file provokes in the reader, which runs no code
        raise CheckpointError(f"{path / WEIGHTS}: expected weights in safetensors, found {error}") from error
    ours = {key: config.get(key) for key in ("model", "head", "context_length")}
    return {
        "elmur": {"version": CHECKPOINT_VERSION, "spec": spec, **ours},
        "state_dict": {f"model.{name}": tensor for name, tensor in weights.items()},
    }


def write_policy(folder: Path, checkpoint: Mapping[str, Any]) -> None:
    """Write what `elmur.load` needs. checkpoint: as `elmur.checkpoint.read_checkpoint` gives it."""
    from safetensors.torch import save  # an extra

    ours, prefix = checkpoint["elmur"], "model."
    weights = {
        name.removeprefix(prefix): tensor.detach().clone().contiguous()
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(prefix)
    }
    about = {key: ours[key] for key in ("model", "head", "context_length") if ours.get(key) is not None}
    write_bytes(folder / WEIGHTS, save(weights, metadata={"format": "pt"}))
    write_json(folder / TASK, json.loads(ours["spec"]))
    write_json(folder / CONFIG, {"library": "elmur", "format": EXPORT_VERSION, **about})


def load_plain(path: Path, expected: str, map_location: Any | None = "cpu") -> Any:
    """What torch.save wrote, if it is tensors and plain values. Raises CheckpointError for code, which is not run."""
    try:
        check_zip(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the error below says it all
            content = torch.load(path, map_location=map_location, weights_only=True)
        check_tensors(content, path.stat().st_size)
        return content
    except PermissionError:
        raise
    except UntrustedError as error:
        raise CheckpointError(f"{path}: expected {expected}, found {error}") from error
    except Exception as error:  # whatever a damaged or malicious file provokes in the reader
        raise CheckpointError(
            f"{path}: expected {expected}, found a file that is damaged or holds code; nothing in it was executed"
        ) from error


def load_model(path: Path | str, task: TaskSpec | None = None) -> tuple[SequenceModel, int]:
    """The network in a checkpoint and its context length, on the CPU, ready to act.

    task: what it is to act in; CheckpointError says where the checkpoint's task differs from it.
    """
    ours = (checkpoint := read_checkpoint(path))["elmur"]
    try:
        spec = TaskSpec.from_json(ours["spec"])
    except SpecError as error:
        raise CheckpointError(f"{path}: expected a checkpoint of this project, found elmur.spec: {error}") from error
    if task is not None and (spec.name != task.name or spec.differences(task)):
        differences = "".join(f"; {difference}" for difference in spec.differences(task))
        raise CheckpointError(f"{path}: trained on task {spec.name!r}, not on {task.name!r}{differences}")
    # The configuration in a file is data: it may name what makes a model and nothing else.
    model: Callable[..., SequenceModel] = build({**ours["model"], "_partial_": True}, f"{path}: model", "model")
    builder = with_head(model, ours.get("head"), f"{path}: head")
    return filled(Path(path), checkpoint, lambda: builder(spec)).eval(), int(ours["context_length"])


def filled(path: Path, checkpoint: Mapping[str, Any], build: Callable[[], SequenceModel]) -> SequenceModel:
    """The model that `build` makes, with the weights of a checkpoint. Raises CheckpointError where they do not fit."""
    weights = {
        name.removeprefix("model."): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith("model.")
    }
    try:
        layers, size = checkpoint["elmur"]["model"].get("n_layer"), weights_file(path).stat().st_size
        check_fit(described(build, layers, len(weights), size), weights)
    except UntrustedError as error:
        raise CheckpointError(f"{path}: its weights do not fit the model it describes: found {error}") from error
    made = build()
    made.load_state_dict(weights)
    return made


def load_policy(path: Path | str, task: TaskSpec | None = None, **how: Any) -> StreamingPolicy:
    """The policy in a checkpoint, a run folder or an export; `how` as for `StreamingPolicy`."""
    return StreamingPolicy(*load_model(checkpoint_in(Path(path)), task), **how)


def checkpoint_in(path: Path) -> Path:
    """The checkpoint that a run folder acts with, its best one or else its last; a file or an export is what it is."""
    if not path.is_dir() or is_export(path):
        return path
    found = next((path / name for name in IN_A_RUN if (path / name).is_file()), None)
    if found is None:
        raise CheckpointError(f"{path}: expected a run folder, found none of {', '.join(IN_A_RUN)} in it")
    return found
