import copy

import pytest
import torch
from torch import nn

from netgraft.foresight import WORST_DB, foreseen_losses_db


def linear_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 3, 1)).eval()


def perturbed(block: nn.Module, scale: float, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    other = copy.deepcopy(block)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return other


def test_on_a_linear_network_it_is_the_change_of_the_output() -> None:
    """There first order is exact: with many probes the loss is 10 log10(1 + |change|^2 / |error|^2), image by image."""
    net = linear_net()
    x, clean = torch.rand(2, 3, 12, 10), torch.rand(2, 3, 12, 10)
    surrogates = {
        ("0", "near"): perturbed(net[0], 0.02, 1),
        ("1", "near"): perturbed(net[1], 0.02, 2),
        ("1", "far"): perturbed(net[1], 0.2, 3),
    }
    before = copy.deepcopy(net.state_dict())
    found = foreseen_losses_db(net, surrogates, x, clean, probes=4000)
    for key, surrogate in surrogates.items():
        changed = copy.deepcopy(net)
        changed.set_submodule(key[0], surrogate)
        with torch.no_grad():
            change = (changed(x) - net(x)).square().sum((1, 2, 3))
            error = (net(x) - clean).square().sum((1, 2, 3))
        assert found[key] == pytest.approx(float((10 * torch.log10(1 + change / error)).mean()), rel=0.1)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not any(parameter.grad is not None for parameter in net.parameters())
    assert not any(module._forward_hooks for module in net.modules())


def test_what_nobody_downstream_reads_costs_nothing() -> None:
    """Half of the features meet weights of zero: an error there is as large as any, and foreseen to be harmless."""
    net = linear_net()
    with torch.no_grad():
        net[1].weight[:, 3:] = 0
    harmless, harmful = copy.deepcopy(net[0]), copy.deepcopy(net[0])
    with torch.no_grad():
        harmless.weight[3:] += 1.0
        harmful.weight[:3] += 1.0
    surrogates = {("0", "harmless"): harmless, ("0", "harmful"): harmful}
    surrogates["0", "broken"] = perturbed(net[0], float("inf"), 0)
    x = torch.rand(1, 3, 8, 8)
    found = foreseen_losses_db(net, surrogates, x, torch.zeros_like(x))
    assert found["0", "harmless"] == 0
    assert found["0", "harmful"] > 1
    assert found["0", "broken"] == WORST_DB


def test_a_frozen_teacher_and_the_same_seed_give_the_same() -> None:
    net = linear_net().requires_grad_(False)
    x, clean = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)
    surrogates = {("1", "near"): perturbed(net[1], 0.02, 2)}
    first, again, other = (foreseen_losses_db(net, surrogates, x, clean, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_nothing_to_replace_costs_nothing() -> None:
    """In a space where the teacher's own blocks beat all that is on offer."""
    assert foreseen_losses_db(linear_net(), {}, torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)) == {}
