"""Where a policy acts: on the CPU, where a small one is faster, or on the GPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils.flop_counter import FlopCounterMode

from elmur.batch import SegmentBatch
from elmur.sequence_model import SequenceModel

DEVICES = ("auto", "cpu", "cuda")
# Operations of a step of all environments from which a GPU is faster: what a core does in 2 ms, for a step on a GPU
# takes 1 to 2 ms however small it is (stage=benchmark measures both).
WORTH_A_GPU = 1e8


def check_device(name: str) -> None:
    """Raises ValueError for a device that is none, or is not there."""
    if name not in DEVICES:
        raise ValueError(f"evaluation.device: expected one of {', '.join(DEVICES)}; found {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("evaluation.device=cuda, but no CUDA device is found; leave it out to act on the CPU")


def placed(
    model: SequenceModel, context_length: int, num_envs: int, device: str = "auto", gpu: bool = True
) -> SequenceModel:
    """The model, or a copy of it, on the device where it acts for `num_envs` environments.

    device: "cpu", "cuda", or "auto": the faster of the two. gpu: whether "auto" may take a GPU.
    """
    check_device(device)
    if device == "auto":
        worth = gpu and torch.cuda.is_available() and operations(model, context_length) * num_envs >= WORTH_A_GPU
        device = "cuda" if worth else "cpu"
    if next(model.parameters()).device.type == device:
        return model
    return copy.deepcopy(model).to(device)


@torch.no_grad()
def operations(model: SequenceModel, context_length: int) -> int:
    """Floating point operations of products and convolutions in one step of one environment, by torch's counter."""
    was_training = model.training
    model.eval()
    place = next(model.parameters()).device
    step, start = SegmentBatch.zeros(model.spec, 1, 1).to(place), torch.zeros(1, dtype=torch.int64, device=place)
    stream = model.open_segment(model.initial_memory(1, torch.Generator()), start, context_length)
    with FlopCounterMode(display=False) as counter:
        model.step(stream, step, None)
    model.train(was_training)
    return counter.get_total_flops()


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Torch on so many threads: small products gain nothing from more, and wait for them at every step."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
