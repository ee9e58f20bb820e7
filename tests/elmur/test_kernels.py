"""Every kernel against its plain form: values, gradients, and the same random numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from elmur import kernels


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_dropout(x: Tensor, p: float) -> Tensor:
    """Number i is dropped where the i-th 16 bits that were drawn, as a signed number, are below p 2^16 - 2^15."""
    drop, words = round(p * 2**16), (x.numel() + 3) // 4
    if drop == 0:
        return x
    drawn = [int(word) for word in torch.empty(words, dtype=torch.int64).random_(-(2**63), None)]
    bits = [(word >> 16 * part) & 0xFFFF for word in drawn for part in range(4)][: x.numel()]
    signed = torch.tensor([value - 2**16 if value >= 2**15 else value for value in bits]).view(x.shape)
    return torch.where(signed < drop - 2**15, 0.0, x / (1 - drop / 2**16))


def plain_gated(gate_up: Tensor, p: float) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return plain_dropout(gate * torch.sigmoid(gate) * up, p)


def plain_experts(gate_up: Tensor, weights: Tensor, num_shared: int, p: float) -> Tensor:
    hidden = plain_gated(gate_up, p)
    width = (hidden.shape[-1] - num_shared) // weights.shape[-1]
    return hidden * torch.cat(
        [torch.ones(*hidden.shape[:-1], num_shared).to(hidden), weights.repeat_interleave(width, -1)], -1
    )


def plain_routed(x: Tensor, weights: Tensor, picks: int, gate_up: Tensor, down: Tensor, p: float) -> Tensor:
    """A loop over experts and their tokens, the order in which numbers are dropped."""
    width, picked = down.shape[1] // weights.shape[1], weights > 0
    factor = iter(plain_dropout(torch.ones(int(picked.sum()), width).to(x), p))
    out = [torch.zeros_like(token) for token in x]
    for e in range(weights.shape[1]):
        block = slice(e * width, (e + 1) * width)
        for n in picked[:, e].nonzero().flatten().tolist():
            gate, up = gate_up[0, block] @ x[n], gate_up[1, block] @ x[n]
            out[n] = out[n] + weights[n, e] * (down[:, block] @ (gate * torch.sigmoid(gate) * up * next(factor)))
    return torch.stack(out)


def plain_shift(scores: Tensor) -> Tensor:
    size = scores.shape[-1]
    index = torch.tensor([[(size - 1 - i + j) % size for j in range(size)] for i in range(size)])
    return scores.gather(3, index.expand_as(scores))


ROWS = torch.tensor([[[0, 4, 9], [2, 5, 8]]])
GATES = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.3, 0.7]]], dtype=torch.float64)
PAIRS = torch.tensor([[0.3, 0.7, 0.0], [0.0, 0.6, 0.4], [0.0, 0.5, 0.5]], dtype=torch.float64)
SINGLES = torch.eye(3, dtype=torch.float64)[[0, 2, 2]]  # nobody picks the one in the middle
ENTRY = torch.randint(5, (2, 3, 4), generator=torch.Generator().manual_seed(3))
# name: the plain form, and the arguments of some calls; tensors of real numbers are differentiated by.
TWINS: dict[str, tuple[Callable[..., Tensor], list[tuple[Any, ...]]]] = {
    "dropped": (plain_dropout, [(rand(2, 7), p) for p in (0.0, 0.3, 0.9)]),
    "dropout_factor": (lambda x, p: plain_dropout(torch.ones_like(x), p), [(rand(3, 5), 0.4)]),
    "gated": (plain_gated, [(rand(2, 3, 10), p) for p in (0.0, 0.4)]),
    "gated_experts": (plain_experts, [(rand(1, 3, 14), GATES, shared, p) for shared in (3, 1) for p in (0.0, 0.4)]),
    "routed_experts": (
        plain_routed,
        [
            (rand(3, 5), weights, picks, rand(2, 6, 5, seed=1), rand(5, 6, seed=2), p)
            for weights, picks in ((PAIRS, 2), (SINGLES, 1))
            for p in (0.0, 0.4)
        ],
    ),
    "lookup_by_head": (lambda table, entry: F.embedding(entry, table).permute(0, 3, 1, 2), [(rand(5, 3), ENTRY)]),
    "embedding_sum": (
        lambda rows, table: F.embedding(rows, table).sum(-2),
        [(ROWS, rand(10, 4)), (ROWS[..., :1], rand(10, 4)), (ROWS, rand(kernels.LARGEST_PRODUCT + 1, 2))],
    ),
    "times_codes": (
        lambda q, codes: q @ codes.transpose(2, 3),
        [(rand(2, 3, 4, 5), rand(lanes, 3, 6, 5, seed=1)) for lanes in (1, 2)],
    ),
    "relative_shift": (plain_shift, [(rand(2, 3, 4, 4),)]),
}
CASES = [(name, number) for name, (_, calls) in TWINS.items() for number in range(len(calls))]


def test_every_kernel_has_a_twin() -> None:
    found = inspect.getmembers(kernels, inspect.isfunction)
    assert TWINS.keys() == {n for n, f in found if f.__module__ == kernels.__name__ and not n.startswith("_")}


def looked_at(name: str, out: Tensor) -> Tensor:
    """The part of what comes out that is promised: above the diagonal a shift holds garbage."""
    return out.tril() if name == "relative_shift" else out


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(("name", "number"), CASES)
def test_value_and_gradient_are_those_of_the_plain_form(name: str, number: int, trained: bool) -> None:
    plain, arguments = TWINS[name][0], TWINS[name][1][number]
    results = []
    for function in (getattr(kernels, name), plain):
        given = [
            a.clone().requires_grad_(trained and a.is_floating_point()) if isinstance(a, Tensor) else a
            for a in arguments
        ]
        before = [a.detach().clone() if isinstance(a, Tensor) else a for a in given]
        torch.manual_seed(5)
        out = looked_at(name, function(*given))
        inputs = [a for a in given if isinstance(a, Tensor) and a.requires_grad]
        weighted = (out * rand(*out.shape, seed=9)).sum()
        grads = torch.autograd.grad(weighted, inputs) if weighted.requires_grad else ()
        results.append([out.detach(), *grads])
        assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True) if isinstance(a, Tensor)), (
            "inputs stay"
        )
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-13)


def test_constant_weights_join_the_dropout() -> None:
    """Gates that nothing is learned from, as a single one is: the gradient of the rest is that of the plain form."""
    gate_up, results = rand(1, 3, 14), []
    for function in (kernels.gated_experts, plain_experts):
        x = gate_up.clone().requires_grad_()
        torch.manual_seed(5)
        out = function(x, GATES, 3, 0.4)
        (grad,) = torch.autograd.grad((out * rand(*out.shape, seed=9)).sum(), x)
        results.append((out.detach(), grad))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-13)


def test_a_gradient_in_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "BLOCK", 15)  # three rows of five
    gate_up = rand(7, 10).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: kernels.gated(x, 0.0), (gate_up,))
