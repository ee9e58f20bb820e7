"""What a file may name: a closed list of classes and functions by role.

A checkpoint, a stored setting or a YAML file is data, which anybody may have written. It names code only by an entry of
this list, in a place of the entry's role: a position where a position belongs, a write rule where a write rule belongs.
Only a person extends the list, at the command line (`plugins=[mypkg]`), in the environment (ELMUR_PLUGINS=mypkg) or in
Python (`allow_plugins`), never a file. Nothing is imported here; what lies outside this package joins as a `Registry`
of its own (`MODELS | Registry(...)`).
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from elmur.aliases import current

ENVIRONMENT = "ELMUR_PLUGINS"  # packages that may be named too, separated by commas
NOTHING = ""  # the role of a place where nothing may be named
ROOMS = ("elmur", "data", "envs", "callbacks", "run")
LIBRARIES = ("torch", "lightning", "lightning_fabric", "pytorch_lightning", "numpy", "hydra", "omegaconf", "gymnasium")


@dataclass(frozen=True)
class Role:
    """What may be named in one kind of place.

    names: short name -> import path. kind: import path of the class, or of the protocol, that whatever stands there
    has to be of. takes: argument -> the role of what may be named there, "*" for any other argument. partial: whether
    the call is left for later (`_partial_: true`); None where both happen. functions: whether a plugin may have a
    function there, and not a class of this kind alone.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    kind: str | None = None
    takes: Mapping[str, str] = field(default_factory=dict)
    partial: bool | None = False
    functions: bool = False

    def __or__(self, other: Role) -> Role:
        """This role with another's names and arguments beside its own."""
        return Role(
            {**self.names, **other.names}, self.kind or other.kind, {**self.takes, **other.takes}, self.partial,
            self.functions or other.functions,
        )  # fmt: skip


@dataclass(frozen=True)
class Registry:
    """Roles by name. Nothing that is not in one of them can be named, plugins apart."""

    roles: Mapping[str, Role]

    def __or__(self, other: Registry) -> Registry:
        """Both; of a role that both have, the names of both."""
        joined = {name: self.roles[name] | role for name, role in other.roles.items() if name in self.roles}
        return Registry({**self.roles, **other.roles, **joined})

    def find(self, name: Any, role: str | None = None) -> tuple[str, str] | None:
        """(role, import path) of what is called `name`, be it in short, by its path or by a path of before.

        role: where it is named; None for a place where each of them may stand. None where it is not on the list.
        """
        if not isinstance(name, str):
            return None
        path = current(name)
        for known in self.roles if role is None else (role,):
            names = self.roles[known].names if known in self.roles else {}
            if name in names or path in names.values():
                return known, names.get(name, path)
        return (role or "plugin", path) if role != NOTHING and plugin_of(path) else None

    def short_name(self, path: str, role: str) -> str:
        """What an import path is called in a role, as rows and folders name it; a plugin's goes by its path."""
        path = current(path)
        return next((name for name, known in self.roles[role].names.items() if known == path), path)

    def below(self, role: str | None, key: str) -> str | None:
        """The role of what stands under `key` in a place of this role."""
        if role is None:
            return None
        takes: Mapping[str, str] = self.roles[role].takes if role in self.roles else {}
        return takes.get(key, takes.get("*", NOTHING))

    def refusal(self, name: Any, role: str | None) -> str:
        """Why `name` cannot stand in a place of this role, and what to do, to be put after the place's path."""
        if role == NOTHING:
            return f"{_short(name)} is refused; a value belongs here, nothing may be named"
        known = sorted(self.roles[role].names.values()) if role and role in self.roles else []
        what = f"as {role} there are {', '.join(known)}" if known else "it is not on the list of what may be named"
        package = name.partition(".")[0] if isinstance(name, str) and "." in name else ""
        own = can_be_plugin(package) and package not in LIBRARIES
        hint = f"; a package that you trust is allowed on the command line, plugins=[{package}]" if own else ""
        return f"{_short(name)} is refused; {what}{hint}"

    def is_listed(self, path: str) -> bool:
        """Whether an import path is on the list itself, plugins apart."""
        return any(path in role.names.values() for role in self.roles.values())


def _short(name: Any) -> str:
    text = repr(name)
    return text if len(text) <= 120 else text[:117] + "..."


