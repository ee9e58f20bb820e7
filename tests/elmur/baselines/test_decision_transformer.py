"""The decision transformer's window: what each step sees, what is asked of it, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from elmur.baselines.decision_transformer import DecisionTransformer
from elmur.batch import SegmentBatch
from elmur.policy import StreamingPolicy
from elmur.state import map_state
from elmur.testing import random_steps
from tests.elmur.samples import SPEC

WINDOW, STEPS = 4, 11


def made(**changes: Any) -> DecisionTransformer:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"d_model": 16, "n_head": 2, "dropout": 0.0, "dropatt": 0.0, "window": WINDOW}
    return DecisionTransformer(SPEC, **{**sizes, **changes}).double().eval()


def cut(batch: SegmentBatch, begin: int, end: int) -> SegmentBatch:
    return map_state(lambda tensor: tensor[:, begin:end] if tensor.ndim > 1 else tensor, batch)


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 3, 4])
def test_each_step_is_predicted_from_its_last_window_alone(length: int) -> None:
    model, batch = made(), random_steps(SPEC, 2, STEPS)
    fresh = memory = model.initial_memory(2)
    found = []
    for segment in batch.split(length):
        output, memory = model(segment, memory)
        found.append(output.prediction)
    for step in range(STEPS):
        alone = cut(batch, max(0, step + 1 - WINDOW), step + 1)
        expected = model(alone, fresh)[0].prediction[:, -1]
        torch.testing.assert_close(torch.cat(found, 1)[:, step], expected, rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_one_layer_is_a_softmax_over_the_window() -> None:
    """With one layer, no feed-forward and scores of content alone, the window's softmax can be written down."""
    model = made(n_layer=1, n_head=1, token_format="s", feedforward=None)
    layer = model.trunk.layers[0]
    torch.nn.init.zeros_(layer.attention.get_parameter("distances.weight"))
    batch = random_steps(SPEC, 1, WINDOW)
    x = torch.as_tensor(model.observation(batch.observation))[0]
    k, v = layer.attention.key_value(x).chunk(2, dim=-1)
    q = layer.attention.query(x) + model.trunk.position.content_bias
    found = model(batch, model.initial_memory(1))[0].prediction[0]
    for i in range(WINDOW):
        share = torch.exp(q[i] @ k[: i + 1].T / 4)
        mixed = (share / share.sum()) @ v[: i + 1]
        y = layer.attention_residual.norm(x[i] + layer.attention.out(mixed))
        expected = model.head(y[None, None])[0, 0]
        torch.testing.assert_close(found[i], expected)


@torch.no_grad()
def test_the_return_that_is_asked_for_is_what_the_model_sees() -> None:
    model, seen = made(), []
    assert model.returns is not None
    model.returns.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].flatten().tolist()))
    policy = StreamingPolicy(model, WINDOW, target_return=3.0)
    policy.start(2)
    observation = {"state": np.zeros((2, 4), np.float32)}
    for step, reward in enumerate(([1.0, 0.0], [0.5, 0.0])):
        policy.observe(policy.act(observation, np.full(2, step == 0)), np.array(reward, np.float32))
    policy.act(observation, np.zeros(2, bool))
    assert [seen[0], seen[1], seen[2]] == [[3.0, 3.0], [2.0, 3.0], [1.5, 3.0]]


def test_refused() -> None:
    model, batch = made(), random_steps(SPEC, 1, WINDOW + 1)
    longer = "a segment of 5 steps is longer than the decision transformer's window of 4: raise model.window or lower"
    with pytest.raises(ValueError, match=longer):
        model(batch, model.initial_memory(1))
    with pytest.raises(ValueError, match=longer):
        policy = StreamingPolicy(model, WINDOW + 1)
        policy.start(1)
        policy.act({"state": np.zeros((1, 4), np.float32)}, np.ones(1, bool))
    with pytest.raises(ValueError, match="window must be 1 step or more; found 0"):
        made(window=0)
    other = made(window=3).initial_memory(1)
    with pytest.raises(ValueError, match=r"of this DecisionTransformer: expected Window\(\[9, 16\], \[\]\) per lane"):
        model(cut(batch, 0, 2), other)
    with pytest.raises(ValueError, match=r"found \(\); give it what its own initial_memory or forward returned"):
        model(cut(batch, 0, 2), ())


@torch.no_grad()
def test_a_snapshot_in_a_window_that_slides() -> None:
    """In the first segment there is a stream of the trunk, later there is none: both come back."""
    model, steps = made().float(), random_steps(SPEC, 2, 3 * WINDOW)
    for taken_at in (2, WINDOW + 2):
        acting, going_on = (StreamingPolicy(model, WINDOW) for _ in range(2))
        for policy in (acting, going_on):
            policy.start(2)
        for t in range(3 * WINDOW):
            if t == taken_at:
                going_on.restore(acting.snapshot())
            observation = {"state": steps.observation["state"][:, t].float().numpy()}
            done = [policy.act(observation, np.full(2, t == 0)) for policy in (acting, going_on)[: 1 + (t >= taken_at)]]
            assert all((action == done[0]).all() for action in done)
            for policy in (acting, going_on)[: 1 + (t >= taken_at)]:
                policy.observe(done[0], np.zeros(2, np.float32))
