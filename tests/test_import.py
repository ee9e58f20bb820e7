"""Runs of the published code through the real command line: imported, refused, and acting."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from elmur.batch import SegmentBatch
from elmur.checkpoint import load_model
from elmur.memory import Memory
from tests.command import ROOT, CommandLine
from tests.test_cli_errors import Payload, refused

GOLDEN = ROOT.parent / "shared" / "golden"
SHORT = ("env.lengths=[9,30]", "evaluation.num_episodes=4")
Shapes = dict[str, tuple[int, ...]]
D, F, LAYERS, HEADS = 8, 12, 2, 2
MODEL: dict[str, Any] = {
    "env_name": "tmaze", "state_dim": 4, "act_dim": 4, "d_model": D, "d_ff": F, "n_layer": LAYERS, "n_head": HEADS,
    "max_seq_len": 64, "memory_size": 3, "memory_init_std": 0.001, "lru_blend_alpha": 0.8, "pre_lnorm": False,
    "pos_type": "relative", "sequence_format": "s", "norm_type": "layer", "use_moe": False, "use_swiglu": False,
    "dropout": 0.1, "dropatt": 0.1, "memory_dropout": 0.0, "use_lru": True, "use_tok2mem": True, "use_mem2tok": True,
    "use_relative_bias": True, "use_shared_memory": False, "padding_idx": -10, "label_smoothing": 0.1,
    "mem_len": None, "d_head": None,
}  # fmt: skip


def published_weights(states: int = 4) -> dict[str, torch.Tensor]:
    """Random weights under the published names, written down from their description, for MODEL."""
    shapes: Shapes = {
        "r_w_bias": (HEADS, D // HEADS), "r_r_bias": (HEADS, D // HEADS), "pos_emb.inv_freq": (D // 2,),
        "state_encoder.weight": (D, states), "state_encoder.bias": (D,), "action_embeddings.0.weight": (5, D),
        "ret_emb.weight": (D, 1), "ret_emb.bias": (D,), "head.weight": (4, D),
    }  # fmt: skip
    norm: Shapes = {"weight": (D,), "bias": (D,)}
    for layer in range(LAYERS):
        parts: dict[str, Shapes] = {
            "self_attention.qkv_net": {"weight": (3 * D, D)}, "self_attention.r_net": {"weight": (D, D)},
            "self_attention.o_net": {"weight": (D, D)}, "self_attention.layer_norm": norm,
            "cross_rel_bias.bias": {"weight": (2 * 64 - 1, HEADS)}, "token_norm_cross": norm, "memory_norm_cross": norm,
        }  # fmt: skip
        for cross in ("cross_attention1", "cross_attention2"):
            parts |= {f"{cross}.{name}": {"weight": (D, D)} for name in ("w_q", "w_k", "w_v")}
            parts[f"{cross}.w_o"] = {"weight": (D, D), "bias": (D,)}
        for ffn in ("token_ffn", "memory_ffn"):
            parts[f"{ffn}.layer_norm"] = norm
            parts[f"{ffn}.core_net.0"] = {"weight": (F, D), "bias": (F,)}
            parts[f"{ffn}.core_net.3"] = {"weight": (D, F), "bias": (D,)}
        shapes |= {f"layers.{layer}.{p}.{name}": shape for p, ns in parts.items() for name, shape in ns.items()}
    g = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=g) * 0.3 for name, shape in shapes.items()}


def write_run(folder: Path, model: dict[str, Any], weights: Any, file: str = "best_checkpoint.pth") -> Path:
    """A run folder as the published code leaves it."""
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    config = {"model": model, "training": {"context_length": 10, "epochs": 1}, "run": {"model_mode": "ELMUR"}}
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(weights, folder / file)
    return folder


def import_it(cli: CommandLine, source: Path) -> Path:
    folder = cli.folder / f"imported{cli.count}"
    done = cli.run("stage=import", f"source={source}", to=folder)
    assert (done.code, done.stderr) == (0, "")
    return folder / "checkpoints" / "best.ckpt"


def act(cli: CommandLine, checkpoint: Path) -> dict[str, Any]:
    folder = cli.folder / f"acted{cli.count}"
    done = cli.run("stage=evaluate", f"checkpoint={checkpoint}", *SHORT, to=folder)
    assert (done.code, done.stderr) == (0, "")
    row: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return row


def test_a_run_is_imported_and_acts(cli: CommandLine, tmp_path: Path) -> None:
    weights = published_weights()
    checkpoint = import_it(cli, write_run(tmp_path / "run", MODEL, weights))
    row = act(cli, checkpoint)
    assert row["model"] == "elmur" and list(row["outcomes"]) == ["T=9", "T=30"]
    unused = ("action_embeddings", "ret_emb", "pos_emb")
    assert row["parameters"] == sum(w.numel() for name, w in weights.items() if not name.startswith(unused))
    model, context_length = load_model(checkpoint)
    assert context_length == 10
    state = model.state_dict()
    assert torch.equal(state["head.linear.weight"], weights["head.weight"])
    reads = [weights[f"layers.1.cross_attention1.{w}.weight"] for w in ("w_k", "w_v")]
    assert torch.equal(state["layers.1.reader.key_value.weight"], torch.cat(reads))


@pytest.mark.parametrize("name", ["tmaze_relative", "tmaze_alibi", "relative_seq_sra"])
def test_a_golden_run_gives_the_published_logits(cli: CommandLine, tmp_path: Path, name: str) -> None:
    if not GOLDEN.is_dir():
        pytest.skip(f"{GOLDEN} is not here")
    golden = torch.load(GOLDEN / f"{name}.pt", weights_only=True)
    config = {key: value for key, value in golden["config"].items() if key not in ("seed", "torch")}
    checkpoint = import_it(cli, write_run(tmp_path / "run", config, golden["state_dict"]))
    assert act(cli, checkpoint)["parameters"] > 60_000
    model, context_length = load_model(checkpoint)
    inputs, segment = golden["inputs"], golden["segments"][0]
    action = inputs["actions"][:, :context_length, 0].long()
    steps = SegmentBatch.of({"state": inputs["states"][:, :context_length]}, action.clamp(min=0))
    batch = replace(steps, return_to_go=inputs["rtgs"][:, :context_length, 0], mask=action >= 0)
    banks = tuple(Memory(slots, at) for slots, at in zip(inputs["mem0_vec"], inputs["mem0_pos"], strict=True))
    with torch.no_grad():
        output, after = model(batch, banks)
    assert torch.allclose(output.prediction, segment["logits"], atol=1e-5, rtol=1e-5)
    assert torch.equal(after[0].written_at, segment["mem_pos"][0])


def write_rate(folder: Path, **changes: Any) -> dict[str, Any]:
    """A run folder of the released RATE, with the weights of `tests/golden`; what that file holds."""
    golden: dict[str, Any] = torch.load(ROOT / "tests" / "golden" / "rate_mem5_cache30.pt", weights_only=True)
    # As its command line leaves it: keys of other models are there, None where they were not given.
    write_run(folder, {**golden["config"], "memory_size": None, "use_lru": None, **changes}, golden["state_dict"])
    config = json.loads((folder / "config.json").read_text())
    config |= {"run": {"model_mode": "RATE", "arch_mode": "TrXL"}, "training": {"context_length": 10, "sections": 3}}
    (folder / "config.json").write_text(json.dumps(config))
    return golden


def test_a_run_of_rate_gives_the_published_logits_and_acts(cli: CommandLine, tmp_path: Path) -> None:
    golden = write_rate(tmp_path / "run")
    checkpoint = import_it(cli, tmp_path / "run")
    assert act(cli, checkpoint)["parameters"] == sum(weights.numel() for weights in golden["state_dict"].values())
    model, context_length = load_model(checkpoint)
    inputs, memory = golden["inputs"], model.initial_memory(2)
    batch = SegmentBatch.of({"state": inputs["states"]}, inputs["actions"][..., 0].long().clamp(min=0))
    batch.mask, batch.return_to_go = inputs["mask"], inputs["rtgs"][..., 0]
    for segment, expected in zip(batch.split(context_length), golden["segments"], strict=True):
        with torch.no_grad():
            output, memory = model(segment, memory)
        assert torch.allclose(output.prediction, expected["logits"], atol=1e-5, rtol=1e-5)
        assert torch.allclose(memory.tokens, expected["mem_tokens"].transpose(0, 1), atol=1e-5, rtol=1e-5)


def test_a_run_of_rate_that_cannot_be_imported(cli: CommandLine, tmp_path: Path) -> None:
    write_rate(tmp_path / "run", pre_lnorm=True, n_layer="2", ext_len=None)
    message = refused(cli.run("stage=import", f"source={tmp_path / 'run'}"))
    assert "does not fit a RATE: pre_lnorm: expected False, found True, which cannot be imported" in message
    assert "n_layer: expected a whole number from 1, found '2'" in message


def test_the_newest_step_a_single_file_and_a_flat_configuration(cli: CommandLine, tmp_path: Path) -> None:
    weights = published_weights()
    run = write_run(tmp_path / "run", MODEL, {**weights, "head.weight": torch.zeros(4, D)}, "checkpoints/step_9.pth")
    torch.save(weights, run / "checkpoints" / "step_10.pth")
    newest = load_model(import_it(cli, run))[0].state_dict()
    assert torch.equal(newest["head.linear.weight"], weights["head.weight"]), "10 is newer than 9"
    (run / "config.json").write_text(json.dumps({**MODEL, "context_length": 7, "model_mode": "ELMUR"}))
    model, length = load_model(import_it(cli, run / "checkpoints" / "step_9.pth"))
    assert length == 7 and not model.state_dict()["head.linear.weight"].any()


def test_popgym_takes_its_width_from_the_weights_and_its_name_from_the_suite(cli: CommandLine, tmp_path: Path) -> None:
    config = {**MODEL, "env_name": "popgym-AutoencodeEasy", "state_dim": -1}
    model, _ = load_model(import_it(cli, write_run(tmp_path / "run", config, published_weights(states=2))))
    assert model.spec.name == "popgym-AutoencodeEasy-v0" and model.spec.observation["state"].shape == (2,)


def test_flags_that_were_never_set_mean_no_memory_and_that_is_said(cli: CommandLine, tmp_path: Path) -> None:
    config = {**MODEL, "use_tok2mem": None, "use_mem2tok": None, "use_relative_bias": None, "use_shared_memory": None}
    weights = {name: w for name, w in published_weights().items() if "cross_rel_bias" not in name}
    folder = cli.folder / "without"
    run = write_run(tmp_path / "run", config, weights)
    done = cli.run("stage=import", f"source={run}", to=folder)
    assert (done.code, done.stderr) == (0, "")
    assert "trained without memory" in done.stdout and "use_tok2mem, use_mem2tok, use_relative_bias" in done.stdout
    act(cli, folder / "checkpoints" / "best.ckpt")
    model, _ = load_model(folder / "checkpoints" / "best.ckpt")
    assert not any("reader" in name or "writer" in name or "bias.table" in name for name in model.state_dict())


def no_config(run: Path) -> None:
    (run / "config.json").unlink()


def no_weights(run: Path) -> None:
    (run / "best_checkpoint.pth").unlink()


def nothing(run: Path) -> None:
    no_config(run)
    no_weights(run)


def change_model(run: Path, **changes: Any) -> None:
    config = json.loads((run / "config.json").read_text())
    config["model"] = {key: value for key, value in {**config["model"], **changes}.items() if value != "gone"}
    (run / "config.json").write_text(json.dumps(config))


def unknown_keys(run: Path) -> None:
    change_model(run, mem_tokens=3, n_head_ca=2, act_dim="gone")


def yarn(run: Path) -> None:
    change_model(run, pos_type="yarn")


def attends_to_later_steps(run: Path) -> None:
    change_model(run, use_causal_self_attn_mask=False, use_shared_memory=True)


def no_type(run: Path) -> None:
    change_model(run, n_layer="2", use_lru=1)


def rounded_positions(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))


def rounded_rate(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    about = {"run": {"model_mode": "RATE"}, "dtype": "bfloat16"}
    (run / "config.json").write_text(json.dumps({**config, **about}))


def odd_heads(run: Path) -> None:
    change_model(run, n_head=3)


def no_width(run: Path) -> None:
    change_model(run, d_model=None)


def another_model(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "run": {"model_mode": "DTXL"}}))


def no_context(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "training": {}}))


def broken_json(run: Path) -> None:
    (run / "config.json").write_text('{"model": ')


def other_weights(run: Path) -> None:
    weights = published_weights()
    del weights["layers.0.memory_ffn.core_net.3.bias"]
    weights |= {"layers.0.extra.weight": torch.zeros(1), "head.weight": torch.zeros(7, D)}
    torch.save(weights, run / "best_checkpoint.pth")


def not_weights(run: Path) -> None:
    torch.save([1, 2], run / "best_checkpoint.pth")


def half_a_file(run: Path) -> None:
    path = run / "best_checkpoint.pth"
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (no_config, ["no config.json"]),
        (no_weights, ["no weights (looked for best_checkpoint.pth and checkpoints/step_*.pth)"]),
        (nothing, ["no config.json", "no weights"]),
        (unknown_keys, ["config.json", "missing ['act_dim']", "unknown ['mem_tokens', 'n_head_ca']"]),
        (another_model, ["expected a run of ELMUR, RATE, RMT, TrXL, DT, found DTXL, which cannot be imported"]),
        (yarn, ["pos_type: expected one of", "'yarn'", "weights cannot be run"]),
        (attends_to_later_steps, ["use_causal_self_attn_mask: expected true with pos_type=relative", "found False",
                                  "use_shared_memory: expected false", "found True"]),
        (no_type, ["n_layer: expected a whole number from 1, found '2'; use_lru: expected true, false or null"]),
        (rounded_positions, ["dtype: expected one of float32, float64, null, found 'bfloat16'"]),
        (rounded_rate, ["fit a RATE", "dtype: expected float32 or float64, found 'bfloat16', which cannot"]),
        (odd_heads, ["n_head=3"]),
        (no_width, ["d_model", "None"]),
        (no_context, ["training.context_length: expected a whole number from 1, found None"]),
        (broken_json, ["config.json: expected the JSON of a published run"]),
        (other_weights, ["missing ['layers.0.memory_ffn.core_net.3.bias']", "unknown ['layers.0.extra.weight']",
                         "head.linear.weight: expected [4, 8], found [7, 8]"]),
        (not_weights, ["expected a dictionary of tensors by name, found list"]),
        (half_a_file, ["best_checkpoint.pth: expected weights of the published code"]),
    ],
)  # fmt: skip
def test_what_cannot_be_imported(
    cli: CommandLine, tmp_path: Path, spoil: Callable[[Path], None], expected: list[str]
) -> None:
    run = write_run(tmp_path / "run", MODEL, published_weights())
    spoil(run)
    target = cli.folder / "never"
    said = refused(cli.run("stage=import", f"source={run}", to=target))
    assert str(run) in said and [words for words in expected if words not in said] == [], said
    assert not re.search(r"\.ckpt", " ".join(path.name for path in target.rglob("*")))


def test_pickled_code_is_not_executed(cli: CommandLine, tmp_path: Path) -> None:
    witness = tmp_path / "executed"
    run = write_run(tmp_path / "run", MODEL, {"head.weight": Payload(witness)})
    assert "nothing in it was executed" in refused(cli.run("stage=import", f"source={run}"))
    assert not witness.exists()
    torch.load(run / "best_checkpoint.pth", weights_only=False)
    assert witness.exists(), "the payload works where code is let run"


def test_an_import_does_not_overwrite_a_training_run(cli: CommandLine, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", MODEL, published_weights())
    (folder := tmp_path / "trained").mkdir()
    (folder / "settings.json").write_text("{}")
    assert "holds a training run" in refused(cli.run("stage=import", f"source={run}", to=folder))