_allowed: list[str] = []


def allow_plugins(packages: Iterable[str]) -> None:
    """From now on, in this process, the members of these packages may be named. Raises ValueError for other words."""
    for package in packages:
        if not isinstance(package, str) or not can_be_plugin(package):
            raise ValueError(
                f"plugins: expected the name of a package of your own, as in plugins=[mypkg]; found {_short(package)}"
            )
        if package not in _allowed:
            _allowed.append(package)


def can_be_plugin(package: str) -> bool:
    """Whether it is the name of a package that is neither Python's own nor a room of this project."""
    first = package.partition(".")[0]
    parts = re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", package)
    return parts is not None and first not in sys.stdlib_module_names and first not in ROOMS


def plugins() -> tuple[str, ...]:
    """The packages that a person has allowed."""
    named = [name.strip() for name in os.environ.get(ENVIRONMENT, "").split(",") if name.strip()]
    return (*(name for name in named if can_be_plugin(name)), *_allowed)


def plugin_of(path: str) -> str | None:
    """The allowed package that `path` lies in."""
    return next((package for package in plugins() if path.startswith(f"{package}.")), None)


MODEL_PARTS = {
    "position": "position", "feedforward": "feedforward", "residual": "residual", "memory": "memory design",
    "token_format": "token format", "observation": "observation encoder", "attention_residual": "residual",
    "tokens": "memory tokens", "valve": "valve",
}  # fmt: skip

