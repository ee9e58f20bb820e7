"""Runs of the published ELMUR code in our terms: its configuration, its dates and distances, its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from elmur.spec import Discrete, Field, Image, TaskSpec, Vector

# Defaults of the published constructor, for keys a run's configuration does not hold.
DEFAULTS: dict[str, Any] = {
    "d_model": 64, "d_ff": 512, "n_layer": 4, "n_head": 4, "max_seq_len": 1000, "dropout": 0.1, "dropatt": 0.05,
    "pre_lnorm": True, "memory_size": 16, "memory_init_std": 0.02, "use_lru": True, "lru_blend_alpha": 0.999,
    "pos_type": "relative", "sequence_format": "sra", "norm_type": None, "use_moe": False, "num_experts": 8, "top_k": 2,
    "expert_dropout": None, "load_balancing_loss_coef": 0.01, "use_swiglu": True, "use_shared_expert": True,
    "n_shared_experts": 1, "shared_d_ff": None, "routed_d_ff": None, "use_shared_memory": False,
    "use_relative_bias": True, "use_tok2mem": True, "use_mem2tok": True, "memory_dropout": None,
}  # fmt: skip
REQUIRED = ("env_name", "state_dim", "act_dim")
IGNORED = {
    "padding_idx", "detach_memory", "use_causal_self_attn_mask", "dtype", "label_smoothing", "mode", "model_mode",
}  # fmt: skip
POSITIONS = {
    "relative": "PublishedRelative", "rope": "Rope", "alibi": "Alibi", "sinusoidal": "Sinusoidal",
    "learnable": "Learnable",
}  # fmt: skip
UNUSED = re.compile(r"pos_emb\.(inv_freq|cos_cached|sin_cached|slopes|pe)$")


class PublishedError(ValueError):
    """A published run that cannot be read as one of ours; the message lists every key concerned."""


def check_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """The model section of a published `config.json`, complete. Raises PublishedError listing bad keys."""
    known = set(DEFAULTS) | set(REQUIRED) | IGNORED
    missing = [key for key in REQUIRED if key not in config]
    unknown = sorted(set(config) - known)
    if missing or unknown:
        raise PublishedError(
            f"the model section of config.json does not fit the published model: missing {missing or 'nothing'}, "
            f"unknown {unknown or 'nothing'}"
        )
    full = {**DEFAULTS, **config}
    if full["pos_type"] not in POSITIONS:
        raise PublishedError(
            f"pos_type: expected one of {sorted(POSITIONS)}, found {full['pos_type']!r}"
            + (
                " (the published formula is not YaRN's; its weights cannot be run)"
                if full["pos_type"] == "yarn"
                else ""
            )
        )
    return full


def task_spec(config: Mapping[str, Any]) -> TaskSpec:
    """The TaskSpec that a published model was built for, from its `env_name`, `state_dim` and `act_dim`."""
    full = check_keys(config)
    name, states, actions = full["env_name"], int(full["state_dim"]), int(full["act_dim"])
    action: Discrete | Vector = Discrete((actions,))
    observation: Field = Vector(states) if states > 0 else Vector(1)
    if name.startswith("mikasa"):
        observation = Image(6, 128, 128)
        action = Vector(actions, low=(-1.0,) * actions, high=(1.0,) * actions)
    elif "Pendulum" in name:
        action = Vector(actions)
    return TaskSpec(name, {"state": observation}, action)


def model_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of `elmur.model.ELMUR` that computes what the published model computes with these keys."""
    full = check_keys(config)
    rotary = full["pos_type"] == "rope"
    position: dict[str, Any] = {"_target_": f"elmur.positional.{POSITIONS[full['pos_type']]}", "_partial_": True}
    if full["pos_type"] == "learnable":
        position["max_seq_len"] = full["max_seq_len"]
    write: dict[str, Any] | None = {
        "_target_": "elmur.memory.LRU", "lru_blend_alpha": full["lru_blend_alpha"], "replace_empty": False,
        "all_candidates": True,
    }  # fmt: skip
    if not full["use_lru"]:
        write = {"_target_": "elmur.memory.ReplaceAll", "stamp": False}
    bias = {
        "_target_": "elmur.memory_bias.MemoryBias",
        "_partial_": True,
        "max_seq_len": full["max_seq_len"],
        "init_std": 1.0,
    }
    norm = {"norm_type": full["norm_type"] or "layer", "eps": 1e-8, "_partial_": True}
    return {
        "_target_": "elmur.model.ELMUR",
        **{key: full[key] for key in ("d_model", "n_layer", "n_head", "dropout", "dropatt")},
        "token_format": full["sequence_format"],
        "position": position,
        "feedforward": feedforward_config(full),
        "residual": {"_target_": "elmur.residual." + ("PreNorm" if full["pre_lnorm"] else "PostNorm"), **norm},
        "memory": {
            "_target_": "elmur.model.MemoryDesign",
            "memory_size": full["memory_size"],
            "memory_init_std": full["memory_init_std"],
            "memory_dropout": full["dropout"] if full["memory_dropout"] is None else full["memory_dropout"],
            "read": bool(full["use_tok2mem"]),
            "write": write if full["use_mem2tok"] else None,
            "bias": bias if full["use_relative_bias"] else None,
            "steps": {"_target_": "elmur.clock." + ("DatedByStart" if rotary else "Mirrored")},
            "shared": bool(full["use_shared_memory"]),
        },
    }


