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
from elmur.published.config import PublishedError, token_format
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
COUNTS = {"state_dim": -1, "act_dim": 1, "n_layer": 1, "n_head": 1, "d_model": 2, "d_head": 1, "mem_len": 0}  # from
FLAGS = ("mem_at_end", "skip_dec_ffn", "use_gate", "use_stable_version")
# Keys whose other values are other models, of which there are no weights to compare with: what they must be.
FIXED: dict[str, tuple[Any, ...]] = {
    "ext_len": (0, None), "pre_lnorm": (False, None), "attn_type": (0, None), "clamp_len": (-1, None),
    "same_length": (False, None), "read_mem_from_cache": (False, None), "sample_softmax": (-1, None),
    "dtype": ("float32", "float64", None),  # in bfloat16 the released models stop with an error
}  # fmt: skip
IGNORED = {
    "padding_idx", "max_ep_len", "label_smoothing", "mode", "model_mode", "arch_mode", "tgt_len", "d_inner",
    "num_mem_tokens", "n_head_ca", "mrv_act", "dropout", "dropatt", "env_name",
}  # fmt: skip
# What the class owns and never uses, and what it owns and a configuration leaves unused.
UNUSED = re.compile(r"embed_timestep\.|embed_ln\.|pos_emb\.inv_freq$|layers\.\d+\.(dec_attn|pos_ff)\.layer_norm\.")


def check_keys(config: Mapping[str, Any], mode: str) -> dict[str, Any]:
    """The model section of a run's `config.json` as its mode uses it. Raises PublishedError listing bad keys."""
    arch = str(config.get("arch_mode") or "TrXL")
    if arch not in ARCHITECTURES:
        raise PublishedError(f"arch_mode: expected one of {', '.join(ARCHITECTURES)}, found {arch!r}")
    flags = dict(zip(("use_gate", "use_stable_version"), ARCHITECTURES[arch], strict=True))
    full: dict[str, Any] = {**flags, **{k: v for k, v in config.items() if v is not None}, **MODES[mode]}
    full = {**dict.fromkeys(FLAGS, False), "num_mem_tokens": 0, "n_head_ca": 0, "dropout": 0.2, **full}
    problems = [f"{key}: unknown" for key in full if key not in {*COUNTS, *FLAGS, *FIXED, *IGNORED}]
    problems += [f"{key}: expected {' or '.join(str(value) for value in fixed if value is not None)}, found "
                 f"{full[key]!r}, which cannot be imported" for key, fixed in FIXED.items()
                 if full.get(key) not in fixed]  # fmt: skip
    problems += [f"{key}: expected true or false, found {full[key]!r}" for key in FLAGS if type(full[key]) is not bool]
    counts = {**COUNTS, "num_mem_tokens": 0, "n_head_ca": 0}
    if not full["skip_dec_ffn"]:
        counts["d_inner"] = 1
    problems += [f"{key}: expected a whole number from {least}, found {full.get(key)!r}"
                 for key, least in counts.items() if type(full.get(key)) is not int or full[key] < least]  # fmt: skip
    problems += [f"{key}: expected a number from 0 up to below 1, found {full.get(key)!r}"
                 for key in ("dropout", "dropatt") if not is_share(full.get(key))]  # fmt: skip
    if not isinstance(full.get("env_name"), str):
        problems.append(f"env_name: expected a name, found {full.get('env_name')!r}")
    if mode in ("RATE", "RMT") and full["num_mem_tokens"] == 0:
        problems.append(f"num_mem_tokens: expected a whole number from 1 for {mode}, found 0")
    if full["n_head_ca"] and str(full.get("mrv_act")) not in ACTIVATIONS:
        problems.append(f"mrv_act: expected one of {', '.join(ACTIVATIONS)}, found {full.get('mrv_act')!r}")
    if full["skip_dec_ffn"] and full["use_stable_version"]:
        problems.append("skip_dec_ffn: expected false with use_stable_version (the model crashes there), found true")
    if problems:
        raise PublishedError(f"the model section of config.json does not fit a {mode}: {'; '.join(problems)}")
    return full


def is_share(value: Any) -> bool:
    """Whether a value is a number from 0 up to below 1."""
    return isinstance(value, int | float) and type(value) is not bool and 0 <= value < 1


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
    if mode == "TrXL":
        return {"_target_": "elmur.baselines.trxl.TrXL", "mem_len": full["mem_len"], **ours}
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
