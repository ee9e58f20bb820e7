"""Acting: a model fed one observation at a time, exactly as it was trained on whole segments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from elmur.batch import SegmentBatch
from elmur.compiled import acting
from elmur.draws import Draws, Words, mixed, words
from elmur.sequence_model import SequenceModel
from elmur.spec import Discrete, Field, Image, Vector
from elmur.state import join_lanes, packed, take_lanes, unpacked

Array = npt.NDArray[Any]
Observation = Mapping[str, Array | Tensor] | Array | Tensor  # a simulator on the GPU leaves its observations there


class PolicyError(ValueError):
    """What a policy was given does not fit it; the message says what was expected and found."""


@dataclass
class Group:
    """Lanes that are at the same position of their segment: `lanes` of the batch (None: all), and their open stream."""

    lanes: Tensor | None
    stream: Any
    start: Tensor
    position: int = 0
    before: SegmentBatch | None = None


class StreamingPolicy:
    """Acts for `num_envs` environments at a constant cost per step, however long the episode is.

    Inside a segment every step adds its own tokens to cached keys and values; when the segment is full, memory is
    written and the next one opened. Lanes whose episodes began together step together; others form groups of their own,
    at most two for each position of a segment.

    sample: draw categorical actions from the softmax instead of taking the likeliest. target_return: the return asked
    of models whose tokens include the return-to-go. compiled: by torch.compile, which pays after some 100,000 steps.

    prediction: what the last actions were taken from, `[N, A]`: logits of a choice, or the continuous action itself.

    What an episode draws, memory noise and sampled actions, depends on its own seed (`seed_episodes`) and the step
    within it, never on the lanes beside it. Predictions of other numbers of lanes still differ by rounding.
    """

    def __init__(
        self,
        model: SequenceModel,
        context_length: int,
        sample: bool = False,
        target_return: float = 1.0,
        compiled: bool = False,
    ) -> None:
        self.model, self.context_length = model, context_length
        self.acting = acting(model, compiled)
        self.sample, self.target_return = sample, target_return
        self.device = next(model.parameters()).device
        self.prediction = torch.empty(0)
        self.start()

    def start(self, num_envs: int = 1, seed: int = 0) -> None:
        """Forget everything and get ready for `num_envs` episodes; `seed` for memory noise and sampled actions."""
        self.model.eval()
        self._seed, self._num_envs = seed, num_envs
        self._episodes = words([0] * num_envs)  # the seed of each lane's episode
        self._steps = np.zeros(num_envs, np.int64)  # of it so far
        self.seed_episodes(range(num_envs))
        self._groups: list[Group] = []
        self._is_discrete = isinstance(self.model.spec.action, Discrete)
        shape = (num_envs, 1) if self._is_discrete else (num_envs, 1, *self.model.spec.action.shape)
        kind = torch.int64 if self._is_discrete else torch.float32
        self._executed = torch.zeros(shape, dtype=kind, device=self.device)
        self._wanted = torch.full((num_envs, 1), self.target_return, device=self.device)
        self._now = SegmentBatch.of({}, self._executed, begins=False, ends=False)

    def seed_episodes(self, seeds: Sequence[int]) -> None:
        """Let the episodes that begin next draw by these seeds and that of `start`, one for each environment.

        Without a call they have the seeds 0, 1, ...; an episode that no seed was given for has one made of the last.
        Raises PolicyError for another number of seeds than of environments.
        """
        if len(seeds) != self._num_envs:
            found = f"expected {self._num_envs} seeds, one for each environment, found {len(seeds)}"
            raise PolicyError(f"seed_episodes: {found}")
        self._next = episode_seeds(self._seed, seeds)

    @torch.inference_mode()
    def act(self, observation: Observation, is_first: Array | bool | None = None) -> Array:
        """The actions for the next observations of all environments, `[N]` int64 or `[N, A]` float32.

        observation: the parts of the TaskSpec by name, `[N, *shape]` each; the array itself where there is one part.
        is_first `[N]`: true where an environment begins a new episode; its memory is as new, the others undisturbed.
        For one environment both may come without the dimension N, and then the action does too: is_first is then true
        or false, or left out, which means true at the first call after `start` only.

        Raises PolicyError for an observation that is not the TaskSpec's, and for an episode that never began.
        """
        parts, begins = self._parts(observation), np.asarray(not self._groups if is_first is None else is_first)
        if begins.ndim == 0:
            one = {name: part[None] for name, part in parts.items()}
            return np.asarray(self.act(one, begins[None])[0])
        self._check_lanes(begins)
        check_observation(parts, self.model.spec.observation, self._num_envs)
        if begins.any():
            self._begin(np.flatnonzero(begins))  # before the batch is made: it sets the return that is asked for
        now = replace(
            self._now,
            observation={name: self._tensor(part) for name, part in parts.items()},
            action=self._executed,
            return_to_go=self._wanted,
        )
        if any(group.position == self.context_length for group in self._groups):
            self._commit()
        predictions = [(group.lanes, self._step(group, now)) for group in self._groups]
        if len(predictions) == 1 and predictions[0][0] is None:
            prediction = predictions[0][1]
        else:
            prediction = torch.cat([p for _, p in predictions])
            prediction = prediction[torch.cat([lanes for lanes, _ in predictions]).argsort()]  # type: ignore[misc]
        self.prediction = prediction
        draws = Draws(self._episodes, self._steps) if self.sample or self.model.head.generative else None
        action = self.model.head.act(prediction, draws)
        self._steps += 1
        self._executed = action.unsqueeze(1)
        return action.cpu().numpy().copy()  # the caller's own

    @torch.inference_mode()
    def observe(self, action: Any, reward: Any) -> None:
        """What was really done, `[N]` or `[N, A]`, and received, `[N]`; numbers will do for one environment.

        Without a call the actions count as done as they were given, and nothing as received.
        """
        done, received = torch.as_tensor(action), torch.as_tensor(reward)
        if done.numel() != self._executed.numel() or received.numel() != self._num_envs:
            raise PolicyError(
                f"observe: expected the actions and rewards of {self._num_envs} environment(s), found the shapes "
                f"{list(done.shape)} and {list(received.shape)}"
            )
        self._executed = self._moved(done.to(self._executed.dtype)).view_as(self._executed)
        self._wanted = self._wanted - self._moved(received.to(self._wanted.dtype)).view_as(self._wanted)

    def memory(self) -> Any:
        """The state that the current segment was opened with, lanes in order."""
        states = [group.stream.memory for group in self._groups]
        if len(states) == 1 and self._groups[0].lanes is None:
            return states[0]
        order = torch.cat([group.lanes for group in self._groups]).argsort()  # type: ignore[misc]
        return take_lanes(join_lanes(states), order)

    @torch.inference_mode()
    def snapshot(self) -> dict[str, Any]:
        """All that the next actions depend on, at any step of any segment: a nest of tensors and plain values.

        To be asked after `observe`, where that is called.
        """
        seeds = np.stack([self._episodes, self._next]).view(np.int64)
        return {
            "model": self._of,
            "groups": [packed(group) for group in self._groups],
            "executed": packed(self._executed),
            "wanted": packed(self._wanted),
            "seed": self._seed,
            "seeds": torch.from_numpy(seeds),
            "steps": torch.from_numpy(self._steps.copy()),
        }

    @torch.inference_mode()
    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go on, to the bit, where a snapshot was taken. Raises PolicyError where it is of another model or number."""
        if (model := snapshot.get("model", self._of)) != self._of:  # one of before does not say
            raise PolicyError(
                f"restore: expected a snapshot of {self._of}, found one of {model}; load the policy it was taken of"
            )
        found = len(snapshot["executed"])
        if found != self._num_envs:
            raise PolicyError(f"restore: expected a snapshot of {self._num_envs} environments, found one of {found}")
        self._executed = unpacked(self._executed, snapshot["executed"], self.device)
        self._wanted = unpacked(self._wanted, snapshot["wanted"], self.device)
        seeds, steps = (torch.as_tensor(snapshot[name]).numpy().copy() for name in ("seeds", "steps"))
        self._seed, (self._episodes, self._next), self._steps = snapshot["seed"], seeds.view(np.uint64), steps
        self._groups = [self._unpacked_group(group) for group in snapshot["groups"]]

    @property
    def _of(self) -> str:
        """Which model its snapshots are of."""
        return f"{type(self.model).__name__} with {self.model.lane} per lane"

    def _unpacked_group(self, saved: Mapping[str, Any]) -> Group:
        lanes = len(saved["start"])
        memory = self.model.initial_memory(lanes, torch.Generator())
        like = self._open(None, memory, torch.zeros(lanes, dtype=torch.int64, device=self.device))
        like.before = self._now
        return unpacked(like, saved, self.device)

    def _parts(self, observation: Observation) -> Mapping[str, Array | Tensor]:
        """The parts of an observation by name, all of them."""
        expected = self.model.spec.observation
        if not isinstance(observation, Mapping):
            if len(expected) > 1:
                raise PolicyError(f"observation: expected the parts {', '.join(expected)} by name, found one array")
            observation = {next(iter(expected)): observation}
        if missing := [name for name in expected if name not in observation]:
            found = ", ".join(map(str, observation)) or "none"
            raise PolicyError(f"observation: expected the part {missing[0]!r}, found {found}")
        parts = {name: observation[name] for name in expected}
        return {name: part if isinstance(part, Tensor) else np.asarray(part) for name, part in parts.items()}

    def _check_lanes(self, is_first: Array) -> None:
        """Raises PolicyError unless it says of every environment, and each of them has begun its first episode."""
        if is_first.shape != (self._num_envs,) or is_first.dtype != np.bool_:
            raise PolicyError(
                f"is_first: expected bool[{self._num_envs}], one for each environment that start() was called with, "
                f"found {is_first.dtype}{list(is_first.shape)}"
            )
        if not self._groups and not is_first.all():
            raise PolicyError("is_first: expected true for every environment at the first step after start()")

    def _tensor(self, part: Array | Tensor) -> Tensor:
        if not isinstance(part, Tensor):  # a simulator on the GPU leaves its observations there
            part = torch.from_numpy(np.ascontiguousarray(part))
        return self._moved(part).unsqueeze(1)

    def _moved(self, part: Tensor) -> Tensor:
        """A copy on the policy's device, since an environment may write into what it gave; on a GPU, nobody waits.

        Ordinary memory has been read by then.
        """
        return part.to(self.device, non_blocking=self.device.type == "cuda", copy=True)

    def _step(self, group: Group, now: SegmentBatch) -> Tensor:
        """The prediction for one group's lanes."""
        mine = now if group.lanes is None else take_lanes(now, group.lanes)
        if group.before is not None:
            # What was executed became known after that step's batch was made.
            lanes = group.lanes
            group.before.action = self._executed if lanes is None else self._executed.index_select(0, lanes)
        prediction = self.acting.step(group.stream, mine, group.before)
        group.before = mine
        group.position += 1
        return prediction

    def _begin(self, lanes: Array) -> None:
        """Fresh memory in some lanes, the others undisturbed."""
        seeds = self._next[lanes]
        self._episodes[lanes], self._next[lanes], self._steps[lanes] = seeds, mixed(seeds), 0
        fresh = join_lanes([first_state(self.model, seed) for seed in seeds])
        if len(lanes) == self._num_envs:
            start = torch.zeros(self._num_envs, dtype=torch.int64, device=self.device)
            self._groups = [self._open(None, fresh, start)]
            self._wanted = torch.full_like(self._wanted, self.target_return)
            return
        beginning = torch.as_tensor(lanes, device=self.device)
        self._wanted[beginning] = self.target_return
        kept = []
        for group in self._groups:
            everyone = torch.arange(self._num_envs, device=self.device) if group.lanes is None else group.lanes
            stay = (~torch.isin(everyone, beginning)).nonzero().squeeze(1)
            if len(stay):
                stream, before = take_lanes(group.stream, stay), group.before and take_lanes(group.before, stay)
                kept.append(Group(everyone[stay], stream, group.start[stay], group.position, before))
        kept.append(self._open(beginning, fresh, torch.zeros_like(beginning)))
        self._groups = kept

    def _commit(self) -> None:
        """Close the groups whose segment is full, and open the next segment for all of their lanes together."""
        full = [group for group in self._groups if group.position == self.context_length]
        states = []
        for group in full:
            assert group.before is not None
            lanes = group.lanes
            group.before.action = self._executed if lanes is None else self._executed.index_select(0, lanes)
            states.append(self.acting.close_segment(group.stream, group.before))
        start = torch.cat([group.start + self.context_length for group in full])
        lanes = None if full[0].lanes is None else torch.cat([g.lanes for g in full])  # type: ignore[misc]
        merged = self._open(lanes, states[0] if len(states) == 1 else join_lanes(states), start)
        self._groups = [g for g in self._groups if g.position < self.context_length] + [merged]

    def _open(self, lanes: Tensor | None, memory: Any, start: Tensor) -> Group:
        return Group(lanes, self.acting.open_segment(memory, start, self.context_length), start)


