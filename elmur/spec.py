"""TaskSpec: the shapes and kinds of one task, the only thing a network may know of an environment."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


class SpecError(ValueError):
    """A task specification that is malformed or that does not fit another one."""


@dataclass(frozen=True)
class Discrete:
    """Integers in `0 .. sizes[i] - 1`, one per component; stored as int64 `[..., len(sizes)]`."""

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", tuple(int(size) for size in self.sizes))
        if not self.sizes or min(self.sizes) < 1:
            raise SpecError(f"Discrete needs at least one component, each of size 1 or more; found {self.sizes}")

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.sizes),)


@dataclass(frozen=True)
class Vector:
    """Real numbers `[..., size]`, float32, with optional bounds and normalisation statistics per component."""

    size: int
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise SpecError(f"Vector needs size 1 or more; found {self.size}")
        for name in ("low", "high", "mean", "std"):
            values = getattr(self, name)
            if values is None:
                continue
            object.__setattr__(self, name, tuple(float(value) for value in values))
            if len(values) != self.size:
                raise SpecError(f"Vector.{name} needs {self.size} numbers; found {len(values)}")

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size,)


@dataclass(frozen=True)
class Image:
    """uint8 pixels `[..., channels, height, width]`, 0 to 255; the encoder scales them to 0..1 on the device."""

    channels: int
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.channels, self.height, self.width)


Field = Discrete | Vector | Image
KINDS: dict[str, type[Discrete] | type[Vector] | type[Image]] = {"discrete": Discrete, "vector": Vector, "image": Image}


@dataclass(frozen=True)
class TaskSpec:
    """What one task looks like to a policy.

    name: the task's id, e.g. "tmaze" or "popgym-AutoencodeEasy-v0".
    observation: named parts of one observation, in a fixed order; an encoder is built for each.
    action: `Discrete` of one component (a categorical choice) or `Vector` (continuous, with bounds).
    horizon: the most steps an episode can have, or None where the environment has no limit.
    """

    name: str
    observation: Mapping[str, Field]
    action: Discrete | Vector
    horizon: int | None = None

    def __post_init__(self) -> None:
        if not self.observation:
            raise SpecError(f"task {self.name}: an observation needs at least one part")
        if isinstance(self.action, Discrete) and len(self.action.sizes) != 1:
            raise SpecError(
                f"task {self.name}: a discrete action is one choice; found {len(self.action.sizes)} components "
                "(flatten them to their product)"
            )

    def to_json(self) -> str:
        """This specification as one line of JSON; `from_json` reads it back unchanged."""
        parts = {name: _field_to_dict(field) for name, field in self.observation.items()}
        return json.dumps(
            {"name": self.name, "observation": parts, "action": _field_to_dict(self.action), "horizon": self.horizon}
        )

    @classmethod
    def from_json(cls, text: str) -> TaskSpec:
        """The specification written by `to_json`. Raises SpecError on anything else."""
        try:
            data = json.loads(text)
            action = _field_from_dict(data["action"])
            if isinstance(action, Image):
                raise SpecError("an action cannot be an image")
            return cls(
                name=data["name"],
                observation={name: _field_from_dict(part) for name, part in data["observation"].items()},
                action=action,
                horizon=data["horizon"],
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise SpecError(f"not a TaskSpec in JSON: {error}") from error

    def differences(self, other: TaskSpec) -> list[str]:
        """Sentences on what a network built for `self` would find different in `other`; empty when it fits.

        Normalisation statistics and the horizon do not change a network and are not compared.
        """
        found = []
        for part in sorted(set(self.observation) | set(other.observation)):
            mine, theirs = self.observation.get(part), other.observation.get(part)
            if _outline(mine) != _outline(theirs):
                found.append(f"observation '{part}': expected {_outline(mine)}, found {_outline(theirs)}")
        if _outline(self.action) != _outline(other.action):
            found.append(f"action: expected {_outline(self.action)}, found {_outline(other.action)}")
        return found


def _outline(field: Field | None) -> str:
    """The kind and shape of a field, as an error names it."""
    if field is None:
        return "nothing"
    if isinstance(field, Discrete):
        return f"discrete{list(field.sizes)}"
    return f"{type(field).__name__.lower()}{list(field.shape)}"


def _field_to_dict(field: Field) -> dict[str, Any]:
    return {"kind": type(field).__name__.lower(), **{k: v for k, v in asdict(field).items() if v is not None}}


def _field_from_dict(data: dict[str, Any]) -> Field:
    data = dict(data)
    kind = data.pop("kind")
    if kind not in KINDS:
        raise SpecError(f"unknown kind of field {kind!r}; expected one of {sorted(KINDS)}")
    build: Callable[..., Field] = KINDS[kind]
    return build(**{key: tuple(v) if isinstance(v, list) else v for key, v in data.items()})
