"""Published configurations and weights in our terms: parameter counts, keys, errors, a whole round through names."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from elmur.build import build
from elmur.model import ELMUR
from elmur.positional import Learnable
from elmur.published.config import DEFAULTS, PublishedError, check_keys, model_config, task_spec
from elmur.published.quirks import DatedByStart, Mirrored, PublishedLRU, PublishedRelative, PublishedReplaceAll
from elmur.published.weights import Reader, convert_weights, encoder_weight
from elmur.spec import Discrete, Image, Vector

COMMON: dict[str, Any] = {
    "d_ff": 128, "detach_memory": True, "expert_dropout": None, "max_seq_len": 1024, "pos_type": "relative",
    "pre_lnorm": False, "sequence_format": "s", "use_causal_self_attn_mask": True, "use_lru": True, "use_moe": True,
    "use_shared_expert": True, "use_swiglu": False, "use_tok2mem": True, "use_mem2tok": True, "use_relative_bias": True,
    "use_shared_memory": False, "norm_type": "layer",
}  # fmt: skip
TMAZE = COMMON | {
    "env_name": "tmaze", "state_dim": 4, "act_dim": 4, "d_model": 128, "n_layer": 2, "n_head": 2, "memory_size": 2,
    "memory_init_std": 0.001, "lru_blend_alpha": 0.79, "dropout": 0.1, "dropatt": 0.17, "memory_dropout": 0.01,
    "num_experts": 2, "top_k": 3, "n_shared_experts": 2, "routed_d_ff": 32, "shared_d_ff": 512,
    "load_balancing_loss_coef": 0.1, "label_smoothing": 0.16, "padding_idx": -10,
}  # fmt: skip
REMEMBER_COLOR = COMMON | {
    "env_name": "mikasa_robo_RememberColor3-v0", "state_dim": 6, "act_dim": 8, "d_model": 128, "n_layer": 4,
    "n_head": 16, "memory_size": 256, "memory_init_std": 0.1, "num_experts": 16, "top_k": 2, "n_shared_experts": 1,
    "routed_d_ff": 128, "shared_d_ff": 128,
}  # fmt: skip
TAKE_IT_BACK = COMMON | {
    "env_name": "mikasa_robo_TakeItBack-v0", "state_dim": 6, "act_dim": 8, "d_model": 32, "n_layer": 2, "n_head": 16,
    "memory_size": 32, "memory_init_std": 0.001, "num_experts": 1, "top_k": 1, "n_shared_experts": 1,
    "routed_d_ff": 256, "shared_d_ff": 32,
}  # fmt: skip
AUTOENCODE = COMMON | {
    "env_name": "popgym-AutoencodeEasy", "state_dim": -1, "act_dim": 4, "d_model": 64, "n_layer": 12, "n_head": 4,
    "memory_size": 8, "memory_init_std": 0, "norm_type": "rmsnorm", "num_experts": 1, "top_k": 1,
    "n_shared_experts": 2, "routed_d_ff": 128, "shared_d_ff": 256,
}  # fmt: skip


def make(config: dict[str, Any]) -> ELMUR:
    model = build(model_config(config), spec=task_spec(config))
    assert isinstance(model, ELMUR)
    return model


@pytest.mark.parametrize(
    ("config", "published", "action_embedding"),
    [
        (TMAZE, 2_111_740, (4 + 1) * 128),  # a table with a row for padding
        (REMEMBER_COLOR, 8_954_728, (8 + 1) * 128),  # a linear map with bias
        (TAKE_IT_BACK, 581_320, (8 + 1) * 32),
        (AUTOENCODE, 3_694_224, (4 + 1) * 64),
    ],
    ids=["tmaze", "remember color", "take it back", "autoencode easy"],
)
def test_parameter_counts(config: dict[str, Any], published: int, action_embedding: int) -> None:
    """Those of the publication, less the embeddings of actions and returns, which format s never uses."""
    return_embedding = 2 * config["d_model"]
    assert make(config).num_parameters() == published - action_embedding - return_embedding


def test_with_actions_and_returns_in_the_sequence_nothing_is_left_out() -> None:
    assert make(TMAZE | {"sequence_format": "sra"}).num_parameters() == 2_111_740


def test_the_tasks() -> None:
    assert task_spec(TMAZE).observation == {"state": Vector(4)} and task_spec(TMAZE).action == Discrete((4,))
    assert task_spec(REMEMBER_COLOR).observation == {"state": Image(6, 128, 128)}
    assert task_spec(REMEMBER_COLOR).action == Vector(8, low=(-1.0,) * 8, high=(1.0,) * 8)
    assert task_spec(AUTOENCODE).observation == {"state": Vector(1)}
    pendulum = task_spec(AUTOENCODE | {"env_name": "popgym-PositionOnlyPendulumEasy", "state_dim": 3, "act_dim": 1})
    assert pendulum.observation == {"state": Vector(3)} and pendulum.action == Vector(1)


def test_popgym_embeds_actions_as_they_are_and_pendulum_squashes_numbers_and_has_no_bias() -> None:
    """As for RATE's models: Embedding alone, Linear and Tanh, a head without bias."""
    count = make(AUTOENCODE | {"sequence_format": "sra"})
    assert count.action is not None and not count.action.tanh
    assert make(TMAZE | {"sequence_format": "sra"}).action.tanh  # type: ignore[union-attr]
    config = AUTOENCODE | {"env_name": "popgym-PositionOnlyPendulumEasy", "act_dim": 1, "sequence_format": "sra"}
    pendulum = make(config)
    assert pendulum.action is not None and pendulum.action.tanh
    expected = pendulum.state_dict()
    reader = Reader({"head.weight": torch.full((1, config["d_model"]), 2.0)})
    assert torch.equal(encoder_weight("head.linear.bias", reader), torch.zeros_like(expected["head.linear.bias"]))
    assert reader.missing == [] and encoder_weight("head.linear.weight", reader).unique().tolist() == [2.0]


