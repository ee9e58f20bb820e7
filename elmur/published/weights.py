"""The weights of the published ELMUR code under our names: what each of our parameters is made of."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from elmur.published.config import PublishedError

UNUSED = re.compile(r"pos_emb\.(inv_freq|cos_cached|sin_cached|slopes|pe)$")


class Reader:
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

    def checked(
        self, ours: dict[str, Tensor], expected: Mapping[str, Tensor], is_unused: Callable[[str], bool]
    ) -> dict[str, Tensor]:
        """`ours`, which was read. Raises PublishedError where something is missing, left over or misshapen."""
        leftover = [key for key in self.state if key not in self.taken and not is_unused(key)]
        shapes = [
            f"{name}: expected {list(expected[name].shape)}, found {list(tensor.shape)}"
            for name, tensor in ours.items()
            if tensor.numel() and tensor.shape != expected[name].shape
        ]
        if self.missing or leftover or shapes:
            problems = [f"missing {self.missing}"] * bool(self.missing) + [f"unknown {leftover}"] * bool(leftover)
            raise PublishedError("the weights do not fit the configuration: " + "; ".join(problems + shapes))
        return ours


def convert_weights(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict from a published one. `expected` is the state dict of the model built from its configuration.

    Raises PublishedError listing missing keys, unknown keys and shapes that do not fit.
    """
    read = Reader(state)
    ours = {name: _published(name, read) for name in expected}
    return read.checked(ours, expected, is_unused)


def is_unused(name: str) -> bool:
    """Whether a tensor of the published model, by its name, takes no part in what it computes."""
    return UNUSED.search(name) is not None or name.startswith(("action_embeddings.", "ret_emb."))


def _published(name: str, read: Reader) -> Tensor:
    """The published tensor(s) that make up our parameter `name`."""
    layer = re.match(r"layers\.(\d+)\.(.*)", name)
    if layer is None:
        return encoder_weight(name, read)
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


def encoder_weight(name: str, read: Reader) -> Tensor:
    """The published tensor of a parameter outside the layers: of an encoder, a table, the head."""
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
    if name == "head.linear.bias" and not read.like("head.", suffix):
        return torch.zeros(len(encoder_weight("head.linear.weight", read)))  # POPGym's continuous tasks have none
    if name.startswith("head."):
        return read(*(read.like("head.", suffix)[:1] or ["head" + suffix]))
    if name.startswith("action."):
        return read(*(read.like("action_embeddings.", suffix)[:1] or ["action_embeddings.0" + suffix]))
    # The image encoder: three convolutions and a linear map, in the order of the file.
    places = ("convolutions.0", "convolutions.2", "convolutions.4", "linear")
    order = places.index(name.removeprefix("observation.images.").removesuffix(suffix))
    found = read.like("state_encoder.", suffix)
    return read(found[order] if order < len(found) else f"state_encoder.<{order}>{suffix}")


def _feedforward(core: str, inner: str, read: Reader) -> Tensor:
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