def feedforward_config(full: Mapping[str, Any]) -> dict[str, Any]:
    """The feed-forward that the published keys select; experts are always SwiGLU."""
    if not full["use_moe"]:
        name = "SwiGLU" if full["use_swiglu"] else "MLP"
        return {"_target_": f"elmur.feedforward.{name}", "_partial_": True, "d_ff": full["d_ff"]}
    return {
        "_target_": "elmur.moe.MixtureOfExperts",
        "_partial_": True,
        "num_experts": full["num_experts"],
        "top_k": full["top_k"],
        "n_shared_experts": (full["n_shared_experts"] or 1) if full["use_shared_expert"] else 0,
        "routed_d_ff": full["routed_d_ff"] or full["d_ff"],
        "shared_d_ff": full["shared_d_ff"] or full["d_ff"],
        "load_balancing_loss_coef": full["load_balancing_loss_coef"],
    }


class _Reader:
    """Takes tensors out of a published state dict and remembers which were taken and which were missing."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = state
        self.taken: set[str] = set()
        self.missing: list[str] = []

    def __call__(self, *names: str, dim: int = 0) -> Tensor:
        """The tensors of these names, one after another along `dim`."""
        self.taken.update(names)
        absent = [name for name in names if name not in self.state]
        self.missing += absent
        return torch.empty(0) if absent else torch.cat([self.state[name] for name in names], dim=dim)

    def like(self, prefix: str, suffix: str) -> list[str]:
        """The names that begin and end so, in the order of the file."""
        return [name for name in self.state if name.startswith(prefix) and name.endswith(suffix)]


def convert_weights(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict from a published one. `expected` is the state dict of the model built from its configuration.

    Raises PublishedError listing missing keys, unknown keys and shapes that do not fit.
    """
    read = _Reader(state)
    ours = {name: _published(name, read) for name in expected}
    leftover = [
        key for key in state
        if key not in read.taken and not UNUSED.search(key) and not key.startswith(("action_embeddings.", "ret_emb."))
    ]  # fmt: skip
    shapes = [
        f"{name}: expected {list(expected[name].shape)}, found {list(tensor.shape)}"
        for name, tensor in ours.items()
        if tensor.numel() and tensor.shape != expected[name].shape
    ]
    if read.missing or leftover or shapes:
        problems = [f"missing {read.missing}"] * bool(read.missing) + [f"unknown {leftover}"] * bool(leftover) + shapes
        raise PublishedError("the weights do not fit the configuration: " + "; ".join(problems))
    return ours


