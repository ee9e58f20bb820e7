"""The attention weights of an ELMUR that acts, read and write: by hooks that are there only as long as asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from elmur.attention import Beside, CrossAttention, KeyValueCache, SelfAttention, joined, split_heads
from elmur.layer import ELMURLayer, Mean
from elmur.positional import Position

Tell = Callable[..., object]  # what, layer=, weights=


@contextmanager
def watched(model: nn.Module, tell: Tell) -> Iterator[None]:
    """Inside, every read and write of a layer calls `tell("read" or "write", layer, weights [B, H, Q, K])`.

    Where slots are read in the tokens' own attention, weights are those on slots, and add up to less than 1.
    """
    with ExitStack() as hooks:
        for number, layer in enumerate(module for module in model.modules() if isinstance(module, ELMURLayer)):
            told = partial(tell, layer=number)
            if layer.reader is not None or layer.joint:
                part = layer.reader or layer.attention
                hooks.enter_context(part.register_forward_hook(_hook(partial(told, "read"))))
            if layer.write_rule is not None:
                hooks.enter_context(layer.writer.register_forward_hook(_hook(partial(told, "write"))))
        yield


def _hook(tell: Callable[..., object]) -> Callable[..., None]:
    def note(part: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        with torch.no_grad():
            if isinstance(part, CrossAttention):
                x, (keys, _), bias, *rest = inputs
                tell(weights=weights(part, x, keys, bias, *rest))
            elif isinstance(part, SelfAttention):
                if inputs[-1] is not None:  # the slots are seen beside the tokens
                    tell(weights=joint_weights(part, *inputs))
            elif isinstance(part, Mean):
                tell(weights=part.shares(*inputs).expand(len(inputs[0]), 1, -1, -1))

    return note


def joint_weights(
    attention: SelfAttention,
    x: Tensor,
    position: Position,
    projected: Tensor | None,
    first: int,
    cache: KeyValueCache | None,
    beside: Beside,
) -> Tensor:
    """The part on slots `[B, H, Q, M]` of a softmax over slots and tokens; what is missing to 1 lies on tokens."""
    raw, k, _ = (split_heads(part, attention.n_head) for part in attention.qkv(x).chunk(3, dim=-1))
    q, k = position.rotate(raw, k, first)
    if cache is not None:  # which holds these tokens by now
        k = cache.keys[:, :, : first + x.shape[1]]
    keys, _, bias = joined(beside, q, k, k, position.score_bias(raw, k, projected, first))
    scores = q @ keys.transpose(2, 3) * q.shape[-1] ** -0.5
    found: Tensor = (scores if bias is None else scores + bias).softmax(dim=-1)[..., : beside[0][0].shape[2]]
    return found


def weights(
    attention: CrossAttention, x: Tensor, keys: Tensor, bias: Tensor | None, sees_any: Tensor | None = None
) -> Tensor:
    """softmax(q k / sqrt(d) + bias) `[B, H, Q, K]`, as `attend` computes it, less dropout; 0 where nothing is seen."""
    q = split_heads(attention.query(x), attention.n_head)
    scores = q @ keys.transpose(2, 3) * q.shape[-1] ** -0.5
    found = (scores if bias is None else scores + bias).softmax(dim=-1)
    return found if sees_any is None else found * sees_any.view(-1, 1, 1, 1)
