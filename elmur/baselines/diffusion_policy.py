"""Diffusion Policy: the next actions are denoised, given the last observations; no memory.

Chi et al. 2023, "Diffusion Policy: Visuomotor Policy Learning via Action Diffusion", with the convolutional denoiser.
Left out: it plans anew at every step and executes the first action of each plan; there is no average of the weights.
The plan begins with the present action (published: with the one before it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from elmur.baselines.recurrent import Stream
from elmur.batch import SegmentBatch
from elmur.diffusion import ConditionalUnet1d, Noise, NoiseSchedule
from elmur.draws import Draws
from elmur.encoders import ObservationEncoder
from elmur.heads import Head, exact, middle_and_reach
from elmur.sequence_model import Output, SequenceModel
from elmur.spec import Discrete, Image, TaskSpec, Vector

SCORE_STEPS = 4  # of the sampler, for the score: what is looked at in training need not be exact


@dataclass
class Past:
    """The encodings of the observations before the segment, `[B, obs_horizon - 1, D]`; empty `[B]`: there are none."""

    encoded: Tensor
    empty: Bool[Tensor, " B"]


class DiffusionHead(Head):
    """Draws plans of `pred_horizon` actions by denoising; a prediction is the condition, `[B, T, obs_horizon * D]`.

    Loss: DDPM's squared error of the predicted noise at one random level, mean over the plan's known actions. Actions
    behind the segment's end or masked out are not known: there the denoiser sees noise alone, and nothing is asked.
    Of a segment, in all its lanes, so many plans as `max_plans` are drawn and stand for all.
    """

    generative = True

    def __init__(
        self, denoiser: ConditionalUnet1d, action: Vector, width: int, pred_horizon: int, levels: int, max_plans: int
    ) -> None:
        super().__init__(width)
        self.denoiser, self.pred_horizon, self.max_plans = denoiser, pred_horizon, max_plans
        self.schedule = NoiseSchedule(levels)
        self.use_sampler(levels)
        self.middle, self.reach = middle_and_reach(action)

    def use_sampler(self, steps: int) -> None:
        """Act with so many passes of the denoiser: as many as there are levels is DDPM, fewer DDIM."""
        self.levels, self.score_levels = self.schedule.levels(steps), self.schedule.levels(min(steps, SCORE_STEPS))

    def forward(self, x: Float[Tensor, "B T F"]) -> Float[Tensor, "B T F"]:
        return x

    def draw(self, condition: Float[Tensor, "N F"], levels: Sequence[int], normal: Noise) -> Float[Tensor, "N H A"]:
        """Plans, in the action's own units; `normal` gives numbers from N(0, 1) like a tensor."""
        noise = normal(exact(condition).new_empty(len(condition), self.pred_horizon, len(self.reach)))
        plan = self.schedule.sample(lambda x, level: self.denoiser(x, level, condition), noise, levels, normal)
        return self.middle + self.reach * plan

    def act(self, prediction: Float[Tensor, "B F"], draws: Draws | None) -> Float[Tensor, "B A"]:
        """The first action of a plan that is drawn; without `draws` its noise is the global generator's."""
        first: Tensor = self.draw(prediction, self.levels, draws.normal if draws else torch.randn_like)[:, 0]
        return first.float()

    def loss(
        self, prediction: Tensor, action: Float[Tensor, "B T A"], mask: Bool[Tensor, "B T"], label_smoothing: float
    ) -> Float[Tensor, ""]:
        """The loss of a plan that begins at each masked step, summed over these steps; noise from the global state."""
        scaled = ((action - self.middle) / self.reach).to(exact(prediction).dtype)
        plan, known = (ahead(part, self.pred_horizon) for part in (scaled, mask.unsqueeze(-1)))
        picked = mask.flatten().nonzero().squeeze(1)
        count = len(picked)
        picked = picked[torch.randperm(count, device=picked.device)[: self.max_plans]]
        plan, known = plan.flatten(0, 1)[picked], known.flatten(0, 1)[picked].squeeze(-1)
        condition = prediction.flatten(0, 1)[picked]
        noise, level = torch.randn_like(plan), torch.randint(self.schedule.num_levels, (len(plan),), device=plan.device)
        x = torch.where(known.unsqueeze(-1), self.schedule.noisy(plan, noise, level), noise)
        error: Tensor = (self.denoiser(x, level, condition) - noise).float().square().mean(dim=-1)
        each = (error * known).sum(dim=1) / known.sum(dim=1)
        return each.sum() * (count / max(1, len(picked)))

    def score(self, prediction: Tensor, action: Tensor, mask: Tensor) -> Float[Tensor, ""]:
        """Minus the absolute error of a drawn action, as ContinuousHead has it, from the segment's first step alone."""
        generator = torch.Generator(prediction.device).manual_seed(0)

        def normal(like: Tensor) -> Tensor:
            # Drawn in float32 whatever the model's type, so that the same seed draws the same plan.
            return torch.randn(like.shape, generator=generator, device=like.device).to(like.dtype)

        drawn = self.draw(prediction[:, 0], self.score_levels, normal)[:, 0]
        looked = mask[:, 0]
        error = (drawn - action[:, 0]).abs().mean(dim=-1) * looked
        return -error.sum() / looked.sum().clamp(min=1) * mask.sum()


