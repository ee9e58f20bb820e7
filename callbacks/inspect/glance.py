"""A short look at the memory of a model on one window: what training logs of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from callbacks.inspect.attention import watched
from callbacks.inspect.probes import HARDLY, alike
from elmur.banks import banks
from elmur.batch import SegmentBatch
from elmur.layer import ELMURLayer
from elmur.memory import NEVER
from elmur.module import SequenceModule
from elmur.moe import MixtureOfExperts


@dataclass(frozen=True)
class Glance:
    """Numbers `memory/...` of a window that began with new memory, and what they say of slots.

    alike: the mean cosine between slots of the banks that have several. unread: the share of written slots that are
    hardly read. None where a model does not tell.
    """

    numbers: dict[str, float]
    alike: float | None
    unread: float | None


@torch.no_grad()
def glance(module: SequenceModule, window: SegmentBatch) -> Glance:
    """The memory of a window, looked at without a trace: no random number is drawn from the global streams."""
    model, was_training = module.model, module.model.training
    reads: list[list[Tensor]] = [[]]  # of each segment, of each layer
    loads: list[Tensor] = []
    ages, unwritten, unread, changes = [], [], [], []

    def tell(what: str, layer: int, weights: Tensor) -> None:
        if what == "read":
            reads[-1].append(weights.mean((1, 2)))  # [B, M]

    added: list[Tensor] = []
    handles = [m.register_forward_hook(_load(loads)) for m in model.modules() if isinstance(m, MixtureOfExperts)]
    readers = [m.reader for m in model.modules() if isinstance(m, ELMURLayer) and m.reader is not None]
    handles += [reader.register_forward_hook(_size(added)) for reader in readers]
    model.eval()
    try:
        memory = model.initial_memory(window.batch_size, torch.Generator().manual_seed(0))
        # A model that generates its actions draws in its forward.
        with watched(model, tell), torch.random.fork_rng([module.device] if module.device.type == "cuda" else []):
            for segment in window.split(module.context_length):
                before = banks(memory)
                reads.append([])
                _, memory = model(segment, memory)
                after = banks(memory)
                dated = [bank.written_at for bank in before.values() if bank.written_at is not None]
                for weights, dates in zip(reads[-1], dated, strict=False):
                    held = dates != NEVER
                    if held.any():
                        ages.append((segment.start.unsqueeze(1) - 1 - dates)[held].float().mean())
                        unwritten.append((weights * ~held).sum(1)[held.any(1)].mean())
                        unread.append((weights.mean(0) < HARDLY / weights.shape[1])[held.any(0)].float().mean())
                changes += [_moved(before[name].slots, after[name].slots) for name in before]
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)
    several = [bank.slots.float().cpu().numpy() for bank in banks(memory).values() if bank.slots.shape[1] > 1]
    likeness = sum(map(alike, several)) / len(several) if several else None
    named: dict[str, Sequence[Tensor]] = {
        "memory/slot_age": ages, "memory/change": changes, "memory/read_size": added,
        "memory/read_unwritten": unwritten, "memory/unread": unread, "memory/expert_load": loads,
    }  # fmt: skip
    numbers = {name: float(torch.stack(list(values)).mean()) for name, values in named.items() if values}
    if likeness is not None:
        numbers["memory/alike"] = likeness
    return Glance(numbers, likeness, numbers.get("memory/unread"))


def _moved(before: Tensor, after: Tensor) -> Tensor:
    """How far the slots that changed went, over their size; 0 where none did."""
    distance, size = (after - before).float().norm(dim=-1), before.float().norm(dim=-1)
    changed = distance > 0
    if not changed.any():
        return distance.new_zeros(())
    return (distance / (size + distance).clamp(min=1e-12))[changed].mean()


def _size(added: list[Tensor]) -> Callable[..., None]:
    """A hook that notes how long what is read is, over its length and that of the token that reads."""

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        read, token = (part.float().norm(dim=-1) for part in (output, inputs[0]))
        added.append((read / (read + token).clamp(min=1e-12)).mean())

    return note


def _load(loads: list[Tensor]) -> Callable[..., None]:
    """A hook that notes the largest share of picks of an expert, times the number of experts: 1 is balanced."""

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        assert isinstance(module, MixtureOfExperts)
        picked = (module.route(inputs[0]) > 0).flatten(0, -2).float().mean(0)
        loads.append(picked.max() * module.num_experts / module.routed_per_token)

    return note
