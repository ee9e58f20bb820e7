"""Where the norm of a sub-layer sits (before it or after the sum), and which norm it is."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

NORMS: dict[str, type[nn.LayerNorm] | type[nn.RMSNorm]] = {"layer": nn.LayerNorm, "rmsnorm": nn.RMSNorm}


class Residual(nn.Module):
    """Base of the two: `residual(x, f)` adds `f` to the stream `x`; `f` maps `[..., D]` to `[..., D]`."""

    def __init__(self, d_model: int, norm_type: str = "layer", eps: float = 1e-5) -> None:
        super().__init__()
        if norm_type not in NORMS:
            raise ValueError(f"norm_type must be one of {sorted(NORMS)}; found {norm_type!r}")
        self.norm = NORMS[norm_type](d_model, eps=eps)


class PostNorm(Residual):
    """norm(x + f(x)), as published."""

    def forward(self, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        out: Tensor = self.norm(x + f(x))
        return out


class PreNorm(Residual):
    """x + f(norm(x))."""

    def forward(self, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        return x + f(self.norm(x))