def ahead(values: Tensor, horizon: int) -> Tensor:
    """At every step the values of it and of those that follow: `[B, T, C] -> [B, T, H, C]`, zero behind the end."""
    padded = torch.cat([values, values.new_zeros(values.shape[0], horizon - 1, values.shape[2])], dim=1)
    return padded.unfold(1, horizon, 1).transpose(2, 3)


class PlainConv(nn.Module):
    """The published encoder of images, all cameras as channels: uint8 `[B, T, C, h, w] -> [B, T, D]`.

    Five convolutions, the largest value of every map, a linear map.
    """

    def __init__(self, fields: Mapping[str, Image], d_model: int) -> None:
        super().__init__()
        widths = [sum(field.channels for field in fields.values()), 16, 32, 64, 128]
        layers: list[nn.Module] = []
        for old, new in pairwise(widths):
            layers += [nn.Conv2d(old, new, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.cnn = nn.Sequential(*layers, nn.Conv2d(128, 128, 1), nn.ReLU())
        self.fc = nn.Sequential(nn.Linear(128, d_model), nn.ReLU())

    def forward(self, images: list[UInt8[Tensor, "B T _ h w"]]) -> Float[Tensor, "B T D"]:
        pixels = torch.cat(images, dim=-3)
        scaled = pixels.flatten(0, 1).to(next(self.parameters()).dtype) / 255
        out: Tensor = self.fc(self.cnn(scaled).amax(dim=(2, 3)))
        return torch.unflatten(out, 0, pixels.shape[:2])


class DiffusionPolicy(SequenceModel):
    """The last `obs_horizon` observations, encoded, are the condition on which plans of actions are denoised.

    For bounded continuous actions. State: the encodings of the last `obs_horizon - 1` observations; at the beginning
    of an episode the first one stands in for those there are not, as published.
    num_levels: steps of noise. sampling_steps: passes of the denoiser per action, num_levels for DDPM, fewer for DDIM.
    max_plans: of a segment in all its lanes, that the loss is taken of.
    The other sizes as `elmur.diffusion.ConditionalUnet1d` has them.
    """

    has_segments = False

    def __init__(
        self,
        spec: TaskSpec,
        d_model: int = 64,
        obs_horizon: int = 2,
        pred_horizon: int = 8,
        num_levels: int = 100,
        sampling_steps: int = 10,
        down_dims: Sequence[int] = (16, 32),
        diffusion_step_embed_dim: int = 32,
        n_groups: int = 8,
        max_plans: int = 128,
    ) -> None:
        super().__init__()
        action = spec.action
        if isinstance(action, Discrete):
            raise ValueError(
                f"diffusion_policy draws continuous actions, task {spec.name!r} has {action.sizes[0]} to choose from; "
                "every other model can: model=elmur, transformer, gru, ..."
            )
        if action.low is None or action.high is None:
            raise ValueError(
                f"diffusion_policy draws actions within bounds, task {spec.name!r} gives none; every other model "
                "does without: model=elmur, transformer, gru, ..."
            )
        if min(d_model, obs_horizon, pred_horizon, max_plans) < 1:
            raise ValueError(
                f"d_model, obs_horizon, pred_horizon and max_plans must be 1 or more; found {d_model}, {obs_horizon}, "
                f"{pred_horizon} and {max_plans}"
            )
        self.spec, self.obs_horizon = spec, obs_horizon
        self.observation = ObservationEncoder(spec.observation, d_model, PlainConv)
        width = obs_horizon * d_model
        denoiser = ConditionalUnet1d(action.size, width, diffusion_step_embed_dim, down_dims, n_groups=n_groups)
        if pred_horizon % denoiser.multiple:
            raise ValueError(
                f"pred_horizon must be a multiple of {denoiser.multiple}, for {len(down_dims)} levels of down_dims; "
                f"found {pred_horizon}"
            )
        self.head = DiffusionHead(denoiser, action, width, pred_horizon, num_levels, max_plans)
        self.head.use_sampler(sampling_steps)
        self.d_model = d_model

    def initial_memory(self, batch_size: int, generator: torch.Generator | None = None) -> Past:
        """Nothing seen yet."""
        like = next(self.parameters())
        empty = torch.ones(batch_size, dtype=torch.bool, device=like.device)
        return Past(like.new_zeros(batch_size, self.obs_horizon - 1, self.d_model), empty)

    def forward(
        self, batch: SegmentBatch, memory: Past, write: bool = True, write_grad: bool = True
    ) -> tuple[Output, Past]:
        self.check_state(memory)
        x = self.observation(batch.observation)
        before = torch.where(memory.empty.view(-1, 1, 1), x[:, :1], memory.encoded.to(x.dtype))
        seen = torch.cat([before, x], dim=1)
        condition = seen.unfold(1, self.obs_horizon, 1).transpose(2, 3).flatten(2)
        kept = seen[:, seen.shape[1] - (self.obs_horizon - 1) :]
        return Output(self.head(condition)), Past(kept.to(memory.encoded.dtype), torch.zeros_like(memory.empty))

    def open_segment(self, memory: Past, start: Int[Tensor, " B"], context_length: int) -> Stream:
        self.check_state(memory)
        return Stream(memory)

    def step(self, stream: Stream, now: SegmentBatch, before: SegmentBatch | None) -> Float[Tensor, "B F"]:
        output, stream.memory = self(now, stream.memory)
        return output.prediction[:, 0]

    def close_segment(self, stream: Stream, last: SegmentBatch) -> Past:
        return stream.memory
