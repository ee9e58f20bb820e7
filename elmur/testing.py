"""What every model must keep, as checks that any test suite can call: `check_model(build)`.

    from elmur.testing import check_model

    def test_my_model() -> None:
        check_model(lambda spec: MyModel(spec, d_model=16))

A check that fails raises AssertionError with one sentence on what differs, where and by how much.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from elmur.batch import SegmentBatch
from elmur.checkpoint import CHECKPOINT_VERSION, CheckpointError, filled, read_checkpoint
from elmur.export.program import IS_FIRST, LAST_ACTION, NEXT, PREDICTION, RETURN_TO_GO, StepProgram
from elmur.policy import StreamingPolicy, episode_seeds, first_state
from elmur.sequence_model import SequenceModel
from elmur.spec import Discrete, Field, Image, TaskSpec, Vector
from elmur.state import detach, join_lanes, map_state, reset, take_lanes, tensors_of, with_tensors

NUMBERS_AND_CARDS: dict[str, Field] = {"numbers": Vector(4), "cards": Discrete((3, 2))}
CHOOSE = TaskSpec("choose", NUMBERS_AND_CARDS, Discrete((3,)), horizon=40)
REACH = TaskSpec("reach", NUMBERS_AND_CARDS, Vector(2, low=(-1.0, 0.0), high=(1.0, 4.0)), horizon=40)
SPECS = (CHOOSE, REACH)
LENGTHS = (3, 5, 1, 4)  # of the segments of one episode: odd, of one step, of several
STARTS = (0, 7, 1000)  # where in their episodes the lanes begin
SAME = 1e-10  # in float64, apart from the order of sums
NOTHING = 1e-12  # a gradient that is zero but for rounding

Build = Callable[[TaskSpec], SequenceModel]


def check_model(build: Build, spec: TaskSpec | None = None, untrained: Collection[str] = ()) -> None:
    """Whether `build(spec)` keeps the contract of `elmur.sequence_model`; AssertionError where it does not.

    spec: the task it is built for; None: one with a choice of actions, and one with continuous ones. untrained: parts
    of the names of the parameters that get no gradient, as its docstring says; all others must get one.
    """
    for task in SPECS if spec is None else (spec,):
        model = made(build, task).double().eval()
        with torch.no_grad():
            check_nothing_is_kept_inside(model)
            check_causality(model)
            check_step_is_window(model)
            check_lanes_are_apart(model)
            check_reset_of_one_lane(model)
            check_state_survives(model)
            check_acting(model)
            check_step_program(model)
        check_gradients(model, untrained)
        check_precision(made(build, task).eval())
        check_checkpoint(made(build, task).eval(), partial(made, build, task))


def made(build: Build, spec: TaskSpec) -> SequenceModel:
    """The model with the weights of a fixed seed; torch's own random numbers go on as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(spec)


def random_steps(
    spec: TaskSpec, lanes: int, steps: int, start: Collection[int] = (), seed: int = 0, dtype: Any = torch.float64
) -> SegmentBatch:
    """Random steps of a task, all real, in the middle of their episodes; `start`: one per lane, else all 0."""
    g = torch.Generator().manual_seed(seed)

    def draw(field: Field) -> Tensor:
        if isinstance(field, Discrete):
            return torch.stack([torch.randint(size, (lanes, steps), generator=g) for size in field.sizes], dim=-1)
        if isinstance(field, Image):
            return torch.randint(256, (lanes, steps, *field.shape), generator=g, dtype=torch.uint8)
        return torch.randn(lanes, steps, field.size, generator=g, dtype=dtype)

    action = draw(spec.action)
    batch = SegmentBatch.of(
        {name: draw(field) for name, field in spec.observation.items()},
        action.squeeze(-1) if isinstance(spec.action, Discrete) else action,
    )
    no = torch.zeros(lanes, dtype=torch.bool)
    return replace(
        batch,
        return_to_go=torch.randn(lanes, steps, generator=g, dtype=dtype),
        is_first=no,
        is_last=no,
        start=torch.tensor(list(start) or [0] * lanes),
    )


def episode(model: SequenceModel, dtype: Any = torch.float64) -> list[SegmentBatch]:
    """Segments of `LENGTHS` that follow one another, each lane at its own place in its episode."""
    begins = np.cumsum([0, *LENGTHS[:-1]])
    return [
        random_steps(model.spec, len(STARTS), length, [start + int(begin) for start in STARTS], seed, dtype)
        for seed, (begin, length) in enumerate(zip(begins, LENGTHS, strict=True))
    ]


