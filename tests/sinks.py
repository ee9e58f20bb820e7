"""What TensorBoard and wandb wrote, read by their own formats."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WAIT = 300  # tenths of a second
BLOCK, HEADER = 32768, 7  # of the log of LevelDB, in which wandb keeps its records behind 7 bytes of its own


def wandb_records(file: Path) -> Iterator[Any]:
    """The records of a .wandb file, as wandb's protobuf has them."""
    from wandb.proto import wandb_internal_pb2

    content, at, whole = file.read_bytes(), 7, b""
    assert content[:4] == b":W&B"
    while at + HEADER <= len(content):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        whole += content[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4):  # whole, or the last part of several
            yield getattr(wandb_internal_pb2, "Record").FromString(whole)  # noqa: B009 - made as it is imported
            whole = b""


def ended(file: Path) -> list[Any]:
    """The records of a run that is over: wandb's own process writes the last of them a moment later."""
    for _ in range(WAIT):
        records = list(wandb_records(file))
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        time.sleep(0.1)
    raise AssertionError(f"{file}: the run did not end")


def wandb_run(folder: Path) -> dict[str, Any]:
    """Of an offline run: its id, name, group, configuration, everything that was logged, and its summary."""
    (file,) = folder.glob("*.wandb")
    found: dict[str, Any] = {"config": {}, "history": [], "summary": {}}
    for record in ended(file):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found |= {"id": record.run.run_id, "name": record.run.display_name, "group": record.run.run_group}
        for part, updates in (("config", record.config.update), ("config", record.run.config.update)):
            found[part] |= {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in updates}
        if kind == "history":
            items = record.history.item
            found["history"].append(
                {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
            )
        if kind == "summary":
            found["summary"] |= {
                item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.summary.update
            }
    return found


def tensorboard_run(folder: Path) -> dict[str, Any]:
    """Of a folder of event files: scalars (tag -> their last value), texts, images (tag -> bytes), hyper-parameters."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    read = EventAccumulator(str(folder))
    read.Reload()
    tags = read.Tags()
    parameters: dict[str, Any] = {}
    for tag in read.summary_metadata:
        if tag == "_hparams_/session_start_info":
            data = HParamsPluginData.FromString(read.summary_metadata[tag].plugin_data.content)
            for name, value in data.session_start_info.hparams.items():
                parameters[name] = getattr(value, value.WhichOneof("kind"))
    return {
        "scalars": {tag: read.Scalars(tag)[-1].value for tag in tags["scalars"]},
        "texts": {
            tag: read.Tensors(tag)[-1].tensor_proto.string_val[0].decode()
            for tag in tags["tensors"]
            if tag.endswith("text_summary")
        },
        "images": {tag: read.Images(tag)[-1].encoded_image_string for tag in tags["images"]},
        "parameters": parameters,
    }
