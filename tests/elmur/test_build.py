"""build: a plain dictionary that names a class becomes an object, or an error that names the key."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from elmur.build import BuildError, build
from elmur.memory import LRU
from elmur.model import ELMUR, MemoryDesign
from elmur.moe import MixtureOfExperts
from tests.elmur.samples import SPEC


def test_a_nested_configuration_becomes_nested_objects() -> None:
    config = {
        "_target_": "elmur.model.ELMUR", "d_model": 8, "n_head": 2,
        "feedforward": {"_target_": "elmur.feedforward.SwiGLU", "_partial_": True, "d_ff": 6},
        "memory": {
            "_target_": "elmur.model.MemoryDesign", "write": {"_target_": "elmur.memory.LRU", "lru_blend_alpha": 0.25},
        },
    }  # fmt: skip
    model = build(config, spec=SPEC)
    assert isinstance(model, ELMUR) and isinstance(model.design, MemoryDesign)
    assert isinstance(model.design.write, LRU) and model.design.write.blend == 0.25
    assert model.state_dict()["layers.0.feedforward.down.weight"].shape == (8, 6)
    assert config["_target_"] == "elmur.model.ELMUR", "the configuration is left as it was"


def test_what_names_no_class_stays_plain() -> None:
    plain = {"a": [1, {"b": None}], "c": "text"}
    assert build(plain) == plain
    assert build((1, 2)) == [1, 2]


def test_a_partial_waits_for_the_rest() -> None:
    made = build({"_target_": "elmur.moe.MixtureOfExperts", "_partial_": True, "num_experts": 3})
    assert isinstance(made, partial)
    assert isinstance(made(8), MixtureOfExperts) and made(8).num_experts == 3


def test_extra_arguments_go_to_the_outermost_call_only() -> None:
    made = build({"_target_": "elmur.model.MemoryDesign", "write": {"_target_": "elmur.memory.LRU"}}, memory_size=5)
    assert made.memory_size == 5


def test_an_optimizer_may_be_named() -> None:
    made = build({"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 0.1})
    assert made.func is torch.optim.AdamW


REFUSED = [
    "os.system",
    "subprocess.run",
    "torch.load",
    "builtins.eval",
    "pickle.loads",
    "eval",
    "",
    None,
    3,
    "elmur.memory.torch.load",
    "elmur.memory.torch",
    "elmur.build.importlib.import_module",
    "elmur.build.partial",
    "elmur.published.re.compile",
    "elmurx.model.ELMUR",
    "torch.optimx.AdamW",
    "torch.optim.torch.load",
    "elmur.model.MemoryDesign.__init__.__globals__",
    "elmur.memory.NEVER",
    "elmur.model.NoSuchClass",
    "elmur.nomodule.ELMUR",
]


@pytest.mark.parametrize("name", REFUSED, ids=str)
def test_a_name_outside_our_packages_is_refused(name: object) -> None:
    with pytest.raises(BuildError, match=r"config\.where\._target_"):
        build({"where": {"_target_": name}})


def test_the_caller_may_allow_less() -> None:
    with pytest.raises(BuildError, match="refused"):
        build({"_target_": "torch.optim.AdamW", "_partial_": True}, allowed=("elmur",))


def test_an_unknown_key_is_named_with_the_nearest_known_one() -> None:
    says = r"config\.write\.lru_blend_alfa: unknown key of LRU; did you mean config\.write\.lru_blend_alpha\?"
    with pytest.raises(BuildError, match=says):
        build({"write": {"_target_": "elmur.memory.LRU", "lru_blend_alfa": 0.5}})


def test_an_unknown_key_like_no_other_lists_what_is_taken() -> None:
    with pytest.raises(BuildError, match="xyzzy: unknown key of LRU; it takes lru_blend_alpha, slots_per_write"):
        build({"_target_": "elmur.memory.LRU", "xyzzy": 1})


def test_an_unknown_key_of_a_partial_is_an_error_at_once() -> None:
    with pytest.raises(BuildError, match=r"unknown key of MLP; did you mean config\.d_ff"):
        build({"_target_": "elmur.feedforward.MLP", "_partial_": True, "d_f": 8})


def test_a_missing_key_is_named() -> None:
    with pytest.raises(BuildError, match=r"model\.spec: missing; ELMUR needs it"):
        build({"_target_": "elmur.model.ELMUR"}, path="model")


def test_a_value_that_the_constructor_refuses_is_reported_with_its_place() -> None:
    with pytest.raises(BuildError, match=r"config\[1\]\.memory: memory_size must be 1 or more; found 0"):
        build([0, {"memory": {"_target_": "elmur.model.MemoryDesign", "memory_size": 0}}])
