"""What the released RATE, RMT, TrXL and DT compute: outputs, memory, gradients, training and acting.

One file is in the repository (two lanes of one model, made with the released classes); the others where they are at
hand.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from elmur.baselines.decision_transformer import DecisionTransformer
from elmur.baselines.segment_recurrence import SegmentRecurrence
from elmur.batch import SegmentBatch
from elmur.build import build
from elmur.published.baselines import MODES, convert_weights, model_config, task_spec, unused
from elmur.published.config import PublishedError
from elmur.sequence_model import SequenceModel
from elmur.testing import random_steps, stepped
from tests.elmur.baselines.golden import exactly

OURS = Path(__file__).parents[1] / "golden" / "rate_mem5_cache30.pt"
SHARED = Path(__file__).resolve().parents[3] / "shared" / "golden_baselines"
FAMILY, IMAGES = ("dt", "rate_", "rmt_", "trxl_"), "dt_mikasa_images.pt"
FILES = [OURS, *sorted(path for path in SHARED.glob("*.pt") if path.stem.startswith(FAMILY) and path.name != IMAGES)]
# Ours computes in float64, so that no machine adds rounding of its own to that of a file in float32.
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
Golden = dict[str, Any]


@cache
def load(path: Path) -> Golden:
    content: Golden = torch.load(path, weights_only=True)
    for part in ("state_dict", "inputs"):
        content[part] = {key: exactly(value) for key, value in content[part].items()}
    return content


@pytest.fixture(params=FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def golden(request: pytest.FixtureRequest) -> Golden:
    return load(request.param)


def test_the_shared_files_are_all_there() -> None:
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not on this machine")
    assert len(FILES) == 14


def require(golden: Golden, key: str) -> Any:
    """A part of a file that not every one has."""
    if key not in golden:
        pytest.skip(f"{golden['name']} has no {key}")
    return golden[key]


def ours(golden: Golden, window: int | None = None) -> Any:
    """Our model of the published configuration, with the published weights."""
    config, mode, inputs = golden["config"], golden["mode"], golden["inputs"]
    window = window or inputs["segment_len"] * inputs["n_segments"]
    model = build(model_config(config, mode, window), role="model", spec=task_spec(config, mode)).double()
    model.load_state_dict(convert_weights(golden["state_dict"], model.state_dict(), config, mode))
    return model.eval()


def steps_of(golden: Golden, actions: str = "actions") -> SegmentBatch:
    """All steps of the file; `actions_unpadded` has actions behind an episode's end too."""
    inputs = golden["inputs"]
    action, mask = inputs[actions], inputs["mask"]
    if inputs["targets"].dtype == torch.int64:
        action = action[..., 0].long().clamp(min=0)
    no, real = torch.zeros(len(mask), dtype=torch.bool), torch.ones_like(mask)
    return SegmentBatch(
        {"state": inputs["states"]}, action, inputs["rtgs"][..., 0], mask if actions == "actions" else real, mask,
        no, no, torch.zeros(len(mask), dtype=torch.int64),
    )  # fmt: skip


def same(found: Tensor, expected: Tensor, golden: Golden) -> None:
    """Equal, as a share of the largest number (or of 1)."""
    scale = max(1.0, float(expected.abs().max()))
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) < TOLERANCE[golden["dtype"]] * scale


def loss(model: SequenceModel, golden: Golden, segment: SegmentBatch, prediction: Tensor) -> Tensor:
    """The published loss: the mean over real steps; without padding a plain mean over all numbers."""
    count = segment.loss_mask.sum()
    return model.head.loss(prediction, segment.action, segment.loss_mask, 0.0) / count


@torch.no_grad()
def test_segment_after_segment(golden: Golden) -> None:
    model, length = ours(golden), golden["inputs"]["segment_len"]
    memory = fresh = model.initial_memory(len(golden["inputs"]["mask"]))
    for segment, expected in zip(steps_of(golden).split(length), golden["segments"], strict=True):
        carries = isinstance(model, SegmentRecurrence)
        output, memory = model(segment, memory if carries else fresh)
        same(output.prediction, expected["logits"], golden)
        if expected.get("mem_tokens") is not None:
            same(memory.tokens, expected["mem_tokens"].transpose(0, 1), golden)
        if expected.get("mems") is not None:
            rows = expected["mems"][:-1].permute(
                2, 0, 1, 3
            )  # what goes into each layer; the last one's output is unused
            filled = rows.shape[2]
            assert memory.filled.tolist() == [filled] * len(rows)
            same(memory.cached[:, :, memory.cached.shape[2] - filled :], rows, golden)
        if "loss" in expected:
            found = loss(model, golden, segment, output.prediction)
            assert float(found) == pytest.approx(expected["loss"], rel=TOLERANCE[golden["dtype"]])