def initial(model: SequenceModel, lanes: int = len(STARTS)) -> Any:
    """The state at the beginning, with noise of a fixed seed."""
    return model.initial_memory(lanes, torch.Generator().manual_seed(0))


def stepped(model: SequenceModel, segment: SegmentBatch, memory: Any) -> tuple[Tensor, Any]:
    """Predictions `[B, steps, A]` for a segment taken in one step at a time, and the state after it."""
    stream, before, found = model.open_segment(memory, segment.start, segment.num_steps), None, []
    for now in segment.split(1):
        found.append(model.step(stream, replace(now, action=torch.zeros_like(now.action)), before))
        before = now
    assert before is not None, "a segment needs at least one step"
    return torch.stack(found, dim=1), model.close_segment(stream, before)


def gap(left: Any, right: Any) -> float:
    """The largest difference between two states, or two tensors; infinite where their shapes differ."""
    pairs = list(zip(tensors_of(left), tensors_of(right), strict=True))
    if any(a.shape != b.shape for a, b in pairs):
        return float("inf")
    return max((float((a.double() - b.double()).abs().max()) for a, b in pairs if a.numel()), default=0.0)


def require(model: SequenceModel, holds: bool, otherwise: str) -> None:
    """AssertionError that names the model, unless it holds."""
    if not holds:
        raise AssertionError(f"{type(model).__name__}: {otherwise}")


def check_step_is_window(model: SequenceModel) -> None:
    """Acting step by step gives the predictions and the state of the forward on whole segments.

    The action of the step that is decided on is not known to it: it is zero there.
    """
    windowed = streamed = initial(model)
    for number, segment in enumerate(episode(model)):
        output, windowed = model(segment, windowed)
        prediction, streamed = stepped(model, segment, streamed)
        where = f"segment {number}, of {segment.num_steps} steps"
        for what, apart in (("predictions", gap(prediction, output.prediction)), ("states", gap(streamed, windowed))):
            require(model, apart < SAME, f"the {what} of step and forward differ by {apart:.2g} in {where}")


def check_nothing_is_kept_inside(model: SequenceModel) -> None:
    """The same segment and state give the same again, and a state has the shapes and kinds of number of the first.

    Lanes that begin join those that are under way, and a checkpoint is read into the shapes of an initial state.
    """
    template = memory = initial(model)
    for segment in episode(model):
        again, (output, memory) = model(segment, memory)[0], model(segment, memory)
        apart = gap(output.prediction, again.prediction)
        require(model, apart == 0.0, f"the same segment and state give predictions that differ by {apart:.2g}")
        kinds = [[(tuple(t.shape), t.dtype) for t in tensors_of(state)] for state in (template, memory)]
        require(model, kinds[0] == kinds[1], f"the state's shapes and dtypes change: first {kinds[0]}, then {kinds[1]}")


def check_causality(model: SequenceModel) -> None:
    """What comes later changes nothing before it, nor does a step's own action, which is what is to be predicted."""
    memory = model(episode(model)[0], initial(model))[1]
    batch, other = (random_steps(model.spec, len(STARTS), 5, STARTS, seed) for seed in (1, 2))
    before = model(batch, memory)[0].prediction
    for step in (1, 3):
        mixed = map_state(lambda a, b, s=step: torch.cat([a[:, :s], b[:, s:]], 1) if a.ndim > 1 else a, batch, other)
        later = model(mixed, memory)[0].prediction
        apart = gap(before[:, :step], later[:, :step])
        require(model, apart < SAME, f"a change of step {step} and later moves predictions before it by {apart:.2g}")
        action = torch.cat([batch.action[:, :step], other.action[:, step:]], 1)
        apart = gap(before[:, : step + 1], model(replace(batch, action=action), memory)[0].prediction[:, : step + 1])
        require(model, apart < SAME, f"the action of step {step} moves the prediction of that action by {apart:.2g}")


def check_lanes_are_apart(model: SequenceModel) -> None:
    """A lane gives the same alone as among others, in a segment and after it; in any order."""
    memory, order = initial(model), torch.tensor([2, 0])
    alone = take_lanes(memory, order)
    for number, segment in enumerate(episode(model)):
        output, memory = model(segment, memory)
        own, alone = model(take_lanes(segment, order), alone)
        apart = max(gap(own.prediction, output.prediction[order]), gap(alone, take_lanes(memory, order)))
        require(model, apart < SAME, f"lanes depend on each other: by {apart:.2g} in segment {number}")


