"""Observation, action and return-to-go as vectors of width D, chosen by the kinds in the TaskSpec."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from elmur.kernels import embedding_sum
from elmur.spec import Discrete, Field, Image, TaskSpec, Vector

PUBLISHED = ((8, 4, 0), (4, 2, 0), (3, 1, 0))  # kernel, stride, padding
SMALLEST_PUBLISHED = 36  # pixels of a side that those need
MIN_STD = 1e-3  # numbers that vary less are not scaled up further: a constant that moves a little must not become large


class DiscreteEncoder(nn.Module):
    """The sum of one embedding per component: `[..., C]` int64 -> `[..., D]`; one table, each component its rows."""

    def __init__(self, field: Discrete, d_model: int) -> None:
        super().__init__()
        self.table = nn.Embedding(sum(field.sizes), d_model)
        nn.init.normal_(self.table.weight, std=len(field.sizes) ** -0.5)
        first_row = torch.tensor([0, *field.sizes[:-1]]).cumsum(0)
        self.first_row = nn.Buffer(first_row, persistent=False)

    def forward(self, x: Int[Tensor, "... C"]) -> Float[Tensor, "... D"]:
        return embedding_sum(x + self.first_row, self.table.weight)


class VectorEncoder(nn.Module):
    """A linear map of the numbers, normalised first where the TaskSpec holds their mean and deviation."""

    def __init__(self, field: Vector, d_model: int) -> None:
        super().__init__()
        self.linear = nn.Linear(field.size, d_model)
        self.normalise = field.mean is not None and field.std is not None
        mean = torch.tensor(field.mean or [0.0] * field.size)
        std = torch.tensor(field.std or [1.0] * field.size).clamp(min=MIN_STD)
        self.mean = nn.Buffer(mean, persistent=False)  # kept in the TaskSpec
        self.std = nn.Buffer(std, persistent=False)

    def forward(self, x: Float[Tensor, "... n"]) -> Float[Tensor, "... D"]:
        x = x.to(self.linear.weight.dtype)
        if self.normalise:
            x = (x - self.mean) / self.std
        return self.linear(x)


class ImageEncoder(nn.Module):
    """Convolutions on all cameras stacked as channels: uint8 `[B, T, C, h, w]` -> `[B, T, D]`.

    The publication's, or smaller ones where a side of the images is shorter than those need. shift: in training the
    images of each step are moved by up to so many pixels, as `shifted` does it.
    """

    def __init__(self, fields: Mapping[str, Image], d_model: int, shift: int = 0) -> None:
        super().__init__()
        if shift < 0:
            raise ValueError(f"shift must be 0 pixels or more; found {shift}")
        self.shift = shift
        sizes = {(field.height, field.width) for field in fields.values()}
        if len(sizes) != 1:
            raise ValueError(f"images of one task must have one size; found {dict(fields)}")
        height, width = sizes.pop()
        channels = sum(field.channels for field in fields.values())
        # Kernel, stride and padding of each convolution: what the published ones leave nothing of is halved twice.
        shapes = PUBLISHED if min(height, width) >= SMALLEST_PUBLISHED else ((3, 1, 1), (3, 2, 1), (3, 2, 1))
        layers: list[nn.Module] = []
        for inward, outward, (kernel, stride, padding) in zip((channels, 32, 64), (32, 64, 64), shapes, strict=True):
            layers += [nn.Conv2d(inward, outward, kernel, stride, padding), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        with torch.no_grad():
            flat = self.convolutions(torch.zeros(1, channels, height, width)).shape[1]
        self.linear = nn.Linear(flat, d_model)

    def forward(self, images: list[UInt8[Tensor, "B T _ h w"]]) -> Float[Tensor, "B T D"]:
        pixels = torch.cat(images, dim=-3)
        # On a GPU in the order that its matrix units take: channels last.
        order = torch.contiguous_format if pixels.device.type == "cpu" else torch.channels_last
        flat = pixels.flatten(0, 1)
        if self.training and self.shift:
            flat = shifted(flat, self.shift)
        scaled = flat.to(self.linear.weight.dtype, memory_format=order) / 255
        out: Tensor = torch.tanh(self.linear(self.convolutions(scaled)))
        return torch.unflatten(out, 0, pixels.shape[:2])


def shifted(images: UInt8[Tensor, "N C h w"], most: int) -> UInt8[Tensor, "N C h w"]:
    """Each image moved by 0 to `most` pixels, up or down and left or right; its edge fills what becomes free.

    Random shifts of DrQ (Kostrikov et al., 2021), by whole pixels and drawn for each image alone: augmentation
    against overfitting.
    """
    (number, _, height, width), device = images.shape, images.device
    down, right = torch.randint(-most, most + 1, (2, number, 1), device=device)
    rows = (torch.arange(height, device=device) + down).clamp(0, height - 1)
    columns = (torch.arange(width, device=device) + right).clamp(0, width - 1)
    which = torch.arange(number, device=device)[:, None, None]
    return images[which, :, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def module_name(part: str) -> str:
    """A part's name as torch takes it of a module: without dots, and none of a ModuleDict's own attributes."""
    return f"part:{part.replace('.', ':')}" if "." in part or hasattr(nn.ModuleDict(), part) else part


class ObservationEncoder(nn.Module):
    """The sum of the encodings of an observation's named parts; all images go through one encoder together.

    pictures: makes that encoder of the images' fields and the width.
    """

    def __init__(
        self, observation: Mapping[str, Field], d_model: int, pictures: Callable[..., nn.Module] = ImageEncoder
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleDict()
        self.names: dict[str, str] = {}
        images = {name: field for name, field in observation.items() if isinstance(field, Image)}
        for name, field in observation.items():
            if isinstance(field, Image):
                continue
            self.names[module_name(name)] = name
            encoder = DiscreteEncoder if isinstance(field, Discrete) else VectorEncoder
            self.parts[module_name(name)] = encoder(field, d_model)  # type: ignore[arg-type]
        self.image_names = list(images)
        self.images = pictures(images, d_model) if images else None

    def forward(self, observation: dict[str, Tensor]) -> Float[Tensor, "B T D"]:
        encoded = [encoder(observation[self.names[name]]) for name, encoder in self.parts.items()]
        if self.images is not None:
            encoded.append(self.images([observation[name] for name in self.image_names]))
        return sum(encoded[1:], start=encoded[0])


class ActionEncoder(nn.Module):
    """An action as a vector: an embedding for a categorical one, a linear map for a continuous one.

    A step that is padding (`mask` false) has no action: a row of its own stands there, or `padding` in every component
    of a continuous one. tanh: whether the vector passes tanh; by default a categorical action's does.
    """

    def __init__(self, spec: TaskSpec, d_model: int, tanh: bool | None = None, padding: float = 0.0) -> None:
        super().__init__()
        self.tanh = isinstance(spec.action, Discrete) if tanh is None else tanh
        self.net: nn.Embedding | nn.Linear
        self.none: float  # what stands for the action of a step that has none
        if isinstance(spec.action, Discrete):
            self.none = spec.action.sizes[0]
            self.net = nn.Embedding(spec.action.sizes[0] + 1, d_model)
        else:
            self.none = padding
            self.net = nn.Linear(spec.action.size, d_model)

    def forward(self, action: Tensor, mask: Tensor) -> Float[Tensor, "B T D"]:
        if isinstance(self.net, nn.Embedding):
            out = self.net(torch.where(mask, action, self.none))
        else:
            out = self.net(action.to(self.net.weight.dtype).masked_fill(~mask.unsqueeze(-1), self.none))
        return torch.tanh(out) if self.tanh else out


class ReturnEncoder(nn.Module):
    """A linear map of the return-to-go: `[B, T] -> [B, T, D]`."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.linear = nn.Linear(1, d_model)

    def forward(self, return_to_go: Float[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        return self.linear(return_to_go.unsqueeze(-1).to(self.linear.weight.dtype))


class ShiftedImages(ObservationEncoder):
    """The sum of an observation's parts, its images moved by up to `shift` pixels in training."""

    def __init__(self, observation: Mapping[str, Field], d_model: int, shift: int = 4) -> None:
        super().__init__(observation, d_model, partial(ImageEncoder, shift=shift))
        if self.images is None:
            raise ValueError(f"shift: there is no image among the parts of the observation: {', '.join(observation)}")


class BoardEncoder(ObservationEncoder):
    """The sum of an observation's parts, and two readings of a board that it already contains.

    board: a part of n components with the same K values. Added to its encoding: how many cells show each value (K
    numbers from 0 to n), and the value of the cell that `pointer` names: a part of one component, 0 for none, else
    1 + the cell. Both follow from what is seen now; what was seen before is left to memory. In a sum of cells the one
    that was just turned over drowns, and whether their number is odd no linear map can tell.
    """

    def __init__(
        self,
        observation: Mapping[str, Field],
        d_model: int,
        board: str = "observation",
        pointer: str = "previous_action",
    ) -> None:
        super().__init__(observation, d_model)
        cells, choice = observation.get(board), observation.get(pointer)
        if not isinstance(cells, Discrete) or len(cells.sizes) < 2 or len(set(cells.sizes)) > 1:
            raise ValueError(f"part {board!r}: expected a board of cells with the same values, found {cells}")
        if choice != Discrete((len(cells.sizes) + 1,)):
            raise ValueError(f"part {pointer!r}: expected none or one of {len(cells.sizes)} cells, found {choice}")
        self.board, self.pointer, self.values = board, pointer, cells.sizes[0]
        self.counts = DiscreteEncoder(Discrete((len(cells.sizes) + 1,) * self.values), d_model)
        self.chosen = nn.Embedding(self.values + 1, d_model)

    def forward(self, observation: dict[str, Tensor]) -> Float[Tensor, "B T D"]:
        cells, choice = observation[self.board], observation[self.pointer]
        shown = F.one_hot(cells, self.values).sum(dim=-2)
        value = cells.gather(-1, (choice - 1).clamp(min=0)) + 1
        chosen = torch.where(choice > 0, value, 0).squeeze(-1)
        return super().forward(observation) + self.counts(shown) + self.chosen(chosen)
