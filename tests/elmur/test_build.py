"""build: a plain dictionary that names a class becomes an object, or an error that names the key."""

from __future__ import annotations

from functools import partial

import pytest

from elmur.build import BuildError, build, check_names
from elmur.memory import LRU
from elmur.model import ELMUR, MemoryDesign
from elmur.moe import MixtureOfExperts
from elmur.registry import MODELS, Registry, Role
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


def test_a_short_name_is_the_class_of_its_role() -> None:
    made = build({"_target_": "lru", "lru_blend_alpha": 0.5}, role="write rule")
    assert isinstance(made, LRU) and made.blend == 0.5


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
    "elmur.build.build",
    "elmur.build.call",
    "elmur.build.resolve",
    "elmur.checkpoint.read_checkpoint",
    "elmur.module.restore_rng",
    "elmur.memory.lru_write",
    "elmur.attention.SelfAttention",
    "torch.optim.AdamW",
    "torch.nn.Linear",
    "lightning.pytorch.callbacks.LambdaCallback",
    "elmur.memory.torch.load",
    "elmur.memory.torch",
    "elmur.build.importlib.import_module",
    "elmur.build.partial",
    "elmur.published.weights.re.compile",
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
    with pytest.raises(BuildError, match=r"config\.where\._target_: .* is refused"):
        build({"where": {"_target_": name}})


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        (
            "position",
            {"_target_": "elmur.memory.LRU"},
            r"model\.position\._target_: 'elmur.memory.LRU' is refused; as pos",
        ),
        ("memory", {"_target_": "elmur.memory.LRU"}, r"as memory design there are elmur\.model\.MemoryDesign"),
        ("dropout", {"_target_": "elmur.memory.LRU"}, r"model\.dropout\._target_: .* a value belongs here"),
        ("dropout", {"_target_": "elmur.build.call"}, "a value belongs here"),
        ("n_layer", [{"x": {"_target_": "elmur.memory.LRU"}}], r"model\.n_layer\[0\]\.x\._target_"),
        ("position", {"x": {"_target_": "elmur.positional.Rope", "_partial_": True}}, r"model\.position\.x\._target_"),
        (
            "position",
            {"_target_": "elmur.positional.Rope"},
            r"model\.position\._partial_: expected true .* found False",
        ),
        (
            "position",
            {"_target_": "elmur.positional.Rope", "_partial_": "yes"},
            "expected true for a position; found 'yes'",
        ),
        ("memory", {"_target_": "elmur.model.MemoryDesign", "_partial_": True}, "expected false for a memory design"),
    ],
)
def test_a_name_stands_only_where_its_role_belongs(key: str, value: object, says: str) -> None:
    config = {"_target_": "elmur.model.ELMUR", "_partial_": True, key: value}
    with pytest.raises(BuildError, match=says):
        build(config, "model", "model")
    with pytest.raises(BuildError, match=says):  # and no sooner: nothing has been imported for it
        check_names({"model": config}, "", "run", Registry({**MODELS.roles, "run": Role(takes={"model": "model"})}))


def test_what_is_made_is_of_the_kind_of_its_place() -> None:
    """A registry whose write rule makes something else: the list itself is not taken at its word."""
    wrong = MODELS | Registry({"write rule": Role({"wrong": "elmur.clock.Chronological"})})
    with pytest.raises(BuildError, match=r"memory\.write: expected a WriteRule, found a Chronological"):
        build({"_target_": "memory", "write": {"_target_": "wrong"}}, "memory", "memory design", wrong)


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
