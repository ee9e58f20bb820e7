"""The configuration of the published ELMUR code in our terms: its keys, its task, the model that they describe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
    "use_causal_self_attn_mask": True,
}  # fmt: skip
REQUIRED = ("env_name", "state_dim", "act_dim")
QUIRKS = "elmur.published.quirks"
POSITIONS = {
    "relative": f"{QUIRKS}.PublishedRelative", "rope": "elmur.positional.Rope",
    "alibi": "elmur.positional.Alibi", "sinusoidal": "elmur.positional.Sinusoidal",
    "learnable": "elmur.positional.Learnable",
}  # fmt: skip


class PublishedError(ValueError):
    """A published run that cannot be read as one of ours; the message lists every key concerned."""


@dataclass(frozen=True)
class Key:
    """What a published key may be: in words, and whether a value is that. Where the flag `of` is off, null will do.

    but: what is said of any other value.
    """

    says: str
    fits: Callable[[Any], bool]
    of: str | None = None
    but: str = ""


def whole(least: int, of: str | None = None) -> Key:
    """A whole number from `least`."""
    return Key(f"a whole number from {least}", lambda v: type(v) is int and v >= least, of)


def number(low: float, high: float = float("inf"), of: str | None = None) -> Key:
    """A finite number from `low` to `high`."""
    says = f"a number from {low:g}" + (f" to {high:g}" if high < float("inf") else "")
    return Key(says, lambda v: type(v) in (int, float) and low <= v <= high and abs(v) < float("inf"), of)


def one_of(*values: str | None) -> Key:
    """One of these."""
    return Key(f"one of {', '.join('null' if v is None else v for v in values)}", lambda v: v in values)


def optional(key: Key) -> Key:
    """The same, or null."""
    return Key(f"{key.says}, or null", lambda v: v is None or key.fits(v))


FLAG = Key("true, false or null", lambda v: v is None or type(v) is bool)  # null is false there
TEXT, SHARE = Key("a text", lambda v: isinstance(v, str)), number(0, 1)
KEYS: dict[str, Key] = {
    "env_name": TEXT, "state_dim": whole(-1), "act_dim": whole(1),
    "d_model": whole(1), "n_layer": whole(1), "n_head": whole(1), "max_seq_len": whole(1), "dropout": SHARE,
    "dropatt": SHARE, "pre_lnorm": FLAG, "norm_type": one_of("layer", "rmsnorm", None),
    "pos_type": one_of(*POSITIONS), "sequence_format": one_of("s", "sa", "sr", "sra"),
    "memory_size": whole(1), "memory_init_std": number(0), "memory_dropout": optional(SHARE), "use_lru": FLAG,
    "lru_blend_alpha": number(0, 1, of="use_lru"), "use_shared_memory": FLAG, "use_relative_bias": FLAG,
    "use_tok2mem": FLAG, "use_mem2tok": FLAG,
    "d_ff": optional(whole(1)), "use_swiglu": FLAG, "use_moe": FLAG, "num_experts": whole(1, of="use_moe"),
    "top_k": whole(1, of="use_moe"), "load_balancing_loss_coef": number(0, of="use_moe"), "use_shared_expert": FLAG,
    "n_shared_experts": optional(whole(0)), "routed_d_ff": optional(whole(0)), "shared_d_ff": optional(whole(0)),
    "use_causal_self_attn_mask": FLAG, "dtype": one_of("float32", "float64", None),
    # What matters while training alone:
    "expert_dropout": optional(SHARE), "detach_memory": FLAG, "label_smoothing": optional(SHARE),
    "padding_idx": Key("a whole number, or null", lambda v: v is None or type(v) is int),
    "mode": optional(TEXT), "model_mode": optional(TEXT),
}  # fmt: skip
WHY = {
    "dtype": "positions are rounded to bfloat16 there",
    "pos_type": "its weights cannot be run: the published formula is not YaRN's",
}  # of values that the published code has and this one has not


def check_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """The model section of a published `config.json`, complete. Raises PublishedError listing bad keys."""
    missing = [key for key in REQUIRED if key not in config]
    unknown = sorted(set(config) - set(KEYS))
    if missing or unknown:
        raise PublishedError(
            f"the model section of config.json does not fit the published model: missing {missing or 'nothing'}, "
            f"unknown {unknown or 'nothing'}"
        )
    full = {**DEFAULTS, **config}
    if problems := misfits(full, {name: KEYS[name] for name in full}) or other_positions(full):
        raise PublishedError("; ".join(problems))
    return full


def misfits(full: Mapping[str, Any], keys: Mapping[str, Key]) -> list[str]:
    """What each value is that its key does not allow, and what was expected."""
    problems = []
    for name, key in keys.items():
        value = full.get(name)
        if not key.fits(value) and not (value is None and key.of is not None and not full[key.of]):
            why = f" ({WHY[name]})" if value in ("yarn", "bfloat16") and name in WHY else ""
            problems.append(f"{name}: expected {key.says}, found {value!r}{key.but or why}")
    return problems


def other_positions(full: Mapping[str, Any]) -> list[str]:
    """Positions of flags in which the published model computes what ours does not, each with what is expected."""
    found = []
    if full["pos_type"] == "relative" and not full["use_causal_self_attn_mask"]:
        why = "with pos_type=relative: otherwise steps attend to later ones, which are not there while acting"
        found.append(f"use_causal_self_attn_mask: expected true {why}")
    if full["use_shared_memory"]:
        found.append("use_shared_memory: expected false: the published code hands on what the first layer wrote alone")
    if full["use_tok2mem"] and not full["use_mem2tok"] and full["use_relative_bias"] and full["use_lru"]:
        why = "with use_tok2mem, use_relative_bias and use_lru: otherwise slots are dated that nothing is written to"
        found.append(f"use_mem2tok: expected true {why}")
    experts = full["use_moe"] and not (full["routed_d_ff"] and (full["shared_d_ff"] or not full["use_shared_expert"]))
    if full["d_ff"] is None and (experts or not full["use_moe"]):
        found.append("d_ff: expected a whole number from 1")
    return [f"{sentence}, found {full[sentence.partition(':')[0]]!r}" for sentence in found]


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
        "token_format": token_format(full["sequence_format"], full["env_name"]),
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
        },
    }


def token_format(name: str, env_name: str) -> dict[str, Any]:
    """The tokens of a step as the released code makes them: POPGym's categorical actions do not pass tanh there.

    Its numbers, which Pendulum alone has, do, with -10 for those of a step that is padding.
    """
    found: dict[str, Any] = {"_target_": "elmur.tokens.TokenFormat", "name": name}
    if env_name.startswith("popgym"):
        encoder = {"tanh": True, "padding": -10.0} if "Pendulum" in env_name else {"tanh": False}
        found["action"] = {"_target_": "elmur.encoders.ActionEncoder", "_partial_": True, **encoder}
    return found


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