# What makes a model, and how it learns. A checkpoint and a published configuration begin at "model", and so reach only
# what a model takes.
MODELS = Registry(
    {
        "model": Role(
            {
                "elmur": "elmur.model.ELMUR",
                "transformer": "elmur.baselines.transformer.Transformer",
                "gru": "elmur.baselines.recurrent.GRU",
                "lstm": "elmur.baselines.recurrent.LSTM",
                "mlp": "elmur.baselines.mlp.MLPPolicy",
                "mamba": "elmur.baselines.mamba.Mamba",
                "gated_deltanet": "elmur.baselines.gated_deltanet.GatedDeltaNet",
                "ffm": "elmur.baselines.ffm.FFM",
                "shm": "elmur.baselines.shm.SHM",
                "diffusion_policy": "elmur.baselines.diffusion_policy.DiffusionPolicy",
                "decision_transformer": "elmur.baselines.decision_transformer.DecisionTransformer",
                "trxl": "elmur.baselines.trxl.TrXL",
                "trxl_as_published": "elmur.published.trxl.PublishedTrXL",
                "gtrxl": "elmur.baselines.gtrxl.GTrXL",
                "rmt": "elmur.baselines.rmt.RMT",
                "rate": "elmur.baselines.rate.RATE",
            },
            kind="elmur.sequence_model.SequenceModel",
            takes=MODEL_PARTS,
            partial=None,
        ),
        "position": Role(
            {
                "relative": "elmur.positional.Relative",
                "published_relative": "elmur.published.quirks.PublishedRelative",
                "rope": "elmur.positional.Rope",
                "yarn": "elmur.positional.Yarn",
                "alibi": "elmur.positional.Alibi",
                "sinusoidal": "elmur.positional.Sinusoidal",
                "learnable": "elmur.positional.Learnable",
            },
            kind="elmur.positional.Position",
            partial=True,
        ),
        "feedforward": Role(
            {
                "mlp": "elmur.feedforward.MLP",
                "swiglu": "elmur.feedforward.SwiGLU",
                "moe": "elmur.moe.MixtureOfExperts",
            },
            kind="torch.nn.Module",
            partial=True,
        ),
        "residual": Role(
            {
                "pre": "elmur.residual.PreNorm",
                "post": "elmur.residual.PostNorm",
                "gated": "elmur.residual.Gated",
                "rectified": "elmur.published.layers.Rectified",
                "twice_post": "elmur.published.layers.TwicePostNorm",
                "twice_rectified": "elmur.published.layers.TwiceRectified",
                "twice_gated": "elmur.published.layers.TwiceGated",
            },
            kind="elmur.residual.Residual",
            partial=True,
        ),
        "memory tokens": Role(
            {
                "trained": "elmur.baselines.memory_tokens.Trained",
                "as_published": "elmur.baselines.memory_tokens.AsPublished",
            },
            kind="elmur.baselines.memory_tokens.MemoryTokens",
            partial=True,
        ),
        "valve": Role(
            {
                "none": "elmur.baselines.valve.Valve",
                "cross_attention": "elmur.baselines.valve.CrossAttentionValve",
                "as_published": "elmur.baselines.valve.PublishedValve",
                "gate": "elmur.baselines.valve.GateValve",
                "gru": "elmur.baselines.valve.GRUValve",
                "lstm": "elmur.baselines.valve.LSTMValve",
            },
            kind="elmur.baselines.valve.Valve",
            partial=True,
        ),
        "memory design": Role(
            {"memory": "elmur.model.MemoryDesign"},
            kind="elmur.model.MemoryDesign",
            takes={"write": "write rule", "bias": "distance bias", "steps": "step rule", "clock": "clock"},
        ),
        "write rule": Role(
            {
                "lru": "elmur.memory.LRU",
                "replace_all": "elmur.memory.ReplaceAll",
                "none": "elmur.memory.never",
                "published_lru": "elmur.published.quirks.PublishedLRU",
                "published_replace_all": "elmur.published.quirks.PublishedReplaceAll",
            },
            kind="elmur.memory.WriteRule",
        ),
        "distance bias": Role(
            {"distance": "elmur.memory_bias.MemoryBias"}, kind="elmur.memory_bias.MemoryBias", partial=True
        ),
        "step rule": Role(
            {
                "chronological": "elmur.clock.Chronological",
                "mirrored": "elmur.published.quirks.Mirrored",
                "dated_by_start": "elmur.published.quirks.DatedByStart",
            },
            kind="elmur.clock.StepRule",
        ),
        "clock": Role({"episode": "elmur.clock.EpisodeClock"}, kind="elmur.clock.EpisodeClock", partial=True),
        "token format": Role(
            {"tokens": "elmur.tokens.TokenFormat"},
            kind="elmur.tokens.TokenFormat",
            takes={"observation": "observation encoder", "action": "action encoder"},
        ),
        "action encoder": Role(
            {"action": "elmur.encoders.ActionEncoder"}, kind="elmur.encoders.ActionEncoder", partial=True
        ),
        "observation encoder": Role(
            {
                "sum": "elmur.encoders.ObservationEncoder",
                "board": "elmur.encoders.BoardEncoder",
                "shifted_images": "elmur.encoders.ShiftedImages",
            },
            kind="elmur.encoders.ObservationEncoder",
            partial=True,
        ),
        "module": Role(
            {"imitation": "elmur.module.SequenceModule"},
            kind="elmur.module.SequenceModule",
            takes={"optimizer": "optimizer", "schedule": "schedule", "gpu": "gpu", "objective": "objective"},
        ),
        "objective": Role(
            {
                "cloning": "elmur.objectives.objective.Cloning",
                "filtered": "elmur.objectives.objective.Filtered",
                "cql": "elmur.objectives.cql.CQL",
                "iql": "elmur.objectives.iql.IQL",
                "balanced": "elmur.objectives.balanced.Balanced",
                "preferences": "elmur.objectives.preferences.Preferences",
            },
            kind="elmur.objectives.objective.Objective",
        ),
        # What an objective puts in the place of a model's own head; a checkpoint names it.
        "head": Role(
            {"cql": "elmur.objectives.cql.cql_head", "iql": "elmur.objectives.iql.IQLHead"},
            kind="elmur.heads.Head",
            functions=True,
        ),
        "gpu": Role({"gpu": "elmur.gpu.OnGpu"}, kind="elmur.gpu.OnGpu"),
        "optimizer": Role(
            {"adamw": "elmur.optim.adamw", "adamw_on_all": "elmur.published.quirks.adamw_on_all"},
            kind="torch.optim.Optimizer",
            partial=True,
            functions=True,
        ),
        "schedule": Role(
            {
                "constant": "elmur.optim.Constant",
                "warmup_cosine": "elmur.optim.WarmupCosine",
                "published_tokens": "elmur.published.quirks.PublishedTokenCosine",
            },
            kind="elmur.optim.Schedule",
        ),
        "strategy": Role({"ddp": "elmur.ranks.ddp"}, functions=True),
    }
)
