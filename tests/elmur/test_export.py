"""A policy outside: traced, as ONNX, as a folder that anybody may have written. `check_step_program` is in testing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from huggingface_hub import constants, snapshot_download
from safetensors.torch import save_file

import elmur
from elmur.baselines.diffusion_policy import DiffusionPolicy
from elmur.baselines.mamba import Mamba
from elmur.baselines.memory_tokens import AsPublished, Trained
from elmur.baselines.recurrent import GRU
from elmur.baselines.rmt import RMT
from elmur.batch import SegmentBatch
from elmur.checkpoint import CONFIG, TASK, WEIGHTS, CheckpointError, load_model, write_policy
from elmur.export.program import StepProgram
from elmur.export.trace import ExportError, example_of, program_of, signature_of, traced, write_onnx
from elmur.model import ELMUR, MemoryDesign
from elmur.policy import StreamingPolicy, episode_seeds, first_state
from elmur.published.quirks import Mirrored, PublishedLRU, PublishedRelative
from elmur.sequence_model import Output, SequenceModel
from elmur.spec import Discrete, TaskSpec, Vector
from elmur.testing import CHOOSE, REACH, check_step_program, made, random_steps

GRU_16: dict[str, Any] = {"_target_": "elmur.baselines.recurrent.GRU", "d_model": 16, "token_format": "sa"}


def first_of(model: SequenceModel) -> Any:
    return first_state(model, episode_seeds(0, [0])[0])


def test_onnx_acts_as_the_policy_for_any_number_of_lanes(tmp_path: Path) -> None:
    model = made(partial(GRU, d_model=16, token_format="sa"), CHOOSE).eval()
    program = program_of(model, 5, first_of(model))
    # The inputs are what the graph reads: actions, no returns; the state, and the step whose action is yet to come.
    assert program.names[:4] == ("numbers", "cards", "is_first", "last_action") and "return_to_go" not in program.names
    write_onnx(traced(program, None), program, tmp_path / "step.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "step.onnx")
    assert [found.name for found in session.get_inputs()] == list(program.names)
    names = [about["name"] for about in signature_of(program)["outputs"]]
    for lanes in (1, 4):
        policy, steps = StreamingPolicy(model, 5), random_steps(CHOOSE, lanes, 20, dtype=torch.float32)
        policy.start(lanes)
        memory = {k: v.numpy() for k, v in example_of(program, lanes).items() if k.startswith("memory_")}
        action = np.zeros(lanes, np.int64)
        for t in range(20):
            now = {name: part[:, t].numpy() for name, part in steps.observation.items()}
            is_first = (np.arange(lanes) == t % 7) | (t == 0)
            made_ = session.run(names, {**now, "is_first": is_first, "last_action": action, **memory})
            found = dict(zip(names, made_, strict=True))
            action = policy.act(now, is_first)
            assert np.array_equal(found["action"], action)
            np.testing.assert_allclose(found["prediction"], policy.prediction, atol=1e-5)
            memory = {name: found[f"next_{name}"] for name in memory}


def test_a_part_may_be_called_as_an_operator_is(tmp_path: Path) -> None:
    spec = TaskSpec("named", {"view": Discrete((3,)), "linear": Vector(2)}, Discrete((3,)))
    model = made(partial(GRU, d_model=16), spec).eval()
    program = program_of(model, 2, first_of(model))
    write_onnx(traced(program, 1), program, tmp_path / "step.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "step.onnx")
    given = {name: part.numpy() for name, part in example_of(program, 1).items()}
    answered = dict(zip([output.name for output in session.get_outputs()], session.run(None, given), strict=True))
    assert np.allclose(answered["prediction"], program(example_of(program, 1))["prediction"].detach(), atol=1e-5)


@pytest.mark.slow
@torch.no_grad()
def test_published_distances_are_exported_for_lanes_at_different_places_of_their_episodes() -> None:
    design = MemoryDesign(steps=Mirrored(), write=PublishedLRU(0.7))
    build = partial(ELMUR, d_model=8, n_layer=1, n_head=2, position=PublishedRelative, memory=design)
    model = made(build, CHOOSE).eval()
    program = StepProgram(model, 2, first_of(model)).eval()
    module = traced(program, None).module()
    policy, steps = StreamingPolicy(model, 2), random_steps(CHOOSE, 3, 7, dtype=torch.float32)
    policy.start(3)
    given = example_of(program, 3)
    for t in range(7):
        policy.seed_episodes([0] * 3)  # all episodes begin with the state that the program holds
        now = {name: part[:, t] for name, part in steps.observation.items()}
        is_first = torch.arange(3) == t if t else torch.ones(3, dtype=torch.bool)
        policy.act(now, is_first.numpy())
        made_ = module({**given, **now, "is_first": is_first})
        np.testing.assert_allclose(made_["prediction"], policy.prediction, atol=1e-5)
        given |= {name: made_[f"next_{name}"] for name in given if name.startswith("memory_")}


def test_what_a_model_computes_in_place_is_seen_to_be_read() -> None:
    # Three tokens a step go through the scan, which writes into its output: state, returns and actions are all read.
    model = made(partial(Mamba, d_model=8, n_layer=1, d_state=2, token_format="sra"), CHOOSE).eval()
    names = program_of(model, 5, first_of(model)).names
    assert {"memory_0", "memory_1", "last_action", "return_to_go"} <= set(names)


class Peeking(GRU):
    """Looks at values to decide what to compute."""

    def forward(
        self, batch: SegmentBatch, memory: Any, write: bool = True, write_grad: bool = True
    ) -> tuple[Output, Any]:
        if bool((batch.observation["encoded"] > 0).any()):
            memory = memory * 2
        return super().forward(batch, memory, write, write_grad)


def test_what_cannot_be_traced_is_refused_by_name_with_the_reason() -> None:
    model = made(partial(Peeking, d_model=16), CHOOSE).eval()
    with pytest.raises(ExportError, match=r"Peeking: its step cannot be traced \(.*data-dependent"):
        program_of(model, 5, first_of(model))
    drawing = made(partial(DiffusionPolicy, d_model=8, down_dims=(16, 32)), REACH).eval()
    with pytest.raises(ExportError, match=r"DiffusionPolicy: each of its actions is generated from random numbers"):
        program_of(drawing, 5, first_of(drawing))


def test_memory_tokens_as_published_see_how_long_the_window_is_so_that_no_program_is_their_policy() -> None:
    model = made(partial(RMT, tokens=AsPublished, d_model=16, n_head=2), CHOOSE).double().eval()
    with pytest.raises(AssertionError, match="its step as a program predicts otherwise"), torch.no_grad():
        check_step_program(model)


def test_a_model_that_says_wrongly_that_segments_do_not_matter_is_found() -> None:
    model = made(partial(RMT, tokens=Trained, d_model=16, n_head=2), CHOOSE).double().eval()
    with torch.no_grad():
        check_step_program(model)
    type(model).has_segments = False
    try:
        with pytest.raises(AssertionError, match="its step as a program predicts otherwise"), torch.no_grad():
            check_step_program(model)
    finally:
        del type(model).has_segments


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """The folder of a policy, as `stage=export` writes it, without programs."""
    model = made(partial(GRU, d_model=16, token_format="sa"), CHOOSE).eval()
    weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    ours = {"version": 1, "spec": CHOOSE.to_json(), "model": GRU_16, "context_length": 5}
    write_policy(tmp_path / "policy", {"elmur": ours, "state_dict": weights})
    return tmp_path / "policy"


def test_load_reads_the_folder_and_its_copy_out_of_a_hub_s_cache(exported: Path, tmp_path: Path) -> None:
    expected = made(partial(GRU, d_model=16, token_format="sa"), CHOOSE).eval()
    # The cache of huggingface_hub: a snapshot of links to blobs, which the real client finds, without a network.
    home, commit = tmp_path / "hub" / "models--me--policy", "0123456789abcdef0123456789abcdef01234567"
    blobs, snapshot = home / "blobs", home / "snapshots" / commit
    for folder in (blobs, snapshot, home / "refs"):
        folder.mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    for number, file in enumerate(sorted(exported.iterdir())):
        shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(Path("../../blobs") / str(number))
    downloaded = snapshot_download("me/policy", cache_dir=tmp_path / "hub", local_files_only=True)
    assert Path(downloaded) == snapshot
    for folder in (exported, Path(downloaded)):
        policy = elmur.load(folder)
        assert policy.context_length == 5 and policy.model.spec == CHOOSE
        for name, tensor in policy.model.state_dict().items():
            assert torch.equal(tensor, expected.state_dict()[name])
        assert policy.act({"numbers": np.zeros(4, np.float32), "cards": np.zeros(2, np.int64)}) in range(3)
    assert constants.CONFIG_NAME == CONFIG  # by which a hub counts downloads
    assert constants.SAFETENSORS_SINGLE_FILE == WEIGHTS


def test_programs_in_the_folder_are_never_opened(exported: Path) -> None:
    (exported / "step.pt2").write_bytes(b"not a program")
    (exported / "step.onnx").write_bytes(b"neither")
    elmur.load(exported)


def damage(folder: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    found = json.loads((folder / name).read_text())
    change(found)
    (folder / name).write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (CONFIG, lambda c: c["model"].update(_target_="os.system"), "refused; as model there are"),
        (CONFIG, lambda c: c["model"].update(d_model=1 << 40), "the number 1e"),
        (CONFIG, lambda c: c["model"].update(d_model=32), "do not fit the model it describes"),
        (CONFIG, lambda c: c.update(context_length="many"), "context_length"),
        (CONFIG, lambda c: c.update(library="other"), "no library = elmur"),
        (CONFIG, lambda c: c.update(format=2), "expected format 1, found 2"),
        (TASK, lambda c: c["action"].update(sizes=[7]), "do not fit the model it describes"),
        (TASK, lambda c: c.pop("observation"), "not a TaskSpec"),
    ],
)
def test_a_folder_of_unknown_origin_is_checked(exported: Path, name: str, change: Any, said: str) -> None:
    damage(exported, name, change)
    with pytest.raises((CheckpointError, ValueError), match=said) as found:
        load_model(exported)
    assert str(exported) in str(found.value) and "\n" not in str(found.value)


def test_damaged_weights_and_a_description_without_end_are_refused(exported: Path) -> None:
    good = (exported / WEIGHTS).read_bytes()
    for bad in (good[:100], good[:-4], b"\xff" * 64):
        (exported / WEIGHTS).write_bytes(bad)
        with pytest.raises(CheckpointError, match=r"model\.safetensors: expected weights in safetensors, found"):
            load_model(exported)
    save_file({"linear.weight": torch.full((2, 2), torch.nan)}, exported / WEIGHTS)
    with pytest.raises(CheckpointError, match="not finite"):
        load_model(exported)
    (exported / WEIGHTS).write_bytes(good)
    (exported / CONFIG).write_text('{"library": "elmur", "model": "' + "x" * (1 << 20) + '"}')
    with pytest.raises(CheckpointError, match="at most 1048576 bytes"):
        load_model(exported)


def test_the_program_holds_one_lane_s_first_state_for_all_lanes() -> None:
    model = made(partial(GRU, d_model=16), CHOOSE).eval()
    program = StepProgram(model, 5, torch.full((1, 1, 16), 0.5))
    made_ = program(program.example(3))
    alone = program(program.example(1))
    assert torch.allclose(made_["prediction"], alone["prediction"].expand(3, -1))