def test_each_published_key_arrives() -> None:
    model = make(TMAZE)
    assert model.design is not None and isinstance(model.design.write, PublishedLRU)
    assert (model.design.memory_size, model.design.memory_init_std, model.design.memory_dropout) == (2, 0.001, 0.01)
    assert model.design.write.blend == 0.79
    assert isinstance(model.steps, Mirrored) and isinstance(model.position, PublishedRelative)
    assert model.layers[0].feedforward.balance_coef == 0.1 and model.layers[0].feedforward.routed_per_token == 1
    assert model.layers[0].attention.dropatt == 0.17 and model.dropout.p == 0.1
    assert model.layers[0].attention_residual.norm.eps == 1e-8
    assert model.state_dict()["layers.0.bias.table.weight"].shape == (2047, 2)


def test_switches_and_fallbacks() -> None:
    off = make(TMAZE | {"use_tok2mem": False, "use_mem2tok": None, "use_relative_bias": None, "memory_dropout": None})
    assert off.layers[0].reader is None and off.layers[0].write_rule is None and off.layers[0].bias is None
    assert off.design is not None and off.design.memory_dropout == 0.1
    every = make(TMAZE | {"use_lru": False, "pos_type": "rope"})
    assert isinstance(every.layers[0].write_rule, PublishedReplaceAll) and isinstance(every.steps, DatedByStart)
    learned = make(TMAZE | {"pos_type": "learnable", "max_seq_len": 50})
    assert isinstance(learned.position, Learnable) and learned.position.table.num_embeddings == 50
    plain = make(TMAZE | {"use_shared_expert": False, "routed_d_ff": None, "top_k": 1})
    assert plain.layers[0].feedforward.num_shared == 0 and plain.layers[0].feedforward.routed_d_ff == 128


def test_keys_that_are_absent_take_the_published_defaults() -> None:
    full = check_keys({"env_name": "tmaze", "state_dim": 4, "act_dim": 4})
    assert {key: full[key] for key in DEFAULTS} == DEFAULTS


def test_missing_and_unknown_keys_of_a_configuration_are_listed_together() -> None:
    with pytest.raises(PublishedError) as error:
        model_config({"env_name": "tmaze", "state_dim": 4, "n_heads": 2, "layers": 3})
    assert "missing ['act_dim']" in str(error.value)
    assert "unknown ['layers', 'n_heads']" in str(error.value)


@pytest.mark.parametrize(("name", "says"), [("spiral", "found 'spiral'"), ("yarn", "its weights cannot be run")])
def test_positions_that_cannot_be_run_are_refused(name: str, says: str) -> None:
    with pytest.raises(PublishedError, match=says):
        model_config(TMAZE | {"pos_type": name})


SMALL = TMAZE | {"d_model": 8, "shared_d_ff": 6, "routed_d_ff": 4, "max_seq_len": 5, "n_layer": 1}