def check_reset_of_one_lane(model: SequenceModel) -> None:
    """A lane that is reset is as new, and the others do not notice."""
    first, second, *_ = episode(model)
    memory, fresh = model(first, initial(model))[1], initial(model)
    is_first = torch.tensor([False, True, False])
    mixed = model(second, reset(memory, fresh, is_first))
    for what, lanes, state in (("that is reset", [1], fresh), ("that is not reset", [0, 2], memory)):
        chosen = torch.tensor(lanes)
        expected = model(take_lanes(second, chosen), take_lanes(state, chosen))
        apart = max(
            gap(mixed[0].prediction[chosen], expected[0].prediction), gap(take_lanes(mixed[1], chosen), expected[1])
        )
        require(model, apart < SAME, f"a lane {what} differs by {apart:.2g} from what it is alone")


def check_state_survives(model: SequenceModel) -> None:
    """A state is what it was after a checkpoint and after its lanes were parted and joined; so is an open segment."""
    first, second, *_ = episode(model)
    memory = model(first, initial(model))[1]
    expected = model(second, memory)
    saved = with_tensors(initial(model), [torch.from_numpy(t.numpy().copy()) for t in tensors_of(detach(memory))])
    parts = [take_lanes(memory, torch.tensor(lanes)) for lanes in ([0], [1, 2])]
    for what, state in (("a checkpoint", saved), ("taking its lanes apart", join_lanes(parts))):
        output, after = model(second, state)
        apart = max(gap(output.prediction, expected[0].prediction), gap(after, expected[1]))
        require(model, apart == 0.0, f"its state differs by {apart:.2g} after {what}")
    for chosen in ([0, 1, 2], [2, 0]):
        check_open_segment(model, second, memory, torch.tensor(chosen))


def check_open_segment(model: SequenceModel, segment: SegmentBatch, memory: Any, lanes: Tensor) -> None:
    """Copied in the middle, with these of its lanes, an open segment goes on as it does itself."""
    output, after = model(segment, memory)
    stream, before, copied = model.open_segment(memory, segment.start, segment.num_steps), None, None
    for step, now in enumerate(segment.split(1)):
        if step == segment.num_steps // 2:
            copied = take_lanes(map_state(torch.clone, stream), lanes)
        if copied is not None and before is not None:
            found = model.step(copied, take_lanes(now, lanes), take_lanes(before, lanes))
            apart = gap(found, output.prediction[lanes, step])
            require(model, apart < SAME, f"a copy of an open segment differs by {apart:.2g} at step {step}")
        apart = gap(model.step(stream, now, before), output.prediction[:, step])
        require(model, apart < SAME, f"an open segment differs by {apart:.2g} once it was copied, at step {step}")
        before = now
    if before is not None:
        apart = gap(model.close_segment(copied, take_lanes(before, lanes)), take_lanes(after, lanes))
        require(model, apart < SAME, f"the state after a copy of an open segment differs by {apart:.2g}")


def check_acting(model: SequenceModel) -> None:
    """Environments whose episodes begin at different steps act as each would alone, across borders of segments.

    Together, they are saved and taken up by another policy after every step. Noise in new states and generated actions
    are drawn by the episode's seed.
    """
    steps, begins = 7, {0: (0, 1, 2), 2: (1,), 4: (0, 2)}
    shown = random_steps(model.spec, len(STARTS), steps, seed=3)
    acting = copy.deepcopy(model)

    def play(lanes: list[int]) -> list[Any]:
        policy, done = StreamingPolicy(acting, context_length=3), []
        policy.start(len(lanes))
        policy.seed_episodes(lanes)
        for t in range(steps):
            is_first = np.array([lane in begins.get(t, ()) for lane in lanes])
            action = policy.act({name: part[lanes, t].numpy() for name, part in shown.observation.items()}, is_first)
            policy.observe(action, np.zeros(len(lanes), np.float32))
            done.append(action)
            if len(lanes) > 1:
                saved, policy = policy.snapshot(), StreamingPolicy(acting, context_length=3)
                policy.start(len(lanes))
                policy.restore(saved)
        return done

    together, apart = play([0, 1, 2]), [play([lane]) for lane in range(3)]
    for t in range(steps):
        alone = np.concatenate([done[t] for done in apart])
        require(model, np.allclose(together[t], alone, atol=1e-6), f"at step {t} it acts {together[t]}, alone {alone}")


