"""BC, DLSTM, DGRU and Decision Mamba: the published models' outputs and gradients from their weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from elmur.baselines.mamba import Mamba
from elmur.baselines.mlp import MLPPolicy
from elmur.baselines.recurrent import GRU, LSTM
from elmur.sequence_model import SequenceModel
from tests.elmur.baselines import golden as files

pytestmark = pytest.mark.skipif(not files.FOLDER.exists(), reason=files.ABSENT)

UNUSED = {r"embed_timestep\.|pos_emb|global_pos_emb": ""}
STATES_ONLY = {**UNUSED, r"action_embeddings\.": "", r"ret_emb\.": ""}
BLOCK = {
    **UNUSED,
    r"blocks\.(\d)\.norm_mamba\.": r"layers.\1.mixer_residual.norm.",
    r"blocks\.(\d)\.mamba\.in_proj\.": r"layers.\1.mixer.into.",
    r"blocks\.(\d)\.mamba\.conv1d\.": r"layers.\1.mixer.convolution.",
    r"blocks\.(\d)\.mamba\.x_proj\.": r"layers.\1.mixer.select.",
    r"blocks\.(\d)\.mamba\.dt_proj\.": r"layers.\1.mixer.step.",
    r"blocks\.(\d)\.mamba\.out_proj\.": r"layers.\1.mixer.out.",
    r"blocks\.(\d)\.mamba\.D$": r"layers.\1.mixer.skip",
    r"blocks\.(\d)\.mamba\.A_log": r"layers.\1.mixer.A_log",
    r"blocks\.(\d)\.ln2\.": r"layers.\1.feedforward_residual.norm.",
    r"blocks\.(\d)\.mlp_channels\.0\.": r"layers.\1.feedforward.up.",
    r"blocks\.(\d)\.mlp_channels\.2\.": r"layers.\1.feedforward.down.",
    r"ln_f\.": "norm.",
}


def decision_mamba(spec: Any, d_model: int, config: dict[str, Any], norm_type: str) -> SequenceModel:
    return Mamba(spec, d_model, config["n_layer"], d_ff=4 * d_model, token_format="sra", norm_type=norm_type)


BUILD: dict[str, tuple[Callable[..., SequenceModel], dict[str, str]]] = {
    "bc_mlp": (
        lambda spec, d_model, config: MLPPolicy(spec, d_model, config["hidden_layers"]),
        {**STATES_ONLY, r"backbone_net\.0\.": "layers.0.", r"backbone_net\.2\.": "layers.1."},
    ),
    "bc_lstm": (lambda spec, d_model, config: LSTM(spec, d_model), {**STATES_ONLY, r"backbone_net\.": "lstm."}),
    "dlstm": (lambda spec, d, config: LSTM(spec, d, token_format="sra"), {**UNUSED, r"backbone_net\.": "lstm."}),
    "dlstm_f64": (lambda spec, d, config: LSTM(spec, d, token_format="sra"), {**UNUSED, r"backbone_net\.": "lstm."}),
    "dgru": (lambda spec, d, config: GRU(spec, d, token_format="sra"), {**UNUSED, r"backbone_net\.": "gru."}),
    "dmamba_mamba": (partial(decision_mamba, norm_type="layer"), BLOCK),
    "dmamba_min": (partial(decision_mamba, norm_type="rmsnorm"), BLOCK),
}


def ours(name: str) -> tuple[dict[str, Any], SequenceModel, dict[str, str]]:
    """The file, our model with the weights in it, and which of the published parameters became which of ours."""
    golden, (build, names) = files.load(name), BUILD[name]
    model = build(files.spec_of(golden), golden["config"]["d_model"], config=golden["config"])
    return golden, model, files.take_weights(model, golden, names)


def first_state(golden: dict[str, Any], model: SequenceModel) -> Any:
    """The state that the published code drew at random; ours where it has none."""
    lane_first = [golden["inputs"][key].transpose(0, 1) for key in ("h0", "c0") if golden["inputs"][key] is not None]
    if not lane_first:
        return model.initial_memory(golden["inputs"]["states"].shape[0])
    return lane_first[0] if len(lane_first) == 1 else tuple(lane_first)


@pytest.mark.parametrize("name", BUILD)
def test_one_window(name: str) -> None:
    golden, model, pairs = ours(name)
    batch = files.window(golden)
    output, after = model(batch, first_state(golden, model))
    files.assert_close(output.prediction, golden["full"]["logits"], name, "logits")
    total = files.loss(output.prediction, batch)
    assert total.item() == pytest.approx(golden["full"]["loss"], rel=1e-5)
    files.assert_gradients(model, total, golden["grads_full"], pairs, name)
    for mine, key in zip(after if isinstance(after, tuple) else (after,), ("h", "c"), strict=False):
        if golden["full"].get(key) is not None:
            files.assert_close(mine.transpose(0, 1), golden["full"][key], name, key)


@pytest.mark.parametrize("name", BUILD)
def test_segments(name: str) -> None:
    """One after another, with the state of the one before where the published model carries any."""
    golden, model, pairs = ours(name)
    memory = first = first_state(golden, model)
    losses = []
    for segment, expected in zip(
        files.window(golden).split(golden["inputs"]["segment_len"]), golden["segments"], strict=True
    ):
        output, memory = model(segment, memory if golden["carries_state"] else first)
        files.assert_close(output.prediction, expected["logits"], name, "logits")
        losses.append(files.loss(output.prediction, segment))
        assert losses[-1].item() == pytest.approx(expected["loss"], rel=1e-5)
    if golden["carries_state"]:
        files.assert_gradients(model, torch.stack(losses).sum(), golden["grads_bptt"], pairs, name)