def published_weights() -> dict[str, torch.Tensor]:
    """A published state dict of the configuration SMALL, every tensor of its own random numbers."""
    shapes: dict[str, tuple[int, ...]] = {
        "r_w_bias": (2, 4), "r_r_bias": (2, 4), "pos_emb.inv_freq": (4,), "state_encoder.weight": (8, 4),
        "state_encoder.bias": (8,), "action_embeddings.0.weight": (5, 8), "ret_emb.weight": (8, 1),
        "ret_emb.bias": (8,), "head.weight": (4, 8), "layers.0.self_attention.qkv_net.weight": (24, 8),
        "layers.0.self_attention.r_net.weight": (8, 8), "layers.0.self_attention.o_net.weight": (8, 8),
        "layers.0.cross_rel_bias.bias.weight": (9, 2),
    }  # fmt: skip
    norms = ("self_attention.layer_norm", "token_ffn.layer_norm", "memory_ffn.layer_norm")
    for norm in (*norms, "token_norm_cross", "memory_norm_cross"):
        shapes |= {f"layers.0.{norm}.weight": (8,), f"layers.0.{norm}.bias": (8,)}
    for cross in ("cross_attention1", "cross_attention2"):
        shapes |= {f"layers.0.{cross}.{w}.weight": (8, 8) for w in ("w_q", "w_k", "w_v", "w_o")}
        shapes[f"layers.0.{cross}.w_o.bias"] = (8,)
    for core in ("layers.0.token_ffn.core_net.", "layers.0.memory_ffn.core_net."):
        shapes[f"{core}router.linear.weight"] = (2, 8)
        for kind, width in (("experts", 4), ("shared_experts", 6)):
            for e in range(2):
                expert = f"{core}{kind}.{e}.swiglu."
                shapes |= {f"{expert}{m}_proj.weight": (width, 8) for m in ("gate", "up")}
                shapes[f"{expert}down_proj.weight"] = (8, width)
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def test_weights_find_their_places() -> None:
    weights, model = published_weights(), make(SMALL)
    found = convert_weights(weights, model.state_dict())
    model.load_state_dict(found)
    base = "layers.0."
    assert torch.equal(found[base + "reader.key_value.weight"][8:], weights[base + "cross_attention1.w_v.weight"])
    assert torch.equal(found[base + "writer.query.weight"], weights[base + "cross_attention2.w_q.weight"])
    fused, core = found[base + "memory_feedforward.gate_up.weight"], base + "memory_ffn.core_net."
    assert fused.shape == (2 * (6 + 6 + 4 + 4), 8)
    assert torch.equal(fused[6:12], weights[core + "shared_experts.1.swiglu.gate_proj.weight"])
    assert torch.equal(fused[20 + 16 :], weights[core + "experts.1.swiglu.up_proj.weight"])
    assert torch.equal(
        found[base + "feedforward.down.weight"][:, 12:16],
        weights[base + "token_ffn.core_net.experts.0.swiglu.down_proj.weight"],
    )
    used = sum(value.numel() for value in found.values())
    unused = sum(weights[name].numel() for name in weights if name.startswith(("action_emb", "ret_emb", "pos_emb")))
    assert used + unused == sum(value.numel() for value in weights.values()), "every number has one place"


def test_missing_unknown_and_misshapen_weights_are_listed_together() -> None:
    weights, model = published_weights(), make(SMALL)
    del weights["layers.0.cross_attention1.w_k.weight"], weights["head.weight"]
    weights["layers.7.surprise"] = torch.zeros(1)
    weights["r_w_bias"] = torch.zeros(3, 4)
    weights["layers.0.memory_norm_cross.bias"] = torch.zeros(9)
    with pytest.raises(PublishedError) as error:
        convert_weights(weights, model.state_dict())
    said = str(error.value)
    for expected in (
        "'layers.0.cross_attention1.w_k.weight'", "head.weight", "unknown ['layers.7.surprise']",
        "position.content_bias: expected [2, 4], found [3, 4]",
        "layers.0.write_residual.norm.bias: expected [8], found [9]",
    ):  # fmt: skip
        assert expected in said


def test_weights_of_more_layers_are_unknown_and_of_fewer_missing() -> None:
    weights = published_weights()
    with pytest.raises(PublishedError, match=r"missing \['layers\.1\."):
        convert_weights(weights, make(SMALL | {"n_layer": 2}).state_dict())
    two = weights | {k.replace("layers.0.", "layers.1."): v for k, v in weights.items()}
    with pytest.raises(PublishedError, match=r"unknown \['layers\.1\."):
        convert_weights(two, make(SMALL).state_dict())


def test_weights_of_another_width_are_refused() -> None:
    with pytest.raises(PublishedError, match=r"head\.linear\.weight: expected \[4, 16\], found \[4, 8\]"):
        convert_weights(published_weights(), make(SMALL | {"d_model": 16}).state_dict())