def episode_seeds(seed: int, seeds: Sequence[int]) -> Words:
    """What the episodes of these seeds draw by, in a policy that was started with `seed`."""
    return mixed(mixed(words([seed])) + words(seeds))


def first_state(model: SequenceModel, drawn_by: np.uint64) -> Any:
    """The state of one lane at the beginning of the episode that draws by this word of `episode_seeds`."""
    return model.initial_memory(1, torch.Generator().manual_seed(int(drawn_by)))


KINDS: dict[type, str] = {Discrete: "iu", Vector: "fiub", Image: "u"}  # of numbers, as numpy names them


def check_observation(observation: Mapping[str, Array | Tensor], expected: Mapping[str, Field], num_envs: int) -> None:
    """Raises PolicyError unless the observation is what the TaskSpec says of it. The values of tensors are not read."""
    for name, field in expected.items():
        part, problem = observation[name], ""
        if tuple(part.shape) != (num_envs, *field.shape):
            problem = f"the shape {list(part.shape)}"
        elif isinstance(part, Tensor):
            if isinstance(field, Discrete | Image) and part.is_floating_point():
                problem = f"{part.dtype}"
        elif part.dtype.kind not in KINDS[type(field)] or (isinstance(field, Image) and part.itemsize > 1):
            problem = f"{part.dtype}"
        elif isinstance(field, Discrete) and ((part < 0) | (part >= np.array(field.sizes))).any():
            problem = f"{part.min()} to {part.max()}, of {max(field.sizes)} values from 0"
        elif part.dtype.kind == "f" and not np.isfinite(part).all():
            problem = "nan or inf"
        if problem:
            raise PolicyError(
                f"observation {name!r}: expected {type(field).__name__} {list(field.shape)} of {num_envs} "
                f"environment(s), found {problem}"
            )
