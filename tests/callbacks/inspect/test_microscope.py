"""The microscope: recording that changes nothing, and measurements of a memory whose workings are known."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from callbacks.inspect.attention import watched
from callbacks.inspect.controls import controls
from callbacks.inspect.interventions import knocked_out, lasting, patched, predicted_apart, shifted, twins
from callbacks.inspect.microscope import InspectPlan, how_long, look, stored
from callbacks.inspect.probes import alike, diffuse, failures, probes, right, spread_over
from callbacks.inspect.recording import Player
from docs.measure_writer import draw, numbers, read
from elmur.attention import CrossAttention, merge_heads
from elmur.batch import SegmentBatch
from elmur.checkpoint import load_model
from elmur.heads import head_for
from elmur.memory import LRU
from elmur.model import ELMUR, MemoryDesign
from elmur.policy import StreamingPolicy
from elmur.sequence_model import Output, SequenceModel
from elmur.spec import TaskSpec, Vector
from envs import popgym, tmaze
from envs.family import EnvFamily
from envs.observers import Recorder
from envs.rollout import rollout
from envs.tmaze import FLAG, HINT, RIGHT, TOWARD_NEGATIVE, TOWARD_POSITIVE
from tests.command import DEEP, TINY, CommandLine
from tests.elmur.test_models import MODELS

SPEC = tmaze.make_vector(1, 9).spec
SEEDS = range(700_000, 700_024)


class Carrier(SequenceModel):
    """Adds up hints in one number, beside one that is noise, and turns at the junction where it is positive."""

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__()
        self.spec, self.head = spec, head_for(spec, 2)
        self.unused = nn.Parameter(torch.zeros(1))

    def initial_memory(self, batch_size: int, generator: torch.Generator | None = None) -> Any:
        return {"sum": torch.zeros(batch_size, 1), "noise": torch.randn(batch_size, 1, generator=generator)}

    def forward(
        self, batch: SegmentBatch, memory: Any, write: bool = True, write_grad: bool = True
    ) -> tuple[Output, Any]:
        state = batch.observation["state"]
        held = memory["sum"] + state[..., HINT].cumsum(1)  # [B, T]
        logits = torch.zeros(*held.shape, 4)
        logits[..., RIGHT] = 1.0
        logits[..., TOWARD_POSITIVE] = 2.0 * state[..., FLAG] * (held > 0)
        logits[..., TOWARD_NEGATIVE] = 2.0 * state[..., FLAG] * (held <= 0)
        return Output(logits), {"sum": held[:, -1:], "noise": memory["noise"]}


def player(model: SequenceModel, length: int = 3, time_limit: int = 12) -> Player:
    return Player(model, length, tmaze.make_vector(len(SEEDS), time_limit), SEEDS)


def small(**memory: Any) -> ELMUR:
    torch.manual_seed(0)
    design = MemoryDesign(**{"memory_size": 3, "memory_init_std": 1.0, "write": LRU(0.5), **memory})
    return ELMUR(SPEC, 16, 2, 2, 0.0, 0.0, memory=design).eval()


def test_recording_acts_as_the_policy_does() -> None:
    model = small(write=LRU(0.5, slots_per_write=2))
    found = player(model)(attention=True)
    env = tmaze.make_vector(len(SEEDS), 12)
    plain = rollout(env, StreamingPolicy(model, 3), SEEDS, observers=[Recorder()])
    for one, other in zip(found.episodes, plain, strict=True):
        assert one.steps is not None and other.steps is not None
        assert (one.steps.action == other.steps.action).all()
    assert not any(module._forward_hooks for module in model.modules())
    steps = len(found.predictions)
    assert np.stack(found.read[0]).shape == (steps, len(SEEDS), 2, 3)
    np.testing.assert_allclose(np.stack(found.read[1]).sum(-1), 1.0, atol=1e-5)
    # What was written is what changed.
    slots, dates = found.slots()["layer 1"], found.written_at()["layer 1"]
    for segment, index in enumerate(found.index[1]):
        changed = (slots[segment + 1] != slots[segment]).any(-1)
        assert all(set(np.flatnonzero(row)) == set(of) for row, of in zip(changed, index, strict=True))
        assert ((dates[segment + 1] != dates[segment]) == changed).all()


def test_the_weights_that_are_told_are_those_that_attention_uses() -> None:
    """Values summed by them, mapped out, are what the attention gave."""
    model, told = small(), list[Tensor]()

    def check(module: CrossAttention, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, (_, values), *_ = inputs
        torch.testing.assert_close(module.out(merge_heads(told[-1] @ values)), output)
        checked.append(True)

    checked: list[bool] = []
    with watched(model, lambda what, layer, weights: told.append(weights)):
        for layer in model.layers:
            assert layer.reader is not None
            layer.reader.register_forward_hook(check)
            layer.writer.register_forward_hook(check)
        rollout(tmaze.make_vector(4, 9), StreamingPolicy(model, 3), range(4))
    assert len(checked) > 20


def test_the_weights_on_slots_that_are_read_beside_the_tokens_are_told() -> None:
    """With unit vectors as values of slots, nothing of the tokens and no map out, the attention gives its weights."""
    model, told = small(joint=True, write=LRU(0.5, copies=True)), defaultdict[str, list[Tensor]](list)
    found = player(model)(attention=True)
    assert np.stack(found.read[0]).shape == (len(found.predictions), len(SEEDS), 2, 3)
    assert 0 < np.stack(found.read[0]).sum(-1).max() < 1
    np.testing.assert_allclose(np.stack(found.write[1]), 1 / 3, atol=1e-6)  # of the three tokens of a segment
    seen: list[Any] = []
    handle = model.layers[1].attention.register_forward_hook(lambda part, inputs, output: seen.append(inputs))
    batch = SegmentBatch.zeros(SPEC, 2, 3)
    batch.observation["state"].normal_(generator=torch.Generator().manual_seed(0))
    with watched(model, lambda what, layer, weights: told[f"{what} {layer}"].append(weights)):
        model(batch, model.initial_memory(2, torch.Generator().manual_seed(0)))
    handle.remove()
    attention, (*inputs, ((keys, values), bias)) = model.layers[1].attention, seen[-1]
    with torch.no_grad():
        attention.qkv.weight[2 * model.d_model :] = 0.0
        attention.out.weight.copy_(torch.eye(model.d_model))
    units = torch.eye(3, values.shape[-1]).expand_as(values)
    shares = attention(*inputs, ((keys, units), bias)).unflatten(-1, (2, -1))[..., :3].transpose(1, 2)
    torch.testing.assert_close(told["read 1"][0], shares)


def test_a_probe_finds_what_was_planted_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(3, size=(120, 2))
    features = rng.normal(size=(120, 8))
    features[:, 3:6] += 6.0 * np.eye(3)[classes[:, 0]]  # the first item alone, one direction for each class
    found = right(features, classes)
    assert found[0] >= 118 and 20 <= found[1] <= 60


def test_a_memory_whose_workings_are_known() -> None:
    play = player(Carrier(SPEC))
    own = play()
    assert all(episode.success for episode in own.episodes)
    for probe in probes(own):
        low, high = probe.accuracy.interval or (0, 0)
        assert (probe.accuracy.value == 1.0) == (probe.bank == "sum") and low <= probe.accuracy.value <= high
    other = twins(play)
    assert other is not None and all(episode.success for episode in other.episodes)
    assert [episode.seed for episode in other.episodes] == [episode.seed for episode in own.episodes]
    for one in knocked_out(play, own, [1, 3]):  # the hint is in the first segment: without it every turn is to one side
        assert one.success.value == {"reset": 0.5, "freeze": 1.0}.get(one.kind, one.success.value), one
    flips = {
        one.where: (one.success.value, one.others.value) for one in patched(play, own, other, [1, 3], 4) if one.others
    }
    assert flips == {"all": (0.0, 1.0), "sum": (0.0, 1.0), "noise": (1.0, 0.0)}
    for row in lasting(play.model, own, other):
        assert row.memory["sum"] == pytest.approx(2.0) and row.memory["noise"] == 0.0 and row.formula is None
    told = {control.history: control for control in controls(play.model, own)}
    assert told["reversed"].same == told["twice as slow"].same == 1.0  # a sum knows no order
    assert told["twice as slow"].memory["sum"] > 0.5 > told["reversed"].memory["sum"] == 0.0


def test_every_slot_is_asked_and_not_the_best_alone() -> None:
    """What was summed up in one slot beside one of noise: the hint is the sign of that sum."""
    own = player(Carrier(SPEC))()
    own.memories = [{"both": torch.stack([held["noise"], held["sum"]], 1)} for held in own.memories]
    lines = stored(own, "mine", 2).lines
    assert len(lines) >= 3
    for line in lines:
        assert (line["best slot"], line["slot 1"].value, line["slot 1"]) == ("1", 1.0, line["accuracy"])
        low, high = line["slot 0"].interval
        assert low <= 0.5 <= high and line["slot 0"].value < 1.0 > line["slot 0, control"].value
    assert not any(key.startswith("slot") for line in stored(own, "mine", 1).lines for key in line)


class FirstSuit(Carrier):
    """Says the suit of the first card, which it holds as a number; for RepeatFirst."""

    def initial_memory(self, batch_size: int, generator: torch.Generator | None = None) -> Any:
        return {"suit": torch.zeros(batch_size, 1)}

    def forward(
        self, batch: SegmentBatch, memory: Any, write: bool = True, write_grad: bool = True
    ) -> tuple[Output, Any]:
        shown, first = batch.observation["observation"][..., 0], batch.observation["first"][..., 0]
        held = memory["suit"] + ((1 + shown) * first).cumsum(1)
        return Output(30.0 * nn.functional.one_hot(held.long() - 1, 4)), {"suit": held[:, -1:].float()}


def test_twins_of_a_card_game_tell_how_long_its_first_card_is_held() -> None:
    env = popgym.make_vector(4, "popgym-RepeatFirstEasy-v0")
    play = Player(FirstSuit(env.spec), 10, env, range(4))
    own, other = play(), twins(play)
    assert other is not None
    assert [e.episode_return for e in (*own.episodes, *other.episodes)] == pytest.approx([1.0] * 8)
    rows = lasting(play.model, own, other)
    assert [row.steps for row in rows] == [10, 20, 30, 40, 50]
    for row in rows:
        assert row.prediction == pytest.approx(1.0) and row.memory["suit"] == pytest.approx(rows[0].memory["suit"])
    assert [row.seen for row in rows] == pytest.approx([0.1, 0, 0, 0, 0]), "one step of the first ten"
    assert how_long(rows, "popgym").lines and rows[0].memory["suit"] > 0


def test_predictions_that_are_numbers_differ_by_their_distance() -> None:
    """Of two equal actions 0, of two at right angles the root of 2; of logits what the shares of actions differ by."""
    arm = small()
    arm.spec = TaskSpec("arm", SPEC.observation, Vector(2), 12)
    one, other = np.array([[3.0, 4.0], [1.0, 0.0]], np.float32), np.array([[3.0, 4.0], [0.0, 1.0]], np.float32)
    assert predicted_apart(arm, one, other) == pytest.approx((0.0 + 2**0.5) / 2)
    first, second = (np.log(np.array([share], np.float32)) for share in ([0.9, 0.1], [0.4, 0.6]))
    assert predicted_apart(small(), first, second) == pytest.approx(0.5)


def test_other_episodes_are_the_donors_where_there_are_no_twins() -> None:
    play = player(Carrier(SPEC))
    own = play()
    donors = shifted(own)
    for one in patched(play, own, donors, [2], 4):  # of consecutive seeds goals alternate
        if one.where in ("all", "sum"):
            assert one.success.value == 0.0 and one.others is not None and one.others.value == 1.0


def test_a_world_that_tells_nothing_is_said_so() -> None:
    own = player(Carrier(SPEC))()
    own.hidden.clear()
    sheet = stored(own, "mine", 4)
    assert not sheet.lines and "env=mine tells nothing of its hidden state" in sheet.notes[0]
    assert "envs/hidden.py" in sheet.notes[0] and "mine has no twins" in how_long([], "mine").notes[0]


def test_the_numbers_of_failing() -> None:
    eye = np.eye(4)[None]
    assert alike(eye) == pytest.approx(0.0) and spread_over(eye) == pytest.approx(1.0)
    same = np.ones((2, 4, 4))
    assert alike(same) == pytest.approx(1.0) and spread_over(same) == pytest.approx(0.25)
    assert diffuse([np.full((1, 2, 5), 0.2)]) == pytest.approx(1.0)
    assert diffuse([np.eye(5)[None]]) == 0.0
    names = {failure.name for failure in failures(player(small())(attention=True))}
    assert names == {"collapse", "slots used", "diffuse writing", "read, never written", "written, hardly read"}


def test_reading_of_what_was_never_written() -> None:
    """The same number summed step by step and slot by slot."""
    found = player(small())(attention=True)
    total, counted = 0.0, 0
    for lane, episode in enumerate(found.episodes):
        for step in range(3, episode.length):  # in the first segment nothing is written yet
            dates = found.memories[step // 3][0].written_at[lane]
            weights = found.read[0][step][lane].mean(0)
            total += sum(float(weights[slot]) for slot in range(3) if dates[slot] < 0)
            counted += 1
    by_name = {(f.name, f.bank): f.value for f in failures(found)}
    assert total > 0 and by_name["read, never written", "layer 0"] == pytest.approx(total / counted, rel=1e-4)


FAMILY = EnvFamily(name="tmaze", id="tmaze", dataset="tmaze", make=lambda num_envs: tmaze.make_vector(num_envs, 12),
                   expert=None)  # fmt: skip


WITHOUT = ("mlp", "transformer", "diffusion_policy")  # a memory, or another task


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("gru", "rmt") else [pytest.mark.slow])
        for name in MODELS
        if name not in WITHOUT
    ],
)
def test_every_model_with_a_memory_is_looked_into(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sheets = look(MODELS[name](spec=SPEC), 3, FAMILY, InspectPlan(num_episodes=20, shown=1, changes=1), {}, tmp_path)
    found = {sheet.title: sheet for sheet in sheets}
    assert found["what is stored where"].lines and found["how long it lasts"].lines and found["patching"].lines
    assert ("diffuse writing" in {line["number"] for line in found["how slots fail"].lines}) == (name == "elmur")
    assert (tmp_path / "memory.html").stat().st_size > 10_000
    json.loads((tmp_path / "memory.json").read_text())


@pytest.fixture(scope="module")
def trained(cli: CommandLine) -> Path:
    """A run of a few updates."""
    done = cli.run(*TINY, *DEEP, to=cli.folder / "trained")
    assert (done.code, done.stderr) == (0, ""), done.stderr
    return cli.folder / "trained"


FEW = ("inspect.num_episodes=20", "inspect.single_slots=0", "inspect.changes=2")


def test_the_command(cli: CommandLine, trained: Path) -> None:
    folder = cli.folder / "inside"
    done = cli.run("stage=inspect", f"checkpoint={trained}", *FEW, to=folder)
    assert (done.code, done.stderr) == (0, ""), done.stderr
    model, length = load_model(trained / "checkpoints" / "best.ckpt")
    with np.load(folder / "memory.npz", allow_pickle=False) as arrays:
        segments = len(arrays["slots/layer 0"])
        assert arrays["slots/layer 0"].shape == (segments, 2, 2, model.d_model)
        played = len(arrays["actions"])
        assert arrays["observation/state"].shape == (played, 2, 4) and arrays["rewards"].shape == (played, 2)
        hint = arrays["observation/state"][..., HINT]
        assert (hint[0] != 0).all() and not hint[1:].any()  # which the first step alone shows
        assert arrays["read/0"].shape[1:] == (2, 2, 2) and arrays["write/0"].shape == (segments - 1, 2, 1, length)
    assert "http" not in (folder / "memory.html").read_text().replace("http-equiv", "")
    # What docs/measure_writer.py makes of it: the first and the last segment of each table.
    columns = read([folder, folder])
    found = dict(numbers(columns["inside"][1]))
    resets = [line for line in columns["inside"][0]["knock-out"] if line["change"] == "reset"]
    assert {name: value for name, value in found.items() if "reset" in name} == {
        f"success, reset all, segment {line['segment']}": line["success"] for line in resets
    }
    assert f"twins apart, layer 0, step {length}" in found and len(resets) == 2
    draw(columns, folder / "writer.svg")
    assert 5_000 < (folder / "writer.svg").stat().st_size < 100_000


def test_what_cannot_be_looked_into_is_said_in_a_sentence(cli: CommandLine) -> None:
    done = cli.run("stage=inspect")
    assert done.code == 1 and done.stderr.startswith("error: stage=inspect needs a checkpoint")
    small = ("model=transformer", *TINY, "model.n_head=2")
    assert cli.run(*small, to=cli.folder / "without").code == 0
    done = cli.run("stage=inspect", f"checkpoint={cli.folder / 'without'}", *FEW)
    assert done.code == 1 and "a Transformer carries nothing from one segment to the next" in done.stderr
    done = cli.run("stage=inspect", f"checkpoint={cli.folder / 'without'}", "inspect.num_episodes=0")
    assert done.code == 1 and "inspect: expected num_episodes and max_steps of 1 or more" in done.stderr


@pytest.mark.slow
def test_the_page_in_a_browser(cli: CommandLine, trained: Path, tmp_path: Path) -> None:
    """Its script runs: pictures are there, and they are not blank."""
    from PIL import Image

    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here: apt-get install chromium")
    folder = cli.folder / "seen"
    assert cli.run("stage=inspect", f"checkpoint={trained}", *FEW, to=folder).code == 0
    shot, page = tmp_path / "shot.png", f"file://{folder / 'memory.html'}#3"
    quiet = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1000,1400"]
    dom = subprocess.run([*quiet, "--dump-dom", page], capture_output=True, text=True, timeout=120, check=True).stdout
    assert dom.count("<canvas") == 5 and "step 3" not in dom  # one layer: age, change, norm, read, write
    assert re.search(r">3 of \d+, segment 1<", dom) and "★" in dom
    subprocess.run([*quiet, f"--screenshot={shot}", page], capture_output=True, timeout=120, check=True)
    pixels = np.asarray(Image.open(shot).convert("RGB")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 20
    whole = (folder / "memory.html").read_text()
    (data,) = re.findall(r'<script[^>]*id="data"[^>]*>(.*?)</script>', whole, re.DOTALL)
    told = json.loads(data)
    for episode in told["episodes"]:
        episode["probabilities"] = [[0.01 * n for n in range(20)] for _ in episode["probabilities"]]
    (folder / "memory.html").write_text(whole.replace(data, json.dumps(told)))
    dom = subprocess.run([*quiet, "--dump-dom", page], capture_output=True, text=True, timeout=120, check=True).stdout
    assert "12 others, less likely" in dom and " 0.190<" in dom and " 0.110<" not in dom, "the eight likeliest of 20"