@torch.no_grad()
def test_dt_on_all_steps_at_once_and_sliding(golden: Golden) -> None:
    full = require(golden, "full")
    model, length = ours(golden), golden["inputs"]["segment_len"]
    batch = steps_of(golden)
    same(model(batch, model.initial_memory(batch.batch_size))[0].prediction, full["logits"], golden)
    # Acting on the last `length` steps, step by step and as whole segments.
    model = ours(golden, window=length)
    batch = steps_of(golden, "actions_unpadded")
    memory = streamed = model.initial_memory(batch.batch_size)
    whole, single = [], []
    for segment in batch.split(length):
        output, memory = model(segment, memory)
        whole.append(output.prediction)
        prediction, streamed = stepped(model, segment, streamed)
        single.append(prediction)
    for found in (whole, single):
        same(torch.cat(found, dim=1), golden["rollout"]["sliding_logits_aligned"], golden)


@torch.no_grad()
def test_acting_on_a_window_that_grows(golden: Golden) -> None:
    model, length = ours(golden), golden["inputs"]["segment_len"]
    rollout, batch = golden["rollout"], steps_of(golden)
    if isinstance(model, DecisionTransformer):
        pytest.skip("DT's sliding window is tested above")
    memory = model(next(batch.split(length)), model.initial_memory(batch.batch_size))[1]
    begin, end = rollout["steps"]
    segment = list(steps_of(golden, "actions_unpadded").split(length))[begin // length]
    assert segment.num_steps == end - begin
    prediction, after = stepped(model, segment, memory)
    same(prediction, rollout["logits_aligned"], golden)
    if rollout["mem_tokens_aligned"] is not None:
        same(after.tokens, rollout["mem_tokens_aligned"].transpose(0, 1), golden)
    if rollout.get("mems_aligned") is not None:
        same(after.cached, rollout["mems_aligned"][:-1].permute(2, 0, 1, 3), golden)


def gradients(model: SequenceModel) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def run_segments(model: Any, golden: Golden) -> Tensor:
    """The sum of the segments' losses."""
    batch, total = steps_of(golden), torch.zeros((), dtype=torch.float64)
    memory = model.initial_memory(batch.batch_size)
    for segment in batch.split(golden["inputs"]["segment_len"]):
        output, memory = model(segment, memory)
        total = total + loss(model, golden, segment, output.prediction)
    return total


@pytest.mark.parametrize("which", ["grads_detached", "grads_bptt", "grads_full"])
def test_gradients(golden: Golden, which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, model = require(golden, which), ours(golden)
    if which == "grads_full":
        batch = steps_of(golden)
        total = loss(model, golden, batch, model(batch, model.initial_memory(batch.batch_size))[0].prediction)
    else:
        if which == "grads_bptt":
            monkeypatch.setattr(model.memory_tokens, "handed_over", lambda tokens: tokens)
        total = run_segments(model, golden)
    total.backward()
    found = gradients(model)
    # The published gradients under our names: put together as the weights are.
    published = {
        name: exactly(expected["grads"].get(name, torch.zeros_like(w))) for name, w in golden["state_dict"].items()
    }
    wanted = convert_weights(published, model.state_dict(), golden["config"], golden["mode"])
    none = {name for name in wanted if name not in found}
    assert all(name.startswith("valve.") for name in none), "nothing but the valve is without a gradient"
    assert bool(none) == (which == "grads_detached" and bool(golden["config"]["n_head_ca"]))
    for name, gradient in found.items():
        same(gradient, wanted[name], golden)
    assert any("mha_mem_to_mem" in name for name in expected["grad_none"]) == bool(none)


def test_the_released_loop_trains_as_published(golden: Golden) -> None:
    """One clipped AdamW update per segment (DT: per window), two passes over the batch."""
    recipe, model = require(golden, "recipe"), ours(golden)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe["lr"], betas=recipe["betas"], weight_decay=0.01)
    inputs, batch, losses, norms = golden["inputs"], steps_of(golden), [], []
    length = inputs["segment_len"] * (inputs["n_segments"] if recipe["partition"] == "full" else 1)
    for _ in range(recipe["passes"]):
        memory: Any = None
        for segment in batch.split(length):
            memory = model.initial_memory(batch.batch_size) if memory is None else memory
            output, memory = model(segment, memory)
            value = loss(model, golden, segment, output.prediction)
            optimizer.zero_grad()
            value.backward()
            norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), recipe["grad_norm_clip"])))
            losses.append(float(value.detach()))
            optimizer.step()
    # Adam divides by the size of a gradient: where it is rounding, so is the step. Exact in float64.
    close = {"float32": 1e-3, "float64": 1e-7}[golden["dtype"]]
    assert losses == pytest.approx(recipe["losses"], rel=close)
    assert norms == pytest.approx(recipe["grad_norms_before_clip"], rel=close)


