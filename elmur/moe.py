"""Mixture of experts: shared experts see every token, of the routed ones the router picks a few per token."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from elmur.dropout import Dropout
from elmur.feedforward import init_linear, xavier_blocks
from elmur.kernels import gated, gated_experts, routed_experts

SORTING_SAVES = 2**23  # multiplications in each of three products that sorting tokens by expert has to save to pay


class MixtureOfExperts(nn.Module):
    """SwiGLU experts, shared and routed: y = sum_shared E_j(x) + sum_routed g_e(x) E_e(x).

    top_k is the *total* number of experts a token uses, as published: routed = max(1, top_k - n_shared_experts).
    The gates are the softmax over the picked experts' logits, so with one routed expert the gate is exactly 1.
    All experts are two matrix products: gates and ups side by side, downs stacked, the gate a factor on the hidden
    numbers. Routed experts are thus computed densely, which is cheapest while they are few, narrow, or have few tokens.
    Training on a CPU computes them for their own tokens alone where that saves more than it costs.
    """

    def __init__(
        self,
        d_model: int,
        dropout: float = 0.0,
        num_experts: int = 2,
        top_k: int = 2,
        n_shared_experts: int = 1,
        routed_d_ff: int = 32,
        shared_d_ff: int = 128,
        load_balancing_loss_coef: float = 0.01,
    ) -> None:
        super().__init__()
        self.routed_per_token = max(1, top_k - n_shared_experts)
        if num_experts < 1 or n_shared_experts < 0:
            raise ValueError(
                "num_experts must be 1 or more and n_shared_experts 0 or more; "
                f"found {num_experts} and {n_shared_experts}"
            )
        if self.routed_per_token > num_experts:
            raise ValueError(
                f"top_k={top_k} with n_shared_experts={n_shared_experts} asks for {self.routed_per_token} routed "
                f"experts per token, but num_experts={num_experts}; lower top_k or raise num_experts"
            )
        self.num_experts = num_experts
        self.routed_d_ff = routed_d_ff
        self.balance_coef = load_balancing_loss_coef
        widths = [shared_d_ff] * n_shared_experts + [routed_d_ff] * num_experts
        self.num_shared = n_shared_experts * shared_d_ff
        self.router = nn.Linear(d_model, num_experts, bias=False)
        self.gate_up = nn.Linear(d_model, 2 * sum(widths), bias=False)  # rows: all gates, then all ups
        self.down = nn.Linear(sum(widths), d_model, bias=False)
        self.dropout = Dropout(dropout)
        init_linear(self.router)
        xavier_blocks(self.gate_up.weight, widths * 2)
        with torch.no_grad():
            for columns in self.down.weight.split_with_sizes(widths, dim=1):
                columns.copy_(nn.init.xavier_uniform_(torch.empty_like(columns)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        gates = self.route(x)
        balance = self.balance_loss(gates) if self.training and self.balance_coef > 0 else None
        weights = gates.detach() if self.routed_per_token == 1 else gates  # a single gate is 1 or 0, a constant
        if self._sorting_pays(x):
            return self.dropout(self._sorted(x, weights)), balance
        hidden = gated_experts(self.gate_up(x), weights, self.num_shared, self.dropout.rate)
        return self.dropout(self.down(hidden)), balance

    def _sorting_pays(self, x: Tensor) -> bool:
        """Whether it saves enough, and may be done: a program of fixed shapes cannot sort by data, nor a CUDA graph."""
        if not torch.is_grad_enabled() or x.device.type != "cpu" or torch.compiler.is_compiling():
            return False
        idle = self.num_experts - self.routed_per_token
        return x.numel() * idle * self.routed_d_ff >= SORTING_SAVES

    def _sorted(self, x: Float[Tensor, "... D"], weights: Float[Tensor, "... E"]) -> Float[Tensor, "... D"]:
        """The same as `down(gated_experts(gate_up(x)))`, with each routed expert computed for its own tokens alone."""
        shared, rest = self.num_shared, self.num_experts * self.routed_d_ff
        of_shared, gate_up = torch.unflatten(self.gate_up.weight, 0, (2, -1)).split_with_sizes([shared, rest], dim=1)
        down_shared, down = self.down.weight.split_with_sizes([shared, rest], dim=1)
        args = self.routed_per_token, gate_up, down, self.dropout.rate
        out = routed_experts(x.flatten(0, -2), weights.flatten(0, -2), *args).view(x.shape)
        return out + gated(x @ of_shared.flatten(0, 1).T, self.dropout.rate) @ down_shared.T if shared else out

    def route(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... E"]:
        """The weight of every routed expert for every token: zero for those not picked, the others sum to 1."""
        logits = self.router(x).float() if x.dtype != torch.float64 else self.router(x)
        top, picked = logits.topk(self.routed_per_token, dim=-1)
        return torch.zeros_like(logits).scatter(-1, picked, top.softmax(dim=-1))

    def balance_loss(self, gates: Float[Tensor, "... E"]) -> Float[Tensor, ""]:
        """coef * E * sum_e f_e P_e, f_e the share of picks and P_e the share of gate weight that expert e received.

        As published: P uses the gates after renormalisation, not the full softmax of the Switch transformer.
        """
        gates = gates.flatten(0, -2).float()
        picks = gates.shape[0] * self.routed_per_token
        share_of_picks = (gates.detach() > 0).sum(0) / picks
        share_of_weight = gates.sum(0) / picks
        return self.balance_coef * self.num_experts * (share_of_picks * share_of_weight).sum()
