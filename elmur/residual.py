"""Where the norm of a sub-layer sits (before it or after the sum), and which norm it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

NORMS: dict[str, type[nn.LayerNorm] | type[nn.RMSNorm]] = {"layer": nn.LayerNorm, "rmsnorm": nn.RMSNorm}


class Residual(nn.Module):
    """Base: `residual(x, f)` adds what `f` makes of the stream to the stream `x`; `f` maps `[..., D]` to `[..., D]`.

    Where `f` gives a pair, as a feed-forward does with its balance loss, so does the residual: the new stream, and
    what `f` gave beside it.
    """

    def __init__(self, d_model: int, norm_type: str = "layer", eps: float = 1e-5) -> None:
        super().__init__()
        if norm_type not in NORMS:
            raise ValueError(f"norm_type must be one of {sorted(NORMS)}; found {norm_type!r}")
        self.norm = NORMS[norm_type](d_model, eps=eps)

    def source(self, x: Tensor) -> Tensor:
        """The stream as `f` sees it."""
        return x

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        """The stream after `y` came out of `f`."""
        raise NotImplementedError

    def forward(self, x: Tensor, f: Callable[[Tensor], Any]) -> Any:
        made = f(self.source(x))
        if isinstance(made, tuple):
            y, beside = made
            return self.join(x, y), beside
        return self.join(x, made)


class PostNorm(Residual):
    """norm(x + f(x)), as published."""

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.norm(x + y)
        return out


class PreNorm(Residual):
    """x + f(norm(x))."""

    def source(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x)
        return out

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y
