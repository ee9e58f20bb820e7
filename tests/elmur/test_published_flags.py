"""Every published flag in both positions: the published outputs, what follows from them, or a sentence of refusal."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from elmur.checkpoint import load_model
from elmur.published.config import FLAG, KEYS, PublishedError, check_keys
from elmur.published.run import import_run
from tests.elmur.test_published_parity import GOLDEN, LENGTH, assert_close, first_memory, load, window

BASE, ALIBI, PRE = "tmaze_relative", "tmaze_alibi", "relative_rmsnorm_prelnorm"
GELU, SWIGLU = "relative_ffn_gelu", "relative_ffn_swiglu"
# Flag -> position -> a file of the published model's outputs with it in that position.
PUBLISHED: dict[str, dict[bool, str]] = {
    "pre_lnorm": {True: PRE, False: BASE},
    "use_lru": {True: BASE, False: "relative_nolru"},
    "use_moe": {True: BASE, False: SWIGLU},
    "use_swiglu": {True: SWIGLU, False: GELU},
    "use_shared_expert": {True: BASE},
    "use_shared_memory": {False: BASE},
    "use_relative_bias": {True: BASE, False: "relative_norelbias"},
    "use_tok2mem": {True: BASE},
    "use_mem2tok": {True: BASE},
    "use_causal_self_attn_mask": {True: BASE},
    "detach_memory": {True: BASE},
}
# Positions without such a file: what is changed in one, and in its configuration beside the flag, so that its own
# equations give the same. Parts whose last map is zero add nothing to a stream that is normalised before them.
NOTHING: dict[str, tuple[str, dict[str, Any], str]] = {
    "use_shared_expert": (BASE, {"top_k": 1}, r"shared_experts.*down_proj"),
    "use_tok2mem": (PRE, {}, r"cross_attention1.w_o"),
    "detach_memory": (BASE, {}, ""),
    "use_causal_self_attn_mask": (ALIBI, {}, ""),  # the published code looks at it with pos_type=relative alone
}
REFUSED = {
    ("use_shared_memory", True): "use_shared_memory: expected false: .*, found",
    ("use_mem2tok", False): "use_mem2tok: expected true with use_tok2mem, use_relative_bias and use_lru: .*, found",
    ("use_causal_self_attn_mask", False): "use_causal_self_attn_mask: expected true with pos_type=relative: .*, found",
}
shared = pytest.mark.skipif(not GOLDEN.is_dir(), reason="more published outputs are not on this machine")


def golden(name: str) -> dict[str, Any]:
    return load(GOLDEN / f"{name}.pt")


def acted(folder: Path, config: dict[str, Any], weights: dict[str, torch.Tensor], of: dict[str, Any]) -> torch.Tensor:
    """The logits of all segments by the imported run, in one tensor."""
    folder.mkdir()
    model = {key: value for key, value in config.items() if key not in ("seed", "torch")}
    (folder / "config.json").write_text(json.dumps({"model": model, "training": {"context_length": LENGTH}}))
    torch.save(weights, folder / "best_checkpoint.pth")
    imported, _ = load_model(import_run(folder, folder / "ours.ckpt"))
    memory, logits = first_memory(of), []
    with torch.no_grad():
        for segment in window(of).split(LENGTH):
            output, memory = imported(segment, memory)
            logits.append(output.prediction)
    return torch.cat(logits, dim=1)


def published(of: dict[str, Any]) -> torch.Tensor:
    return torch.cat([segment["logits"] for segment in of["segments"]], dim=1)


def test_every_flag_is_looked_at_in_both_positions() -> None:
    assert {name for name, key in KEYS.items() if key is FLAG} == set(PUBLISHED)
    for flag, files in PUBLISHED.items():
        also = {False} if flag in NOTHING else set()
        assert set(files) | also | {position for name, position in REFUSED if name == flag} == {True, False}, flag


@shared
@pytest.mark.parametrize(("flag", "position"), [(flag, at) for flag, files in PUBLISHED.items() for at in files])
def test_a_position_gives_the_published_logits(tmp_path: Path, flag: str, position: bool) -> None:
    of = golden(PUBLISHED[flag][position])
    assert of["config"].get(flag) is position
    found = acted(tmp_path / "as it is", of["config"], of["state_dict"], of)
    assert_close(found, published(of), "logits")
    if not position:  # null is false there
        null = acted(tmp_path / "null", {**of["config"], flag: None}, of["state_dict"], of)
        assert torch.equal(null, found)


@shared
@pytest.mark.parametrize("flag", NOTHING)
@pytest.mark.parametrize("off", [False, None])
def test_a_part_that_is_switched_off_is_a_part_that_adds_nothing(tmp_path: Path, flag: str, off: bool | None) -> None:
    name, changes, zeroed = NOTHING[flag]
    of = golden(name)
    nothing = {
        key: torch.zeros_like(value) if zeroed and re.search(zeroed, key) else value
        for key, value in of["state_dict"].items()
    }
    config = {**of["config"], **changes}
    expected = acted(tmp_path / "nothing", config, nothing, of)
    assert zeroed == "" or not torch.allclose(expected, published(of), atol=1e-3)
    weights = {key: value for key, value in of["state_dict"].items() if "shared_experts" not in key or not zeroed}
    left = weights if flag == "use_shared_expert" else of["state_dict"]
    assert_close(acted(tmp_path / "off", {**config, flag: off}, left, of), expected, flag)


@shared
@pytest.mark.parametrize("off", [False, None])
def test_without_writing_memory_stays_as_it_began(tmp_path: Path, off: bool | None) -> None:
    """As with a blend of 0; without the bias, for which it would matter that slots are dated all the same."""
    of = golden("relative_norelbias")
    expected = acted(tmp_path / "blend", {**of["config"], "lru_blend_alpha": 0}, of["state_dict"], of)
    found = acted(tmp_path / "off", {**of["config"], "use_mem2tok": off}, of["state_dict"], of)
    assert_close(found, expected, "use_mem2tok")
    assert not torch.allclose(found, published(of), atol=1e-3)


TASK: dict[str, Any] = {"env_name": "tmaze", "state_dim": 4, "act_dim": 4}


@pytest.mark.parametrize(("flag", "position"), REFUSED)
def test_other_positions_are_refused_by_name(flag: str, position: bool) -> None:
    for value in (position, None) if not position else (position,):
        with pytest.raises(PublishedError, match=REFUSED[flag, position] + f".*{value}"):
            check_keys({**TASK, flag: value})


@pytest.mark.parametrize("key", KEYS)
def test_every_key_is_typed(key: str) -> None:
    """A value of another kind is named with what is expected, also one that Python would take for it."""
    for wrong in ({"a": 1}, [1], float("nan"), "two" if key not in ("env_name", "mode", "model_mode") else 2):
        with pytest.raises(PublishedError, match=f"^{key}: expected "):
            check_keys({**TASK, key: wrong})
    if KEYS[key].says.startswith(("a whole", "a number")):
        with pytest.raises(PublishedError, match=f"^{key}: expected a .*, found"):
            check_keys({**TASK, key: True})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dtype": "bfloat16"}, r"dtype: expected one of float32, float64, null, found 'bfloat16' \(positions are"),
        ({"dropout": 1.5}, "dropout: expected a number from 0 to 1, found 1.5"),
        ({"n_layer": "2", "use_lru": 1}, "n_layer: expected a whole number from 1, found '2'; use_lru: expected true"),
        ({"d_ff": None}, "d_ff: expected a whole number from 1, found None"),
        ({"use_moe": True, "top_k": None}, "top_k: expected a whole number from 1, found None"),
        ({"use_lru": True, "lru_blend_alpha": None}, "lru_blend_alpha: expected a number from 0 to 1, found None"),
    ],
)
def test_values_that_the_published_code_could_not_have_meant(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(PublishedError, match=says):
        check_keys({**TASK, **changes})
    if "use_lru" in changes or "use_moe" in changes:  # of parts that are switched off nothing is asked
        off = {key: None if key in ("use_lru", "use_moe") else value for key, value in changes.items()}
        assert "n_layer" in off or check_keys({**TASK, **off})
