"""What is done for a GPU, as far as a CPU can tell: settings, noise, batches on their way, a window of flat tensors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from elmur.gpu import Flat, OnGpu
from elmur.memory import normal, seeded_by
from elmur.model import MemoryDesign
from elmur.module import SequenceModule
from elmur.state import tensors_of, with_tensors
from tests.elmur.samples import SPEC, make_batch, make_model, noise

L = 3


@pytest.mark.parametrize(("key", "value"), [("matmul_precision", "tf32"), ("capture", "yes")])
def test_values_that_are_none(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"module.gpu.{key}: expected one of .*; found {value!r}"):
        OnGpu(**{key: value})


def test_products_of_a_cpu_keep_their_precision() -> None:
    OnGpu("medium").prepare(torch.device("cpu"))
    assert torch.get_float32_matmul_precision() == "highest"


def test_noise_of_a_gpu_is_a_function_of_the_state_of_the_cpus_generator() -> None:
    device = torch.device("cpu")  # has the same interface: what a GPU would draw, drawn here
    one, other = (torch.randn(5, generator=seeded_by(noise(3), device)) for _ in range(2))
    assert torch.equal(one, other)
    generator = noise(3)
    first, second = (torch.randn(5, generator=seeded_by(generator, device)) for _ in range(2))
    assert torch.equal(first, one) and not torch.equal(second, one)
    saved = generator.get_state()
    third = seeded_by(generator, device).initial_seed()
    generator.set_state(saved)
    assert seeded_by(generator, device).initial_seed() == third
    # On the CPU itself nothing is between: these are the generator's own numbers.
    assert torch.equal(normal((5,), noise(3), device), torch.randn(5, generator=noise(3)))


def test_memory_is_made_where_the_model_is() -> None:
    with torch.device("meta"):
        model = make_model(memory=MemoryDesign(memory_init_std=0.0))
    assert {part.device.type for part in tensors_of(model.initial_memory(2, noise()))} == {"meta"}


def test_a_batch_knows_whether_it_goes_on_after_it_has_left_for_a_device() -> None:
    batch = make_batch(2, 4)
    for last, continues in (((True, True), False), ((True, False), True)):
        batch.is_last = torch.tensor(last)
        moved = batch.to("meta")  # where nothing can be asked
        assert moved.is_last.device.type == "meta" and moved.observation["state"].device.type == "meta"
        assert moved.continues is continues
        assert batch.to("cpu").continues is continues
    assert [part.goes_on for part in moved.split(2)] == [None, None], "a segment is not the window"
    assert torch.equal(batch.pin_memory().action if torch.cuda.is_available() else batch.action, batch.action)


@pytest.mark.parametrize("carried_on", [True, False])
def test_a_window_as_a_function_of_flat_tensors_is_the_window(carried_on: bool) -> None:
    """What is captured on a GPU: the same loss, memory and gradients as by `run_window`."""
    modules = [SequenceModule(lambda spec: make_model(), L) for _ in range(2)]
    batch = make_batch(2, 2 * L)
    batch.is_first = torch.tensor([True, False])
    batch.is_last = torch.tensor([not carried_on] * 2)
    for module in modules:
        module.build_model(SPEC)
        module.run_window(make_batch(2, 2 * L, seed=1), "train", noise(2))
    eager, flat = modules
    expected = eager.run_window(batch, "train", noise(3))
    carry, fresh = flat._carry["train"], flat.fresh_memory(2, noise(3))
    nest = (replace(batch, goes_on=carried_on), carry, fresh)
    template = with_tensors(nest, [torch.empty_like(part) for part in tensors_of(nest)])
    function = Flat(flat.model, flat.window, template)
    outputs = function(*tensors_of(nest))
    summed, score, balance, counted, *memory = outputs
    again, after = function.window_of(outputs)
    assert counted == expected.counted and again.balance is None and again.terms == {}
    assert all(torch.equal(a, b) for a, b in zip(tensors_of(after), memory, strict=True))
    assert torch.equal(summed, expected[0]) and torch.equal(score, expected[1])
    assert expected[2] is None and not function.balanced and not balance.any()
    assert all(torch.equal(a, b) for a, b in zip(memory, tensors_of(eager._carry["train"]), strict=True))
    expected[0].backward()
    summed.backward()
    gradients = [[p.grad for p in module.model.parameters()] for module in modules]
    assert any(grad is not None and grad.any() for grad in gradients[0])
    for one, other in zip(*gradients, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)
