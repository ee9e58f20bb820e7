"""The attention weights of an ELMUR that acts, read and write: by hooks that are there only as long as asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from elmur.attention import CrossAttention, split_heads
from elmur.layer import ELMURLayer

Tell = Callable[[str, int, Tensor], object]


@contextmanager
def watched(model: nn.Module, tell: Tell) -> Iterator[None]:
    """Inside, every read and write of a layer calls `tell("read" or "write", layer, weights [B, H, Q, K])`."""
    with ExitStack() as hooks:
        for number, layer in enumerate(module for module in model.modules() if isinstance(module, ELMURLayer)):
            if layer.reader is not None:
                hooks.enter_context(layer.reader.register_forward_hook(_hook("read", number, tell)))
            if layer.write_rule is not None:
                hooks.enter_context(layer.writer.register_forward_hook(_hook("write", number, tell)))
        yield


def _hook(what: str, layer: int, tell: Tell) -> Callable[..., None]:
    def note(attention: CrossAttention, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, (keys, _), bias, *rest = inputs
        with torch.no_grad():
            tell(what, layer, weights(attention, x, keys, bias, *rest))

    return note


def weights(
    attention: CrossAttention, x: Tensor, keys: Tensor, bias: Tensor | None, sees_any: Tensor | None = None
) -> Tensor:
    """softmax(q k / sqrt(d) + bias) `[B, H, Q, K]`, as `attend` computes it, less dropout; 0 where nothing is seen."""
    q = split_heads(attention.query(x), attention.n_head)
    scores = q @ keys.transpose(2, 3) * q.shape[-1] ** -0.5
    found = (scores if bias is None else scores + bias).softmax(dim=-1)
    return found if sees_any is None else found * sees_any.view(-1, 1, 1, 1)
