"""Encoders: sums of embeddings by a loop, normalised numbers, images of any camera, actions and returns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from elmur.encoders import (
    ActionEncoder,
    DiscreteEncoder,
    ImageEncoder,
    ObservationEncoder,
    ReturnEncoder,
    ShiftedImages,
    VectorEncoder,
    shifted,
)
from elmur.spec import Discrete, Field, Image, TaskSpec, Vector

D = 8
G = torch.Generator().manual_seed(0)


@pytest.mark.parametrize("sizes", [(4,), (3, 5), (2, 1, 6)])
def test_discrete_is_the_sum_of_a_row_per_component(sizes: tuple[int, ...]) -> None:
    encoder = DiscreteEncoder(Discrete(sizes), D)
    tables, begin = [], 0
    for size in sizes:
        tables.append(encoder.table.weight[begin : begin + size])
        begin += size
    assert begin == len(encoder.table.weight)
    x = torch.stack([torch.randint(size, (2, 7), generator=G) for size in sizes], dim=-1)
    found = encoder(x)
    assert found.shape == (2, 7, D)
    for b in range(2):
        for t in range(7):
            expected = torch.zeros(D)
            for component, table in enumerate(tables):
                expected = expected + table[x[b, t, component]]
            torch.testing.assert_close(found[b, t], expected)


def test_discrete_begins_with_the_spread_of_one_embedding() -> None:
    torch.manual_seed(0)
    encoder = DiscreteEncoder(Discrete((50,) * 9), 64)
    x = torch.randint(50, (1, 200, 9), generator=G)
    assert encoder(x).std().item() == pytest.approx(1.0, rel=0.1)


def test_numbers_are_normalised_by_the_statistics_of_the_task() -> None:
    field = Vector(3, mean=(1.0, -2.0, 0.0), std=(2.0, 0.5, 0.0))
    encoder = VectorEncoder(field, D)
    x = np.array([[[3.0, -2.0, 0.0]]], dtype=np.float32)
    weight, bias = encoder.linear.weight.detach().numpy(), encoder.linear.bias.detach().numpy()
    expected = weight @ np.array([1.0, 0.0, 0.0]) + bias
    np.testing.assert_allclose(encoder(torch.tensor(x))[0, 0].detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    assert encoder(torch.tensor(x) + 1).isfinite().all(), "a component that never varied does not divide by zero"


@pytest.mark.parametrize("field", [Vector(2), Vector(2, mean=(5.0, 5.0)), Vector(2, std=(5.0, 5.0))])
def test_numbers_without_both_statistics_are_taken_as_they_are(field: Vector) -> None:
    encoder, x = VectorEncoder(field, D), torch.randn(1, 4, 2, generator=G)
    torch.testing.assert_close(encoder(x), x @ encoder.linear.weight.T + encoder.linear.bias)


def test_one_number_keeps_its_dimension() -> None:
    assert VectorEncoder(Vector(1), D)(torch.zeros(2, 5, 1)).shape == (2, 5, D)


def test_statistics_are_no_weights() -> None:
    plain, told = VectorEncoder(Vector(1), D), VectorEncoder(Vector(1, mean=(1.0,), std=(1.0,)), D)
    assert list(plain.state_dict()) == list(told.state_dict()) == ["linear.weight", "linear.bias"]


def test_images_of_two_cameras_are_stacked_scaled_and_bounded() -> None:
    torch.manual_seed(0)
    encoder = ImageEncoder({"left": Image(3, 40, 36), "right": Image(1, 40, 36)}, D)
    images = [torch.randint(256, (2, 3, c, 40, 36), generator=G, dtype=torch.uint8) for c in (3, 1)]
    found = encoder(images)
    assert found.shape == (2, 3, D) and found.abs().max() <= 1
    for b in range(2):
        for t in range(3):
            x = torch.cat([image[b, t] for image in images]).float() / 255
            for layer, stride in ((0, 4), (2, 2), (4, 1)):
                weight, bias = (encoder.state_dict()[f"convolutions.{layer}.{part}"] for part in ("weight", "bias"))
                x = torch.relu(torch.nn.functional.conv2d(x, weight, bias, stride=stride))
            expected = torch.tanh(encoder.linear.weight @ x.flatten() + encoder.linear.bias)
            torch.testing.assert_close(found[b, t], expected, rtol=1e-4, atol=1e-5)


def test_the_published_image_encoder_has_its_published_size() -> None:
    encoder = ImageEncoder({"state": Image(6, 128, 128)}, 128)
    convolutions = (6 * 64 + 1) * 32 + (32 * 16 + 1) * 64 + (64 * 9 + 1) * 64
    assert sum(p.numel() for p in encoder.parameters()) == convolutions + (64 * 12 * 12 + 1) * 128


def test_images_of_several_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="must have one size"):
        ImageEncoder({"a": Image(3, 64, 64), "b": Image(3, 48, 64)}, D)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 7), (5, 90), (35, 64)])
def test_an_image_too_small_for_the_published_convolutions_is_seen_whole(height: int, width: int) -> None:
    """Each pixel changes what is encoded: none falls off an edge."""
    encoder = ImageEncoder({"a": Image(2, height, width)}, D).double()
    pixels = torch.randint(1, 255, (1, 1, 2, height, width), generator=G, dtype=torch.uint8)
    plain = encoder([pixels])
    for y, x in ((0, 0), (height - 1, width - 1), (height // 2, width // 2), (0, width - 1), (height - 1, 0)):
        other = pixels.clone()
        other[..., y, x] = 255 - other[..., y, x]
        assert (encoder([other]) - plain).abs().max() > 1e-7


def test_a_shifted_image_is_the_image_with_its_edge_repeated_and_a_window_cut_out() -> None:
    torch.manual_seed(0)
    images = torch.randint(256, (400, 2, 5, 6), generator=G, dtype=torch.uint8)
    seen = set()
    for image, found in zip(images.numpy(), shifted(images, 2).numpy(), strict=True):
        wide = np.pad(image, ((0, 0), (2, 2), (2, 2)), mode="edge")
        places = [(y, x) for y in range(5) for x in range(5) if (wide[:, y : y + 5, x : x + 6] == found).all()]
        assert len(places) == 1
        seen.update(places)
    assert len(seen) == 25, "every shift up to two pixels is drawn"


def test_images_are_shifted_in_training_alone() -> None:
    fields: dict[str, Field] = {"eye": Image(1, 36, 36), "number": Vector(2)}
    encoder = ShiftedImages(fields, D, shift=3)
    seen = {"eye": torch.randint(256, (8, 2, 1, 36, 36), generator=G, dtype=torch.uint8), "number": torch.ones(8, 2, 2)}
    plain = ObservationEncoder(fields, D)
    plain.load_state_dict(encoder.state_dict())
    assert not torch.equal(encoder(seen), plain(seen))
    torch.testing.assert_close(encoder.eval()(seen), plain(seen), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"no image among the parts of the observation: number"):
        ShiftedImages({"number": Vector(2)}, D)
    with pytest.raises(ValueError, match="shift must be 0 pixels or more; found -1"):
        ShiftedImages(fields, D, shift=-1)


def test_an_observation_is_the_sum_of_its_parts() -> None:
    fields: dict[str, Field] = {
        "number": Vector(2),
        "eye": Image(1, 36, 36),
        "choice": Discrete((3,)),
        "ear": Image(2, 36, 36),
    }
    encoder = ObservationEncoder(fields, D)
    observation = {
        "number": torch.randn(1, 2, 2, generator=G),
        "choice": torch.tensor([[[0], [2]]]),
        "eye": torch.randint(256, (1, 2, 1, 36, 36), generator=G, dtype=torch.uint8),
        "ear": torch.randint(256, (1, 2, 2, 36, 36), generator=G, dtype=torch.uint8),
    }
    assert encoder.images is not None
    expected = encoder.parts["number"](observation["number"]) + encoder.parts["choice"](observation["choice"])
    expected = expected + encoder.images([observation["eye"], observation["ear"]])
    torch.testing.assert_close(encoder(observation), expected)


def test_a_categorical_action_is_an_embedding_and_padding_has_a_row_of_its_own() -> None:
    encoder = ActionEncoder(TaskSpec("t", {"o": Vector(1)}, Discrete((4,))), D)
    action, mask = torch.tensor([[0, 3, 1]]), torch.tensor([[True, True, False]])
    assert isinstance(encoder.net, torch.nn.Embedding)
    torch.testing.assert_close(encoder(action, mask)[0], torch.tanh(encoder.net.weight[[0, 3, 4]]))


def test_a_continuous_action_is_a_linear_map_and_padding_is_zero() -> None:
    encoder = ActionEncoder(TaskSpec("t", {"o": Vector(1)}, Vector(2)), D)
    action, mask = torch.randn(1, 2, 2, generator=G), torch.tensor([[True, False]])
    found = encoder(action, mask)[0]
    assert isinstance(encoder.net, torch.nn.Linear)
    torch.testing.assert_close(found[0], encoder.net.weight @ action[0, 0] + encoder.net.bias)
    torch.testing.assert_close(found[1], encoder.net.bias)


def test_return_to_go_is_a_linear_map() -> None:
    encoder = ReturnEncoder(D)
    weight, bias = encoder.linear.weight[:, 0], encoder.linear.bias
    torch.testing.assert_close(encoder(torch.tensor([[2.0, -1.0]]))[0], torch.stack([2 * weight + bias, bias - weight]))


@pytest.mark.parametrize("sizes", [(5,), (3, 2, 4), (600, 600)])
def test_discrete_components_are_summed_row_by_row(sizes: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    encoder = DiscreteEncoder(Discrete(sizes), 8).double()
    x = torch.stack([torch.randint(size, (2, 3)) for size in sizes], dim=-1)
    found = encoder(x)
    found.square().sum().backward()
    weight, expected = encoder.table.weight, torch.zeros(2, 3, 8, dtype=torch.float64)
    gradient = torch.zeros_like(weight)
    for b in range(2):
        for t in range(3):
            rows = [sum(sizes[:c]) + int(x[b, t, c]) for c in range(len(sizes))]
            expected[b, t] = sum(weight[row].detach() for row in rows)
            for row in rows:
                gradient[row] += 2 * expected[b, t]
    torch.testing.assert_close(found.detach(), expected)
    torch.testing.assert_close(weight.grad, gradient)


def test_a_part_may_be_called_as_a_person_likes() -> None:
    """Names that torch refuses of a module; what it takes stays the name of the weights in checkpoints."""
    parts: dict[str, Field] = {name: Vector(1) for name in ("keys", "a.b", "type", "plain")}
    encoder = ObservationEncoder(parts, 4)
    names = {name.split(".")[1] for name, _ in encoder.named_parameters()}
    assert names == {"part:keys", "part:a:b", "part:type", "plain"}
    given = {name: torch.ones(1, 1, 1) for name in parts}
    for name in parts:
        assert not torch.equal(encoder({**given, name: given[name] + 1}), encoder(given)), f"{name} is seen"