@torch.no_grad()
def test_a_decision_transformer_of_images() -> None:
    path = SHARED / IMAGES
    if not path.is_file():
        pytest.skip(f"{path} is not on this machine")
    golden = load(path)
    config, inputs = golden["config"], golden["inputs"]
    model = build(model_config(config, "DT", 2), role="model", spec=task_spec(config, "DT")).double()
    model.load_state_dict(convert_weights(golden["state_dict"], model.state_dict(), config, "DT"))
    model.eval()
    batch = SegmentBatch.of({"state": inputs["images"]}, inputs["actions"])
    batch.return_to_go = inputs["rtgs"][..., 0]
    output, _ = model(batch, model.initial_memory(1))
    same(output.prediction, golden["logits"], golden)
    same(model.observation(batch.observation).flatten(0, 1), golden["features"], golden)


CONFIG = load(OURS)["config"]
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "pre_lnorm": ("RATE", {"pre_lnorm": True}, "pre_lnorm: expected False, found True"),
    "ext_len": ("RATE", {"ext_len": 3}, "ext_len: expected 0, found 3"),
    "a number": ("RATE", {"d_model": "32"}, "d_model: expected a whole number from 2, found '32'"),
    "a flag": ("RATE", {"mem_at_end": 1}, "mem_at_end: expected true or false, found 1"),
    "no cache length": ("TrXL", {"mem_len": None}, "mem_len: expected a whole number from 0, found None"),
    "no tokens": ("RMT", {"num_mem_tokens": 0}, "num_mem_tokens: expected a whole number from 1 for RMT, found 0"),
    "activation": ("RATE", {"mrv_act": "gelu"}, "mrv_act: expected one of relu, leaky_relu, elu, tanh, no_act"),
    "architecture": ("RATE", {"arch_mode": "XL"}, "arch_mode: expected one of TrXL, TrXL-I, GTrXL, found 'XL'"),
    "dropout": ("DT", {"dropatt": 1.5}, "dropatt: expected a number from 0 up to below 1, found 1.5"),
    "no width": ("DT", {"d_inner": 0, "skip_dec_ffn": False}, "d_inner: expected a whole number from 1, found 0"),
    "gates without": ("RATE", {"use_gate": True, "use_stable_version": True}, "skip_dec_ffn: expected false"),
    "unknown": ("RATE", {"memory_size": 4}, "memory_size: unknown"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_configuration_that_cannot_be_imported(name: str) -> None:
    mode, changes, message = REFUSED[name]
    with pytest.raises(PublishedError) as error:
        model_config({**CONFIG, **changes}, mode, 30)
    assert message in str(error.value)


ARCHITECTURES = {"TrXL": "TwicePostNorm", "TrXL-I": "TwiceRectified", "GTrXL": "TwiceGated"}


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("mode", MODES)
def test_what_a_mode_uses_is_built(mode: str, arch: str) -> None:
    """Modes and architectures as the table of the released trainer has them, whatever else the configuration says."""
    config = {**CONFIG, "arch_mode": arch, "skip_dec_ffn": False, "use_gate": None, "use_stable_version": None}
    model = build(model_config(config, mode, 30), role="model", spec=task_spec(config, mode))
    names = {name.partition(".")[0] for name, _ in model.named_parameters()}
    assert ("memory_tokens" in names, "valve" in names) == (mode in ("RATE", "RMT"), mode == "RATE")
    cached = getattr(model.initial_memory(1), "cached", None)
    assert (cached is not None) == (mode in ("RATE", "TrXL"))
    assert type(model.trunk.layers[0].attention_residual).__name__ == ARCHITECTURES[arch]


@torch.no_grad()
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_an_imported_trxl_caches_all_but_the_last_action_of_a_segment_acted_in(arch: str) -> None:
    """No token sees a later one, so that these are the rows of the whole window without its last one."""
    config = {**CONFIG, "arch_mode": arch, "skip_dec_ffn": False, "use_gate": None, "use_stable_version": None}
    model = build(model_config(config, "TrXL", 30), role="model", spec=task_spec(config, "TrXL")).double().eval()
    segment, first = random_steps(model.spec, 2, 4), model.initial_memory(2)
    whole, (_, acted) = model(segment, first)[1], stepped(model, segment, first)
    assert whole.filled.tolist() == [12, 12] and acted.filled.tolist() == [11, 11]
    torch.testing.assert_close(acted.cached[:, :, -11:], whole.cached[:, :, -12:-1], rtol=0, atol=1e-12)


def test_keys_that_a_configuration_leaves_out_are_those_of_the_released_class() -> None:
    """`mem_at_end=True, mrv_act="relu"`; null is left out."""
    said = model_config({**CONFIG, "mem_at_end": True, "mrv_act": "relu"}, "RATE", 30)
    assert said["tokens"]["at_end"] is True and said["valve"]["mrv_act"] == "relu"
    left_out = {key: value for key, value in CONFIG.items() if key not in ("mem_at_end", "mrv_act")}
    for config in (left_out, {**CONFIG, "mem_at_end": None, "mrv_act": None}):
        assert model_config(config, "RATE", 30) == said


def test_a_rate_without_tokens_is_a_trxl() -> None:
    """A valve that it owns has nothing to work on; its weights are left."""
    config = {**CONFIG, "num_mem_tokens": 0}
    assert model_config(config, "RATE", 30) == model_config(CONFIG, "TrXL", 30)
    model = build(model_config(config, "RATE", 30), role="model", spec=task_spec(config, "RATE"))
    state = {name: w for name, w in load(OURS)["state_dict"].items() if name != "mem_tokens"}
    assert any(name.startswith("mha_mem_to_mem") for name in state)
    model.load_state_dict(convert_weights(state, model.state_dict(), config, "RATE"))


def test_popgym_embeds_actions_as_they_are_and_pendulum_squashes_numbers() -> None:
    config = {**CONFIG, "env_name": "popgym-CountRecallEasy"}
    weights = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    model = build(model_config(config, "DT", 30), role="model", spec=task_spec(config, "DT"))
    model.action.net.weight.data.copy_(weights)
    mask = torch.tensor([[True, False]])
    assert torch.equal(model.action(torch.tensor([[2, 0]]), mask)[0], weights[[2, 4]])
    config = {**CONFIG, "env_name": "popgym-PositionOnlyPendulumEasy", "act_dim": 1}
    model = build(model_config(config, "DT", 30), role="model", spec=task_spec(config, "DT"))
    number = torch.tensor([[[0.7]]])
    expected = torch.tanh(model.action.net.weight[:, 0] * 0.7 + model.action.net.bias)
    torch.testing.assert_close(model.action(number, mask[:, :1])[0, 0], expected)
    padding = torch.tanh(model.action.net.weight[:, 0] * -10 + model.action.net.bias)
    torch.testing.assert_close(model.action(number, mask[:, 1:])[0, 0], padding)
    state = {name: w for name, w in load(OURS)["state_dict"].items() if "embeddings" not in name}
    state |= {"action_embeddings.weight": torch.ones(32, 1), "action_embeddings.bias": torch.ones(32)}
    state["head.weight"] = torch.ones(1, 32)
    dt = {"n_head_ca": 0, "num_mem_tokens": 0}
    state = {name: w for name, w in state.items() if not name.startswith("mem_tokens")}
    ours = convert_weights(state, model.state_dict(), {**config, **dt}, "DT")
    assert not ours["head.linear.bias"].any(), "its head has no bias"


def test_weights_that_take_no_part_are_left_and_others_are_not() -> None:
    dead = unused({"use_gate": True, "use_stable_version": False, "n_head_ca": 0})
    assert dead("layers.1.gate_mlp.bg") and dead("mha_mem_to_mem.wq.weight") and dead("layers.0.pos_ff.layer_norm.bias")
    used = unused({"use_gate": True, "use_stable_version": True, "n_head_ca": 2})
    assert not used("layers.1.gate_mlp.bg") and not used("mha_mem_to_mem.wq.weight") and not used("mem_tokens")
    golden = load(OURS)
    state = {name: w for name, w in golden["state_dict"].items() if name != "layers.1.dec_attn.qkv_net.weight"}
    state |= {"novel.weight": torch.zeros(1), "mem_tokens": torch.zeros(4, 1, 32)}
    expected = ours(golden).state_dict()
    with pytest.raises(PublishedError) as error:
        convert_weights(state, expected, golden["config"], "RATE")
    for part in ("missing ['layers.1.dec_attn.qkv_net.weight'", "unknown ['novel.weight']", "memory_tokens.first"):
        assert part in str(error.value)
