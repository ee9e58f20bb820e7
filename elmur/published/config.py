"""The configuration of the published ELMUR code in our terms: its keys, its task, the model that they describe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
QUIRKS = "elmur.published.quirks"
POSITIONS = {
    "relative": f"{QUIRKS}.PublishedRelative", "rope": "elmur.positional.Rope",
    "alibi": "elmur.positional.Alibi", "sinusoidal": "elmur.positional.Sinusoidal",
    "learnable": "elmur.positional.Learnable",
}  # fmt: skip


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
    steps = "DatedByStart" if full["pos_type"] == "rope" else "Mirrored"
    position: dict[str, Any] = {"_target_": POSITIONS[full["pos_type"]], "_partial_": True}
    if full["pos_type"] == "learnable":
        position["max_seq_len"] = full["max_seq_len"]
    write: dict[str, Any] = {"_target_": f"{QUIRKS}.PublishedReplaceAll"}
    if full["use_lru"]:
        write = {"_target_": f"{QUIRKS}.PublishedLRU", "lru_blend_alpha": full["lru_blend_alpha"]}
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
            "steps": {"_target_": f"{QUIRKS}.{steps}"},
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
