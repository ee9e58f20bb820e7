"""On a GPU the same comes out as on the CPU, to rounding; by a CUDA graph bit for bit the same as without one."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from data.kept import KeptImages
from elmur.baselines.recurrent import GRU
from elmur.gpu import OnGpu
from elmur.memory import Memory
from elmur.model import ELMUR, MemoryDesign
from elmur.module import SequenceModule
from elmur.moe import MixtureOfExperts
from elmur.optim import adamw
from elmur.policy import StreamingPolicy
from elmur.positional import Alibi, Rope
from elmur.published.quirks import PublishedRelative
from elmur.sequence_model import SequenceModel
from elmur.spec import Discrete, Image, TaskSpec, Vector
from elmur.state import tensors_of
from tests.elmur.samples import SPEC, make_batch, noise

L, LANES, UPDATES = 5, 8, 3
SEEN = TaskSpec("seen", {"front": Image(3, 40, 40), "state": Vector(4)}, Discrete((3,)), 40)
GPU = torch.device("cuda")
experts = partial(MixtureOfExperts, num_experts=4, top_k=3, routed_d_ff=16, shared_d_ff=32)
# Nothing is drawn: neither dropped out nor noise in new memory.
quiet: dict[str, Any] = {"d_model": 32, "n_layer": 2, "n_head": 2, "dropout": 0.0, "dropatt": 0.0}
design = MemoryDesign(memory_size=3, memory_init_std=0.0, memory_dropout=0.0)
MODELS: dict[str, Any] = {
    "relative": lambda: ELMUR(SPEC, **quiet, memory=design),
    "published relative": lambda: ELMUR(SPEC, **quiet, memory=design, position=PublishedRelative),
    "rope, tokens sra, experts": lambda: ELMUR(
        SPEC, **quiet, memory=design, position=Rope, token_format="sra", feedforward=experts
    ),
    "alibi": lambda: ELMUR(SPEC, **quiet, memory=design, position=Alibi),
    "pictures": lambda: ELMUR(SEEN, **quiet, memory=design),
    "gru": lambda: GRU(SPEC, 32),
}


def window(model: SequenceModel, number: int) -> Any:
    """The number-th window of each lane's episode; the last two end them."""
    batch = make_batch(LANES, 3 * L, start=3 * L * number, seed=number, dtype=torch.float32)
    batch.is_first = torch.full((LANES,), number == 0)
    batch.is_last = torch.full((LANES,), number == UPDATES - 1)
    batch.mask = batch.loss_mask = torch.arange(3 * L) < 3 * L - number
    batch.mask = batch.loss_mask = batch.mask.expand(LANES, -1).clone()
    if "front" in model.spec.observation:
        shape = (LANES, 3 * L, 3, 40, 40)
        batch.observation["front"] = torch.randint(256, shape, generator=noise(number)).to(torch.uint8)
    return batch


def trained(name: str, device: torch.device, capture: str = "never", dropout: float = 0.0) -> dict[str, list[Any]]:
    """What three updates bring forth: losses, gradients, weights and memory, on the CPU."""
    torch.manual_seed(0)
    model = MODELS[name]()
    for part in model.modules():
        if type(part).__name__ == "Dropout":
            part.p = dropout
    module = SequenceModule(lambda spec: model, L, gpu=OnGpu(capture=capture))
    module.build_model(model.spec)
    module.to(device).train()
    optimizer, generator = adamw(model, lr=1e-3), noise(5)
    torch.manual_seed(1)
    found: dict[str, list[Any]] = {"losses": [], "gradients": [], "weights": [], "memory": []}
    for number in range(UPDATES):
        summed, score, balance, *_ = module.run_window(window(model, number).to(device), "train", generator)
        optimizer.zero_grad()
        (summed / 100 if balance is None else summed / 100 + balance).backward()
        found["losses"] += [float(summed.detach()), float(score)]
        grads = [p.grad for p in model.parameters()]
        found["gradients"] += [None if grad is None else grad.detach().cpu().clone() for grad in grads]
        optimizer.step()
        found["memory"] += [part.cpu().clone() for part in tensors_of(module._carry["train"])]
    found["weights"] = [p.detach().cpu() for p in model.parameters()]
    return found


