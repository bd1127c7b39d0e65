"""Optimizers: what a first step does, by definition, and that a stopped one continues exactly."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn

from netgraft.optimizers import Muon, OptimizerName, make_optimizer

RATE = 0.01


def network() -> nn.Sequential:
    """A dense convolution, whose weights are a matrix of 32 x 144, and a depthwise one, which has none."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(16, 32, 3, bias=False), nn.Conv2d(32, 32, 3, groups=32))
    return layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def learn(layers: nn.Module, seed: int) -> None:
    """Gradients of some loss."""
    x = torch.rand(2, 16, 8, 8, generator=torch.Generator().manual_seed(seed))
    layers.zero_grad()
    layers(x).square().sum().backward()


def test_the_first_step_of_a_matrix_is_its_nearest_orthogonal_one() -> None:
    """For a gradient U S V^T that is -rate * 0.2 * sqrt(longer side) * U V^T, as the published scaling has it.

    Newton-Schulz in five iterations leaves singular values between about 0.7 and 1.2.
    """
    layers = network()
    before = layers[0].weight.detach().clone()
    learn(layers, 0)
    u, _, v = torch.linalg.svd(layers[0].weight.grad.reshape(32, -1), full_matrices=False)
    make_optimizer("muon", list(layers.parameters()), RATE).step()
    moved = (layers[0].weight.detach() - before).reshape(32, -1)
    along = -(u.T @ moved @ v.T) / (RATE * 0.2 * 144**0.5)
    assert torch.diag(along).min() > 0.6
    assert torch.diag(along).max() < 1.3
    assert (along - torch.diag(torch.diag(along))).abs().max() < 0.1


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_first_step_of_everything_else_follows_the_sign(name: OptimizerName) -> None:
    """AdamW's moments of one gradient g are g and g squared: each weight moves by the rate, against its sign."""
    layers = network()
    learn(layers, 0)
    others = list(layers[1].parameters())
    before = [weight.detach().clone() for weight in others]
    make_optimizer(name, list(layers.parameters()), RATE).step()
    for old, weight in zip(before, others, strict=True):
        assert weight.grad is not None
        torch.testing.assert_close(weight.detach() - old, -RATE * weight.grad.sign(), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_stopped_one_continues_exactly(name: OptimizerName) -> None:
    straight = network()
    optimizer = make_optimizer(name, list(straight.parameters()), RATE)
    for seed in range(2):
        learn(straight, seed)
        optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    resumed = copy.deepcopy(straight)
    again = make_optimizer(name, list(resumed.parameters()), RATE)
    again.load_state_dict(torch.load(file, weights_only=True))
    for layers, its in ((straight, optimizer), (resumed, again)):
        learn(layers, 2)
        its.set_learning_rate(RATE / 2)
        its.step()
    for one, other in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_rate_is_that_of_all_weights() -> None:
    """At a rate of zero nothing moves; without a gradient neither."""
    layers = network()
    optimizer = Muon(list(layers.parameters()), RATE)
    before: list[Tensor] = [weight.detach().clone() for weight in layers.parameters()]
    optimizer.step()
    optimizer.set_learning_rate(0.0)
    learn(layers, 0)
    optimizer.step()
    assert all(torch.equal(old, new) for old, new in zip(before, layers.parameters(), strict=True))
