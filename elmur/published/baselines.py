"""Runs of the released RATE code's own models (RATE, RMT, TrXL, DT) in our terms: their configuration, their weights.

All four are one class there, and a mode says which parts of it are used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from elmur.baselines.valve import ACTIVATIONS
from elmur.published.config import Key, PublishedError, misfits, one_of, token_format, whole
from elmur.published.config import task_spec as task_spec_of
from elmur.published.weights import Reader, encoder_weight
from elmur.spec import TaskSpec, Vector

# What the trainer sets for a mode, whatever the configuration says.
WITHOUT_MEMORY = {"num_mem_tokens": 0, "mem_at_end": False, "n_head_ca": 0}
MODES: dict[str, dict[str, Any]] = {
    "RATE": {}, "RMT": {"mem_len": 0, "n_head_ca": 0, "mem_at_end": True}, "TrXL": WITHOUT_MEMORY,
    "DT": {"mem_len": 0, **WITHOUT_MEMORY},
}  # fmt: skip
# use_gate and use_stable_version -> how attention joins the stream, how the feed-forward does. Gates without the stable
# version are built there and not used.
JOINS = {
    (False, False): ("elmur.published.layers.TwicePostNorm", "elmur.residual.PostNorm"),
    (True, False): ("elmur.published.layers.TwicePostNorm", "elmur.residual.PostNorm"),
    (False, True): ("elmur.published.layers.TwiceRectified", "elmur.published.layers.Rectified"),
    (True, True): ("elmur.published.layers.TwiceGated", "elmur.residual.Gated"),
}
ARCHITECTURES = {"TrXL": (False, False), "TrXL-I": (False, True), "GTrXL": (True, True)}  # arch_mode
SWITCH = Key("true or false", lambda v: type(v) is bool)
PART = Key("a number from 0 up to below 1", lambda v: type(v) in (int, float) and 0 <= v < 1)
SWITCHES = ("mem_at_end", "skip_dec_ffn", "use_gate", "use_stable_version")
# Of the published class, for keys that a run's configuration does not hold.
DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(SWITCHES, False), "mem_at_end": True, "mrv_act": "relu", "num_mem_tokens": 0, "n_head_ca": 0,
    "dropout": 0.2,
}  # fmt: skip


def only(*values: Any) -> Key:
    """One of these values, or null: others are other models, of which there are no weights to compare with."""
    says = " or ".join(map(str, values))
    return Key(says, lambda v: v is None or v in values, but=", which cannot be imported")


KEYS: dict[str, Key] = {
    "ext_len": only(0), "pre_lnorm": only(False), "attn_type": only(0), "clamp_len": only(-1),
    "same_length": only(False), "read_mem_from_cache": only(False), "sample_softmax": only(-1),
    "dtype": only("float32", "float64"),  # in bfloat16 the released models stop with an error
    "state_dim": whole(-1), "act_dim": whole(1), "n_layer": whole(1), "n_head": whole(1), "d_model": whole(2),
    "d_head": whole(1), "mem_len": whole(0), "num_mem_tokens": whole(0), "n_head_ca": whole(0), "dropout": PART,
    "dropatt": PART, "env_name": Key("a name", lambda v: isinstance(v, str)), **dict.fromkeys(SWITCHES, SWITCH),
}  # fmt: skip
IGNORED = {
    "padding_idx", "max_ep_len", "label_smoothing", "mode", "model_mode", "arch_mode", "tgt_len", "d_inner",
    "mrv_act",
}  # fmt: skip
# What the class owns and never uses, and what it owns and a configuration leaves unused.
UNUSED = re.compile(r"embed_timestep\.|embed_ln\.|pos_emb\.inv_freq$|layers\.\d+\.(dec_attn|pos_ff)\.layer_norm\.")


def check_keys(config: Mapping[str, Any], mode: str) -> dict[str, Any]:
    """The model section of a run's `config.json` as its mode uses it. Raises PublishedError listing bad keys."""
    arch = str(config.get("arch_mode") or "TrXL")
    if arch not in ARCHITECTURES:
        raise PublishedError(f"arch_mode: expected one of {', '.join(ARCHITECTURES)}, found {arch!r}")
    flags = dict(zip(("use_gate", "use_stable_version"), ARCHITECTURES[arch], strict=True))
    full = {**DEFAULTS, **flags, **{k: v for k, v in config.items() if v is not None}, **MODES[mode]}
    if not full["num_mem_tokens"]:
        full |= {"mem_at_end": False, "n_head_ca": 0}
    keys = dict(KEYS)
    if not full["skip_dec_ffn"]:
        keys["d_inner"] = whole(1)
    if mode == "RMT":
        keys["num_mem_tokens"] = Key("a whole number from 1 for RMT", whole(1).fits)
    if full["n_head_ca"]:
        keys["mrv_act"] = one_of(*ACTIVATIONS)
    if full["use_stable_version"]:
        keys["skip_dec_ffn"] = Key("false with use_stable_version (the model crashes there)", lambda v: v is False)
    problems = [f"{key}: unknown" for key in full if key not in {*KEYS, *IGNORED}]
    problems += misfits(full, keys)
    if problems:
        raise PublishedError(f"the model section of config.json does not fit a {mode}: {'; '.join(problems)}")
    return full


