"""A short look at the memory of a model on one window: what training logs of it."""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from callbacks.inspect.attention import watched
from callbacks.inspect.probes import HARDLY, alike
from elmur.banks import banks
from elmur.batch import SegmentBatch
from elmur.layer import ELMURLayer
from elmur.memory import NEVER
from elmur.module import SequenceModule
from elmur.moe import MixtureOfExperts

TOLD = ("slot_age", "change", "read_size", "read_unwritten", "unread", "expert_load")  # in the order of a row


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
    seen: dict[str, list[Tensor]] = defaultdict(list)
    reads: list[Tensor] = []  # of a segment, of each layer [B, M]

    def tell(what: str, layer: int, weights: Tensor) -> None:
        if what == "read":
            reads.append(weights.mean((1, 2)))

    memory = model.initial_memory(window.batch_size, torch.Generator().manual_seed(0))
    try:
        # A model that generates its actions draws in its forward.
        devices = [module.device] if module.device.type == "cuda" else []
        with watched(model.eval(), tell), torch.random.fork_rng(devices), ExitStack() as hooks:
            for part in model.modules():
                if isinstance(part, MixtureOfExperts):
                    hooks.enter_context(part.register_forward_hook(
                        lambda of, inputs, _: seen["expert_load"].append(_load(of, inputs[0]))
                    ))  # fmt: skip
                elif isinstance(part, ELMURLayer) and part.reader is not None:
                    hooks.enter_context(part.reader.register_forward_hook(
                        lambda _, inputs, read: seen["read_size"].append(_share(read, inputs[0]).mean())
                    ))  # fmt: skip
            for segment in window.split(module.context_length):
                before = banks(memory)
                reads.clear()
                _, memory = model(segment, memory)
                dated = [bank.written_at for bank in before.values() if bank.written_at is not None]
                for weights, dates in zip(reads, dated, strict=False):
                    held = dates != NEVER
                    if held.any():
                        seen["slot_age"].append((segment.start.unsqueeze(1) - 1 - dates)[held].float().mean())
                        seen["read_unwritten"].append((weights * ~held).sum(1)[held.any(1)].mean())
                        hardly = weights.mean(0) < HARDLY / weights.shape[1]
                        seen["unread"].append(hardly[held.any(0)].float().mean())
                seen["change"] += [_moved(before[name].slots, bank.slots) for name, bank in banks(memory).items()]
    finally:
        model.train(was_training)
    several = [bank.slots.float().cpu().numpy() for bank in banks(memory).values() if bank.slots.shape[1] > 1]
    numbers = {f"memory/{name}": float(torch.stack(seen[name]).mean()) for name in TOLD if seen[name]}
    if several:
        numbers["memory/alike"] = sum(map(alike, several)) / len(several)
    return Glance(numbers, numbers.get("memory/alike"), numbers.get("memory/unread"))


def _share(part: Tensor, rest: Tensor) -> Tensor:
    """How long a vector is, over its length and that of another."""
    length, other = part.float().norm(dim=-1), rest.float().norm(dim=-1)
    return length / (length + other).clamp(min=1e-12)


def _moved(before: Tensor, after: Tensor) -> Tensor:
    """How far the slots that changed went, over their size; 0 where none did."""
    changed = (after != before).any(-1)
    return _share(after - before, before)[changed].mean() if changed.any() else changed.new_zeros((), dtype=torch.float)


def _load(experts: MixtureOfExperts, tokens: Tensor) -> Tensor:
    """The largest share of picks of an expert, times the number of experts: 1 is balanced."""
    picked = (experts.route(tokens) > 0).flatten(0, -2).float().mean(0)
    return picked.max() * experts.num_experts / experts.routed_per_token