@pytest.mark.parametrize("name", MODELS)
def test_three_updates_are_those_of_the_cpu(name: str) -> None:
    """Losses to 1e-4, gradients and memory to 1e-3 of their size; float32 sums are taken in another order."""
    expected, found = trained(name, torch.device("cpu")), trained(name, GPU)
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-4)
    for key in ("gradients", "memory", "weights"):
        for one, other in zip(expected[key], found[key], strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                size = max(float(one.double().norm()), 1e-4)
                assert float((one.double() - other.double()).norm()) < 2e-3 * size + 1e-6, key


@pytest.mark.parametrize("dropout", [0.0, 0.2], ids=["", "dropout"])
@pytest.mark.parametrize("name", MODELS)
def test_a_captured_window_is_bit_for_bit_the_window(name: str, dropout: float) -> None:
    """Also what is dropped out: trial runs before the capture leave no trace in the random numbers."""
    torch.use_deterministic_algorithms(False)
    expected, found = (trained(name, GPU, capture, dropout) for capture in ("never", "always"))
    # Sums of gradients by atomic additions differ from run to run; how much, the eager run itself tells.
    again = trained(name, GPU, "never", dropout)
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-6)
    for key in ("gradients", "memory", "weights"):
        for one, other, repeated in zip(expected[key], found[key], again[key], strict=True):
            assert (one is None) == (other is None) or not (one if other is None else other).any(), key
            if one is not None and other is not None:
                spread = float((one.double() - repeated.double()).norm())
                assert float((one.double() - other.double()).norm()) <= 10 * spread + 1e-6 * float(one.double().norm())


@pytest.mark.parametrize("name", MODELS)
def test_actions_are_those_of_the_cpu(name: str) -> None:
    """Some lanes begin anew in between; predictions are compared, since two likely actions may be almost equal."""
    torch.manual_seed(0)
    models = [MODELS[name]() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    models[1].to(GPU)
    said: list[list[torch.Tensor]] = [[], []]
    for model, kept in zip(models, said, strict=True):
        act = model.head.act

        def note(prediction: torch.Tensor, generator: Any, act: Any = act, kept: Any = kept) -> torch.Tensor:
            kept.append(prediction.cpu())
            # The actions of both must be the same, for tokens are made of them.
            return torch.full_like(act(prediction, generator), len(kept) % 3)

        model.head.act = note
        policy, rng = StreamingPolicy(model, L), np.random.default_rng(0)
        policy.start(4, seed=3)
        for step in range(2 * L + 2):
            first = np.full(4, step == 0) | (np.arange(4) == 2) & (step == L + 1)
            shown = {
                part: rng.integers(256, size=(4, *field.shape), dtype=np.uint8)
                if isinstance(field, Image)
                else rng.normal(size=(4, *field.shape)).astype(np.float32)
                for part, field in model.spec.observation.items()
            }
            policy.observe(policy.act(shown, first), np.zeros(4, np.float32))
    assert len(said[0]) == 2 * L + 2
    for one, other in zip(*said, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_noise_is_drawn_on_the_device_from_the_state_of_the_cpus_generator() -> None:
    one, other, later = (Memory.initial(64, 8, 16, 0.1, noise(seed), GPU).slots for seed in (3, 3, 4))
    assert one.device.type == "cuda" and torch.equal(one, other) and not torch.equal(one, later)
    assert float(one.std()) == pytest.approx(0.1, rel=0.05) and abs(float(one.mean())) < 0.01


def test_pictures_that_lie_on_the_device_are_gathered_there() -> None:
    pixels = torch.randint(256, (50, 3, 8, 8), generator=noise()).to(torch.uint8)
    plan = np.array([0, 1]), np.array([4, 2]), np.array([5, 3])  # shard, first row in it, steps that are real
    stores = [KeptImages({"observation/front": pixels.to(device)}, np.array([0, 30, 50])) for device in ("cpu", GPU)]
    expected, found = (store.windows(*plan, 6)["observation/front"] for store in stores)
    assert found.device.type == "cuda" and torch.equal(found.cpu(), expected)
    assert torch.equal(expected[0, :5], pixels[4:9]) and torch.equal(expected[1, :3], pixels[32:35])
    assert not expected[1, 3:].any()