def _published(name: str, read: _Reader) -> Tensor:
    """The published tensor(s) that make up our parameter `name`."""
    layer = re.match(r"layers\.(\d+)\.(.*)", name)
    if layer is None:
        return _outside_layers(name, read)
    base, inner = f"layers.{layer[1]}.", layer[2]
    if (part := re.match(r"(feedforward|memory_feedforward)\.(.*)", inner)) is not None:
        kind = "token_ffn" if part[1] == "feedforward" else "memory_ffn"
        return _feedforward(f"{base}{kind}.core_net.", part[2], read)
    if (part := re.match(r"(reader|writer)\.(query|key_value|out)\.(\w+)", inner)) is not None:
        cross = f"{base}cross_attention{1 if part[1] == 'reader' else 2}."
        parts = {"query": ["w_q"], "key_value": ["w_k", "w_v"], "out": ["w_o"]}[part[2]]
        return read(*[f"{cross}{w}.{part[3]}" for w in parts])
    self_attention = base + "self_attention."
    relative = f"{self_attention}qkv_net.weight" in read.state
    if inner == "attention.qkv.weight":
        return read(
            *[
                self_attention + w
                for w in (["qkv_net.weight"] if relative else ["w_q.weight", "w_k.weight", "w_v.weight"])
            ]
        )
    norms = {
        "attention_residual": "self_attention.layer_norm" if relative else "self_attn_norm",
        "read_residual": "token_norm_cross",
        "write_residual": "memory_norm_cross",
        "feedforward_residual": "token_ffn.layer_norm",
        "memory_residual": "memory_ffn.layer_norm",
    }
    if (part := re.match(r"(\w+_residual)\.norm\.(\w+)", inner)) is not None:
        return read(f"{base}{norms[part[1]]}.{part[2]}")
    if (part := re.match(r"attention\.out\.(\w+)", inner)) is not None:
        return read(f"{self_attention}{'o_net' if relative else 'w_o'}.{part[1]}")
    return read(
        base
        + {
            "attention.position_part.weight": "self_attention.r_net.weight",
            "bias.table.weight": "cross_rel_bias.bias.weight",
        }[inner]
    )


def _outside_layers(name: str, read: _Reader) -> Tensor:
    direct = {
        "position.content_bias": "r_w_bias",
        "position.distance_bias": "r_r_bias",
        "position.table.weight": "pos_emb.weight",
        "observation.parts.state.linear.weight": "state_encoder.weight",
        "observation.parts.state.linear.bias": "state_encoder.bias",
        "returns.linear.weight": "ret_emb.weight",
        "returns.linear.bias": "ret_emb.bias",
    }
    if name in direct:
        return read(direct[name])
    suffix = "." + name.rpartition(".")[2]
    if name.startswith("head."):
        return read(*(read.like("head.", suffix)[:1] or ["head" + suffix]))
    if name.startswith("action."):
        return read(*(read.like("action_embeddings.", suffix)[:1] or ["action_embeddings.0" + suffix]))
    # The image encoder: three convolutions and a linear map, in the order of the file.
    places = ("convolutions.0", "convolutions.2", "convolutions.4", "linear")
    order = places.index(name.removeprefix("observation.images.").removesuffix(suffix))
    found = read.like("state_encoder.", suffix)
    return read(found[order] if order < len(found) else f"state_encoder.<{order}>{suffix}")


def _feedforward(core: str, inner: str, read: _Reader) -> Tensor:
    """MLP, SwiGLU or experts: ours put gates and ups side by side, shared experts before routed ones."""
    if inner == "router.weight":
        return read(core + "router.linear.weight")
    if inner.startswith("up."):
        return read(f"{core}0.{inner[3:]}")
    if inner in ("down.weight", "down.bias") and f"{core}3.weight" in read.state:
        return read(f"{core}3.{inner[5:]}")
    experts = [
        f"{core}{kind}.{index}.swiglu."
        for kind in ("shared_experts", "experts")
        for index in range(len(read.like(f"{core}{kind}.", "down_proj.weight")))
    ] or [core]
    if inner == "down.weight":
        return read(*[e + "down_proj.weight" for e in experts], dim=1)
    return read(*[e + "gate_proj.weight" for e in experts], *[e + "up_proj.weight" for e in experts])
