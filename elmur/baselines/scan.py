"""Linear recurrences over time: `s_t = a_t * s_{t-1} + b_t`, number by number."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Inexact
from torch import Tensor
from torch.autograd.function import once_differentiable

SHORT = 64  # steps up to which one after the other is fastest


def scan(
    decay: Inexact[Tensor, "B T ..."], update: Inexact[Tensor, "B T ..."], initial: Inexact[Tensor, "B ..."]
) -> Inexact[Tensor, "B T ..."]:
    """Every state `s_1 ... s_T` of `s_t = decay_t * s_{t-1} + update_t` with `s_0 = initial`; real or complex.

    Nothing is ever divided by a decay, so that any of them may be as small as it likes. Beyond `SHORT` steps, blocks of
    about sqrt(T) steps go side by side: 3 sqrt(T) operations follow one another rather than T.
    """
    if decay.shape[1] == 1:
        return decay * initial.unsqueeze(1) + update
    return _Scan.apply(decay, update, initial)  # type: ignore[no-untyped-call]


class _Scan(torch.autograd.Function):
    """`scan` with its gradient, which is a scan from the end: d_t = g_t + conj(a_{t+1}) d_{t+1}."""

    @staticmethod
    def forward(ctx: Any, decay: Tensor, update: Tensor, initial: Tensor) -> Tensor:
        states = _scan(decay, update, initial)
        ctx.save_for_backward(decay, initial, states)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        decay, initial, states = ctx.saved_tensors
        of_states = _scan_back(decay, grad)
        of_decay = None
        if ctx.needs_input_grad[0]:
            of_decay = torch.empty_like(of_states)
            torch.mul(of_states[:, 0], initial.conj(), out=of_decay[:, 0])
            torch.mul(of_states[:, 1:], states[:, :-1].conj(), out=of_decay[:, 1:])
        return of_decay, of_states, decay[:, 0].conj() * of_states[:, 0]


def _scan(decay: Tensor, update: Tensor, initial: Tensor) -> Tensor:
    steps = decay.shape[1]
    if steps <= SHORT:
        return _one_by_one(decay, update, initial)
    block = math.isqrt(steps - 1) + 1
    missing = -steps % block
    if missing:
        decay, update = (
            torch.cat([part, part.new_zeros(part.shape[0], missing, *part.shape[2:])], dim=1)
            for part in (decay, update)
        )
    # [B * blocks, block, ...]: within a block, what has come in since its start, and what is left of its start.
    decays, updates = (torch.unflatten(part, 1, (-1, block)) for part in (decay, update))
    blocks = decays.shape[1]
    own = _one_by_one(decays.flatten(0, 1), updates.flatten(0, 1), torch.zeros_like(updates[:, :, 0]).flatten(0, 1))
    own = torch.unflatten(own, 0, (-1, blocks))
    left = decays.cumprod(dim=2)
    entering = torch.cat([initial.unsqueeze(1), _one_by_one(left[:, :-1, -1], own[:, :-1, -1], initial)], dim=1)
    return (own + left * entering.unsqueeze(2)).flatten(1, 2)[:, :steps]


def _scan_back(decay: Tensor, grad: Tensor) -> Tensor:
    """d_t = grad_t + conj(decay_{t+1}) d_{t+1}, with nothing behind the last."""
    if grad.shape[1] > SHORT:
        after = torch.cat([torch.zeros_like(decay[:, :1]), decay[:, 1:].flip(1).conj().resolve_conj()], dim=1)
        return _scan(after, grad.flip(1), torch.zeros_like(grad[:, 0])).flip(1)
    found, steps = torch.empty_like(grad), grad.shape[1]
    found[:, -1] = grad[:, -1]
    for t in reversed(range(steps - 1)):
        torch.addcmul(grad[:, t], decay[:, t + 1].conj(), found[:, t + 1], out=found[:, t])
    return found


def _one_by_one(decay: Tensor, update: Tensor, state: Tensor) -> Tensor:
    states = torch.empty_like(update)
    for t in range(update.shape[1]):
        state = torch.addcmul(update[:, t], decay[:, t], state, out=states[:, t])
    return states
