"""AdamW with weight decay where it belongs, and learning rates as functions of progress."""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

# Of a group of parameters: what is no value of the settings, and how the update is carried out.
KEPT = ("params", "lr", "initial_lr", "fused", "foreach", "capturable", "differentiable", "maximize", "amsgrad")


def adamw(
    model: nn.Module,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 1e-4,
    fused: bool = True,
) -> torch.optim.AdamW:
    """Fused AdamW over a model's parameters; those of two or more dimensions decay, but no table of embeddings."""
    if len(betas) != 2:
        raise ValueError(f"betas: expected two numbers, found {list(betas)}")
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decaying = [p for p in parameters if p.ndim >= 2 and id(p) not in tables]
    chosen = {id(p) for p in decaying}
    groups = [
        {"params": decaying, "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) not in chosen], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=(betas[0], betas[1]), fused=fused)


def follow(
    optimizer: torch.optim.Optimizer, asked: torch.optim.Optimizer, scheduler: torch.optim.lr_scheduler.LambdaLR
) -> None:
    """Give a restored optimizer the values of one that was made as the settings ask, its rate as the schedule has it.

    Its moments stay. Where the settings are those that the checkpoint was written with, nothing changes.
    """
    for group, wanted in zip(optimizer.param_groups, asked.param_groups, strict=True):
        group.update({key: value for key, value in wanted.items() if key not in KEPT})
    scheduler.base_lrs = [group["lr"] for group in asked.param_groups]
    factors = [function(scheduler.last_epoch) for function in scheduler.lr_lambdas]
    for group, rate, factor in zip(optimizer.param_groups, scheduler.base_lrs, factors, strict=True):
        group["initial_lr"], group["lr"] = rate, rate * factor


@runtime_checkable
class Schedule(Protocol):
    """The factor on the learning rate of the next update."""

    def __call__(self, updates: int, steps: int | Tensor) -> float:
        """updates: optimizer updates made so far; steps: environment steps whose loss they were made for.

        In training `steps` is a tensor of one number, on a GPU where the model is: who needs the number waits for it.
        """


class Constant:
    """The full learning rate throughout."""

    def __call__(self, updates: int, steps: int | Tensor) -> float:
        return 1.0


class WarmupCosine:
    """Linear over a share `warmup` of `total_updates`, then half a cosine to `floor`, where it stays."""

    def __init__(self, total_updates: int, warmup: float = 0.1, floor: float = 0.0) -> None:
        if not 0.0 <= warmup <= 1.0 or total_updates < 1:
            raise ValueError(
                f"expected a warmup from 0 to 1 and total_updates of 1 or more; found warmup={warmup}, "
                f"total_updates={total_updates}"
            )
        self.warmup, self.total, self.floor = round(warmup * total_updates), total_updates, floor

    def __call__(self, updates: int, steps: int | Tensor) -> float:
        if updates < self.warmup:
            return (updates + 1) / self.warmup
        progress = min(1.0, (updates - self.warmup) / max(1, self.total - self.warmup))
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * progress))
