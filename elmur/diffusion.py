"""Denoising diffusion over sequences of actions: the noise schedule, two samplers, and a one-dimensional U-Net.

Ho, Jain, Abbeel 2020 (DDPM), Song, Meng, Ermon 2021 (DDIM), Nichol and Dhariwal 2021 (the squared cosine), Chi et al.
2023 (Diffusion Policy: the U-Net, and that actions are what is denoised).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

LARGEST_BETA = 0.999
SMALLEST_VARIANCE = 1e-20
LAST_GROUPS = 8  # of the last block, whatever the others have: so is the published network

Denoiser = Callable[[Tensor, Tensor], Tensor]
Noise = Callable[[Tensor], Tensor]


class NoiseSchedule(nn.Module):
    """How much of x0 is left after each of `num_levels` steps of noise: the squared cosine, in float32 as published.

    betas, alphas_cumprod: `[levels]`. Samples are kept within -1 .. 1.
    """

    def __init__(self, num_levels: int) -> None:
        super().__init__()
        if num_levels < 1:
            raise ValueError(f"num_levels must be 1 or more; found {num_levels}")
        left = [math.cos((i / num_levels + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(num_levels + 1)]
        betas = torch.tensor([min(1 - after / before, LARGEST_BETA) for before, after in pairwise(left)])
        self.num_levels = num_levels
        self.betas = nn.Buffer(betas, persistent=False)
        self.alphas_cumprod = nn.Buffer(torch.cumprod(1 - betas, dim=0), persistent=False)

    def noisy(self, x0: Float[Tensor, "N H A"], noise: Tensor, level: Int[Tensor, " N"]) -> Float[Tensor, "N H A"]:
        """x0 with the noise of a level: sqrt(abar) x0 + sqrt(1 - abar) noise."""
        left = self.alphas_cumprod[level].view(-1, 1, 1)
        return left.sqrt() * x0 + (1 - left).sqrt() * noise

    def clean(self, x: Tensor, predicted_noise: Tensor, level: int) -> Tensor:
        """The x0 that the predicted noise stands for, within -1 .. 1."""
        left = self.alphas_cumprod[level]
        return ((x - (1 - left).sqrt() * predicted_noise) / left.sqrt()).clamp(-1, 1)

    def ancestral(self, x: Tensor, predicted_noise: Tensor, level: int, noise: Tensor) -> Tensor:
        """One step of DDPM, from `level` to the one below; `noise` is not looked at on the way to level -1."""
        left = self.alphas_cumprod[level]
        before = self.alphas_cumprod[level - 1] if level else torch.ones_like(left)
        alpha = left / before
        beta = 1 - alpha  # not `betas`: rounded like 1 - left, so that the last step gives x0 itself
        x0 = self.clean(x, predicted_noise, level)
        mean = before.sqrt() * beta / (1 - left) * x0 + alpha.sqrt() * (1 - before) / (1 - left) * x
        if not level:
            return mean
        variance = (beta * (1 - before) / (1 - left)).clamp(min=SMALLEST_VARIANCE)
        return mean + variance.sqrt() * noise

    def implicit(self, x: Tensor, predicted_noise: Tensor, level: int, next_level: int) -> Tensor:
        """One step of DDIM without noise, from `level` to `next_level` (-1: to x0 itself)."""
        before = self.alphas_cumprod[next_level] if next_level >= 0 else self.alphas_cumprod.new_ones(())
        return before.sqrt() * self.clean(x, predicted_noise, level) + (1 - before).sqrt() * predicted_noise

    def levels(self, num_steps: int) -> list[int]:
        """The levels that a sampler of so many steps visits, evenly apart, from the noisiest to 0 or near it."""
        if not 1 <= num_steps <= self.num_levels:
            raise ValueError(f"sampling steps must be from 1 to {self.num_levels}; found {num_steps}")
        return [self.num_levels - 1 - i * self.num_levels // num_steps for i in range(num_steps)]

    def sample(
        self, denoiser: Denoiser, x: Float[Tensor, "N H A"], levels: Sequence[int], normal: Noise
    ) -> Float[Tensor, "N H A"]:
        """x0 from pure noise `x`: DDPM where every level is visited, DDIM over a part of them.

        denoiser: (x, level `[N]`) -> predicted noise. normal: numbers from N(0, 1) like a tensor.
        """
        for level, following in pairwise([*levels, -1]):
            predicted = denoiser(x, torch.full((x.shape[0],), level, device=x.device))
            if len(levels) == self.num_levels:
                noise = normal(x) if level else x
                x = self.ancestral(x, predicted, level, noise)
            else:
                x = self.implicit(x, predicted, level, following)
        return x


class LevelEmbedding(nn.Module):
    """Sines and cosines of a noise level: `[N] -> [N, D]`."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        half = d_model // 2
        self.rate = nn.Buffer(torch.exp(torch.arange(half) * -(math.log(10000) / (half - 1))), persistent=False)

    def forward(self, level: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
        angle = level.unsqueeze(-1) * self.rate
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


class ConvBlock(nn.Module):
    """Convolution along time, group norm, Mish."""

    def __init__(self, old: int, new: int, kernel_size: int, n_groups: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv1d(old, new, kernel_size, padding=kernel_size // 2), nn.GroupNorm(n_groups, new), nn.Mish()
        )

    def forward(self, x: Float[Tensor, "N C H"]) -> Float[Tensor, "N K H"]:
        return self.block(x)


class ConditionalBlock(nn.Module):
    """Two convolutions with a residual; the condition scales and shifts between them (FiLM)."""

    def __init__(self, old: int, new: int, condition: int, kernel_size: int, n_groups: int) -> None:
        super().__init__()
        sizes = [(old, new), (new, new)]
        self.blocks = nn.ModuleList(ConvBlock(a, b, kernel_size, n_groups) for a, b in sizes)
        self.cond_encoder = nn.Sequential(nn.Mish(), nn.Linear(condition, 2 * new))
        self.residual_conv = nn.Conv1d(old, new, 1) if old != new else nn.Identity()

    def forward(self, x: Float[Tensor, "N C H"], condition: Float[Tensor, "N F"]) -> Float[Tensor, "N K H"]:
        scale, shift = self.cond_encoder(condition).unsqueeze(-1).chunk(2, dim=1)
        return self.blocks[1](scale * self.blocks[0](x) + shift) + self.residual_conv(x)


class Resampled(nn.Module):
    """Half as many steps, or twice as many."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Float[Tensor, "N C H"]) -> Float[Tensor, "N C K"]:
        return self.conv(x)


class ConditionalUnet1d(nn.Module):
    """Predicts the noise in a sequence of actions: (x `[N, H, A]`, level `[N]`, condition `[N, F]`) -> `[N, H, A]`.

    As published in Diffusion Policy (Chi et al. 2023), with its names of parameters. down_dims: channels of each
    level; H is a multiple of 2 ** (levels - 1), and every width a multiple of `n_groups`.
    """

    def __init__(
        self,
        input_dim: int,
        global_cond_dim: int,
        diffusion_step_embed_dim: int = 32,
        down_dims: Sequence[int] = (16, 32),
        kernel_size: int = 5,
        n_groups: int = 8,
    ) -> None:
        super().__init__()
        if not down_dims or any(width % n_groups for width in down_dims) or down_dims[0] % LAST_GROUPS:
            raise ValueError(
                f"down_dims must be multiples of n_groups={n_groups}, the first of {LAST_GROUPS} too; found "
                f"{list(down_dims)}"
            )
        if diffusion_step_embed_dim < 4 or diffusion_step_embed_dim % 2:
            raise ValueError(f"diffusion_step_embed_dim must be even and 4 or more; found {diffusion_step_embed_dim}")
        step = diffusion_step_embed_dim
        self.diffusion_step_encoder = nn.Sequential(
            LevelEmbedding(step), nn.Linear(step, 4 * step), nn.Mish(), nn.Linear(4 * step, step)
        )

        def block(old: int, new: int) -> ConditionalBlock:
            return ConditionalBlock(old, new, step + global_cond_dim, kernel_size, n_groups)

        pairs = list(pairwise([input_dim, *down_dims]))
        self.down_modules = nn.ModuleList(
            nn.ModuleList(
                [
                    block(old, new),
                    block(new, new),
                    Resampled(nn.Conv1d(new, new, 3, 2, 1)) if number < len(pairs) else nn.Identity(),
                ]
            )
            for number, (old, new) in enumerate(pairs, start=1)
        )
        last = down_dims[-1]
        self.mid_modules = nn.ModuleList([block(last, last), block(last, last)])
        self.up_modules = nn.ModuleList(
            nn.ModuleList([block(2 * new, old), block(old, old), Resampled(nn.ConvTranspose1d(old, old, 4, 2, 1))])
            for old, new in reversed(pairs[1:])
        )
        self.final_conv = nn.Sequential(
            ConvBlock(down_dims[0], down_dims[0], kernel_size, LAST_GROUPS), nn.Conv1d(down_dims[0], input_dim, 1)
        )
        self.multiple = 2 ** (len(pairs) - 1)

    def forward(
        self, x: Float[Tensor, "N H A"], level: Int[Tensor, " N"], condition: Float[Tensor, "N F"]
    ) -> Float[Tensor, "N H A"]:
        told = torch.cat([self.diffusion_step_encoder(level), condition], dim=-1)
        hidden, kept = x.transpose(1, 2), []
        for level_down in self.down_modules:
            first, second, resample = level_down.children()
            hidden = second(first(hidden, told), told)
            kept.append(hidden)
            hidden = resample(hidden)
        for middle in self.mid_modules:
            hidden = middle(hidden, told)
        for level_up in self.up_modules:
            first, second, resample = level_up.children()
            hidden = second(first(torch.cat([hidden, kept.pop()], dim=1), told), told)
            hidden = resample(hidden)
        out: Tensor = self.final_conv(hidden)
        return out.transpose(1, 2)