def check_step_program(model: SequenceModel) -> None:
    """The step with its memory as tensors in and out acts as the policy does, whatever was really executed.

    Lanes begin at different steps and cross borders of segments. Of a model that says `has_segments = False` every step
    is a segment.
    """
    steps, begins = 9, {0: (0, 1, 2), 2: (1,), 4: (0, 2)}
    shown = random_steps(model.spec, len(STARTS), steps, seed=4)
    policy = StreamingPolicy(model, context_length=3)
    policy.start(len(STARTS))
    program = StepProgram(model, 3, first_state(model, episode_seeds(0, [0])[0])).eval()
    given, reward = program.example(len(STARTS)), np.full(len(STARTS), 0.25, np.float32)
    for t in range(steps):
        policy.seed_episodes([0] * len(STARTS))
        now = {name: part[:, t] for name, part in shown.observation.items()}
        is_first = np.array([lane in begins.get(t, ()) for lane in range(len(STARTS))])
        policy.act({name: part.numpy() for name, part in now.items()}, is_first)
        given |= {**now, IS_FIRST: torch.from_numpy(is_first)}
        given[RETURN_TO_GO] = torch.where(given[IS_FIRST], policy.target_return, given[RETURN_TO_GO])
        made = program(given)
        apart = gap(made[PREDICTION], policy.prediction)
        require(model, apart < SAME, f"its step as a program predicts otherwise, by {apart:.2g} at step {t}")
        executed = shown.action[:, t].to(given[LAST_ACTION].dtype)
        policy.observe(executed.numpy(), reward)
        given |= {name.removeprefix(NEXT): part for name, part in made.items() if name.startswith(NEXT)}
        given |= {LAST_ACTION: executed, RETURN_TO_GO: given[RETURN_TO_GO] - torch.from_numpy(reward)}


def check_checkpoint(model: SequenceModel, build: Callable[[], SequenceModel]) -> None:
    """Its checkpoint is one that is read, and predicts as it does itself; `build` makes another one like it."""
    ours = {"version": CHECKPOINT_VERSION, "spec": model.spec.to_json(), "model": {}, "context_length": LENGTHS[0]}
    weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    with TemporaryDirectory() as folder, torch.no_grad():
        torch.save({"elmur": ours, "state_dict": weights}, path := Path(folder) / "model.ckpt")
        try:
            again = filled(path, read_checkpoint(path), build).eval()
        except CheckpointError as error:
            raise AssertionError(f"{type(model).__name__}: its checkpoint is refused: {error}") from error
        segment = random_steps(model.spec, len(STARTS), LENGTHS[0], STARTS, dtype=torch.float32)
        apart = gap(again(segment, initial(again))[0].prediction, model(segment, initial(model))[0].prediction)
    require(model, apart == 0.0, f"its predictions differ by {apart:.2g} after a checkpoint")


def learn(model: SequenceModel, dtype: Any) -> tuple[list[Tensor], Any, dict[str, Tensor | None]]:
    """Predictions, the last state, and the gradient of every parameter, of an episode in one graph."""
    memory, total, predictions = initial(model), torch.zeros((), dtype=dtype), []
    for segment in episode(model, dtype):
        output, memory = model(segment, memory)
        predictions.append(output.prediction)
        total = total + model.head.loss(output.prediction, segment.action, segment.loss_mask, 0.1)
        if output.balance_loss is not None:
            total = total + output.balance_loss
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    return predictions, memory, dict(zip(names, gradients, strict=True))


def check_gradients(model: SequenceModel, untrained: Collection[str] = ()) -> None:
    """The loss of several segments in one graph trains every parameter, less those said to be `untrained`."""
    gradients = learn(model, torch.float64)[2]
    trained = {name for name, g in gradients.items() if g is not None and float(g.abs().max()) >= NOTHING}
    said = {name for name in gradients if any(part in name for part in untrained)}
    without = sorted(gradients.keys() - trained - said)
    require(model, not without, f"no gradient reaches {', '.join(without)}")
    idle = sorted(trained & said)
    require(model, not idle, f"said to be untrained, but a gradient reaches {', '.join(idle)}")


def check_precision(model: SequenceModel) -> None:
    """float32 and bfloat16 autocast give finite predictions, states and gradients, and no state in half precision."""
    template = initial(model)
    for what, low in (("float32", False), ("bfloat16 autocast", True)):
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            found, memory, gradients = learn(model, torch.float32)
            with torch.no_grad():
                acted = stepped(model, episode(model, torch.float32)[0], memory)
        found += [*tensors_of((memory, acted)), *(g for g in gradients.values() if g is not None)]
        require(model, all(bool(tensor.isfinite().all()) for tensor in found), f"not finite in {what}")
        kinds = [[t.dtype for t in tensors_of(state)] for state in (template, memory, acted[1])]
        require(model, kinds[0] == kinds[1] == kinds[2], f"its state is {kinds[1:]} in {what}; expected {kinds[0]}")