def task_spec(config: Mapping[str, Any], mode: str) -> TaskSpec:
    """The TaskSpec that a published model was built for; env_name `mujoco` has vectors and a tanh head."""
    full = check_keys(config, mode)
    spec = task_spec_of({key: full[key] for key in ("env_name", "state_dim", "act_dim")})
    if full["env_name"] == "mujoco":
        ones = (1.0,) * full["act_dim"]
        spec = replace(spec, action=Vector(full["act_dim"], low=tuple(-one for one in ones), high=ones))
    return spec


def model_config(config: Mapping[str, Any], mode: str, window: int) -> dict[str, Any]:
    """A configuration of ours that computes what the published model computes with these keys.

    window: steps that the published trainer gives DT at once.
    """
    full = check_keys(config, mode)
    attention, feedforward = JOINS[full["use_gate"], full["use_stable_version"]]
    mlp = {"_target_": "elmur.feedforward.MLP", "_partial_": True, "activation": "relu"}
    ours = {
        **{key: full[key] for key in ("d_model", "n_layer", "n_head", "dropout", "dropatt")},
        "token_format": token_format("sra", full["env_name"]),
        "d_head": full["d_head"],
        "feedforward": None if full["skip_dec_ffn"] else {**mlp, "d_ff": full["d_inner"]},
        "residual": {"_target_": feedforward, "_partial_": True},
        "attention_residual": {"_target_": attention, "_partial_": True},
    }
    if mode == "DT":
        return {"_target_": "elmur.baselines.decision_transformer.DecisionTransformer", "window": window, **ours}
    if not full["num_mem_tokens"]:
        return {"_target_": "elmur.published.trxl.PublishedTrXL", "mem_len": full["mem_len"], **ours}
    ours["tokens"] = {
        "_target_": "elmur.baselines.memory_tokens.AsPublished", "_partial_": True,
        "num_mem_tokens": full["num_mem_tokens"], "at_end": full["mem_at_end"],
    }  # fmt: skip
    if mode == "RMT":
        return {"_target_": "elmur.baselines.rmt.RMT", **ours}
    valve = {"_target_": "elmur.baselines.valve.Valve", "_partial_": True}
    if full["n_head_ca"]:
        valve = {
            "_target_": "elmur.baselines.valve.PublishedValve", "_partial_": True, "n_head_ca": full["n_head_ca"],
            "dropatt": full["dropatt"], "mrv_act": full["mrv_act"],
        }  # fmt: skip
    return {"_target_": "elmur.baselines.rate.RATE", "mem_len": full["mem_len"], "valve": valve, **ours}


def window(mode: str, context_length: int, sections: int) -> int:
    """Steps that the published trainer gives the model at once: DT gets all segments as one."""
    return context_length * sections if mode == "DT" else context_length


def unused(full: Mapping[str, Any]) -> Callable[[str], bool]:
    """Whether a tensor of the published model, by its name, takes no part in what it computes."""
    found = [UNUSED.pattern]
    if not (full["use_gate"] and full["use_stable_version"]):
        found.append(r"layers\.\d+\.gate_(mha|mlp)\.")
    if not full["n_head_ca"]:
        found.append(r"mha_mem_to_mem\.")
    pattern = re.compile("|".join(found))
    return lambda name: pattern.match(name) is not None


def convert_weights(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], config: Mapping[str, Any], mode: str
) -> dict[str, Tensor]:
    """Our state dict from a published one. `expected` is the state dict of the model built from its configuration.

    Raises PublishedError listing missing keys, unknown keys and shapes that do not fit.
    """
    read, dead = Reader(state), unused(check_keys(config, mode))
    ours = {name: _published(name, read) for name in expected}
    return read.checked(ours, expected, dead)


def _published(name: str, read: Reader) -> Tensor:
    """The published tensor(s) that make up our parameter `name`."""
    if name == "memory_tokens.first":
        return read("mem_tokens").squeeze(1)
    if (part := re.match(r"trunk\.position\.(\w+)_bias", name)) is not None:
        return read({"content": "r_w_bias", "distance": "r_r_bias"}[part[1]])
    if (part := re.match(r"valve\.attention\.(\w+)\.(\w+)", name)) is not None:
        names = {"query": ["wq"], "key_value": ["wk", "wv"], "out": ["dense"]}[part[1]]
        return read(*[f"mha_mem_to_mem.{n}.{part[2]}" for n in names])
    if (part := re.match(r"trunk\.layers\.(\d+)\.(.*)", name)) is None:
        return encoder_weight(name, read)
    base, inner = f"layers.{part[1]}.", part[2]
    if inner in ("attention.query.weight", "attention.key_value.weight"):
        together = read(base + "dec_attn.qkv_net.weight")
        third = len(together) // 3
        return together[:third] if "query" in inner else together[third:]
    gate = re.match(r"(attention|feedforward)_residual\.gate\.(\w+)", inner)
    if gate is not None:
        kind = base + {"attention": "gate_mha", "feedforward": "gate_mlp"}[gate[1]]
        if gate[2] == "bias":
            return read(f"{kind}.bg")
        names = {"of_candidate": ["Wr", "Wz", "Wg"], "of_stream": ["Ur", "Uz"], "of_reset": ["Ug"]}[gate[2]]
        return read(*[f"{kind}.{n}.weight" for n in names])
    place, _, kind = inner.rpartition(".")
    published = {
        "attention.out": "dec_attn.o_net", "attention.distances": "dec_attn.r_net",
        "attention_residual.norm": "layer_norm1", "feedforward_residual.norm": "layer_norm2",
        "feedforward.up": "pos_ff.CoreNet.0", "feedforward.down": "pos_ff.CoreNet.3",
    }  # fmt: skip
    return read(f"{base}{published[place]}.{kind}")
