"""The joint phase: surrogates learn from what really reaches them, each for itself; a diverged path is no lesson."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netgraft.assemble import assemble
from netgraft.distill import SurrogateKey, fit_surrogates, start_surrogates
from netgraft.features import site_features
from netgraft.joint import DENSITIES, draw_path, learn_along
from netgraft.nets.blocks import StaticNorm
from netgraft.nets.losses import normalized_l2
from netgraft.nets.nafnet import NafNet, NafNetShape
from netgraft.operators import operator_pool
from netgraft.sites import find_sites

FIRST, MIDDLE, LAST = "encoders.0.0", "middle_blks.0", "decoders.0.0"
IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def teacher() -> NafNet:
    """A small network in which every parameter has an effect."""
    torch.manual_seed(0)
    net = NafNet(NafNetShape(width=4, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,)))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net.eval()


@pytest.fixture
def surrogates(teacher: NafNet) -> dict[SurrogateKey, nn.Module]:
    sites, pool = find_sites(teacher, (16, 16)), operator_pool(["drop", "naf_static", "conv3_res", "transposed"])
    modules = start_surrogates(teacher, sites, pool, seed=0)
    fit_surrogates(modules, site_features(teacher, IMAGES, sites))
    return modules


def gradients(module: nn.Module) -> list[Tensor]:
    found = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    module.zero_grad(set_to_none=True)
    return found


def learned(teacher: NafNet, path: dict[str, nn.Module], learning: set[str] | None = None) -> dict[str, float]:
    features = site_features(teacher, IMAGES, find_sites(teacher, (16, 16)))
    return learn_along(teacher, path, IMAGES, features, set(path) if learning is None else learning)


def test_paths_are_drawn_from_what_is_on_offer() -> None:
    """At each site every option about as often, as many replaced as the densities say, and alike from one seed."""
    keys = [(f"s{site}", name) for site in range(20) for name in ("a", "b", "c")] + [("t", "x")]
    drawn = [draw_path(keys, np.random.default_rng((0, step))) for step in range(600)]
    assert all((path, name) in keys for choice in drawn for path, name in choice.items())
    assert draw_path(keys, np.random.default_rng((0, 5))) == drawn[5]
    counts = np.array([len(choice) for choice in drawn])
    assert counts.mean() == pytest.approx(21 * sum(DENSITIES) / 2, rel=0.05)
    assert counts.min() <= 2
    assert counts.max() >= 10
    names = [name for choice in drawn for path, name in choice.items() if path != "t"]
    assert [names.count(name) / len(names) for name in "abc"] == pytest.approx([1 / 3] * 3, abs=0.03)


def test_each_learns_from_what_the_student_gives_it(teacher: NafNet, surrogates: dict[SurrogateKey, nn.Module]) -> None:
    """Losses and gradients are those of the inputs in the assembled student, against the teacher's outputs."""
    names = {FIRST: "conv3_res", "ups.0": "transposed", LAST: "conv3_res"}
    path = {site: surrogates[site, name] for site, name in names.items()}
    student = assemble(teacher, names, surrogates)
    seen: dict[str, Tensor] = {}
    for site in (FIRST, LAST):
        student.get_submodule(site).register_forward_pre_hook(
            lambda _, given, site=site: seen.__setitem__(site, given[0].detach())
        )
    student(IMAGES)
    wanted = site_features(teacher, IMAGES, find_sites(teacher, (16, 16)))
    assert not torch.allclose(seen[LAST], wanted[LAST].x, atol=1e-3), "the path makes a difference"
    losses = learned(teacher, path, {FIRST, LAST})
    assert list(losses) == [FIRST, "ups.0", LAST], "in the order of the data"
    for site in (FIRST, LAST):
        given = gradients(path[site])
        alone = copy.deepcopy(path[site])
        loss = normalized_l2(alone(seen[site]), wanted[site].y)
        loss.backward()  # type: ignore[no-untyped-call]
        assert losses[site] == pytest.approx(loss.item(), rel=1e-4)
        for one, other in zip(given, gradients(alone), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    assert gradients(path["ups.0"]) == []


def test_a_surrogate_learns_nothing_for_those_behind_it(
    teacher: NafNet, surrogates: dict[SurrogateKey, nn.Module]
) -> None:
    """The gradient at the first site is the same whoever follows."""
    first = surrogates[FIRST, "conv3_res"]
    learned(teacher, {FIRST: first})
    alone = gradients(first)
    learned(teacher, {FIRST: first, LAST: surrogates[LAST, "conv3_res"]})
    assert alone
    assert all(torch.equal(one, other) for one, other in zip(alone, gradients(first), strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_a_path_that_diverged_is_no_lesson(
    teacher: NafNet, surrogates: dict[SurrogateKey, nn.Module], value: float
) -> None:
    """Neither for the surrogate that broke nor for those that its output reaches; those before it still learn."""
    broken = surrogates[MIDDLE, "conv3_res"]
    broken.conv.dense.bias.data.fill_(value)  # type: ignore[union-attr, operator]
    path = {FIRST: surrogates[FIRST, "conv3_res"], MIDDLE: broken, LAST: surrogates[LAST, "conv3_res"]}
    losses = learned(teacher, path)
    assert not losses[MIDDLE] < 1
    assert not losses[LAST] < 1
    assert gradients(broken) == []
    assert gradients(path[LAST]) == []
    assert len(gradients(path[FIRST])) == len(list(path[FIRST].parameters()))


def test_frozen_norms_are_calibrated_on_the_way_and_then_as_before(
    teacher: NafNet, surrogates: dict[SurrogateKey, nn.Module]
) -> None:
    """What reaches the last site is what a calibrated student gives it; the surrogates keep their own constants."""
    names = {FIRST: "conv3_res", MIDDLE: "naf_static", LAST: "drop"}
    path = {site: surrogates[site, name] for site, name in names.items()}
    before = {key: value.clone() for key, value in path[MIDDLE].state_dict().items()}
    student = assemble(teacher, names, surrogates, calibration=IMAGES)
    with torch.no_grad():
        seen = site_features(student, IMAGES, [site for site in find_sites(teacher, (16, 16)) if site.path in path])
    target = site_features(teacher, IMAGES, find_sites(teacher, (16, 16)))
    losses = learned(teacher, path)
    for site in names:
        expected = normalized_l2(seen[site].y, target[site].y).item()
        assert losses[site] == pytest.approx(expected, rel=1e-4), site
    scale = next(part.scale for part in path[MIDDLE].modules() if isinstance(part, StaticNorm))
    calibrated = next(part.scale for part in student.modules() if isinstance(part, StaticNorm))
    assert not torch.allclose(scale, calibrated, rtol=1e-3)
    assert all(torch.equal(value, before[key]) for key, value in path[MIDDLE].state_dict().items())
    assert len(gradients(path[MIDDLE])) == len(list(path[MIDDLE].parameters()))


def test_the_teacher_is_left_alone(teacher: NafNet, surrogates: dict[SurrogateKey, nn.Module]) -> None:
    before, blocks = copy.deepcopy(teacher.state_dict()), list(teacher.modules())
    learned(teacher, {FIRST: surrogates[FIRST, "conv3_res"], LAST: surrogates[LAST, "naf_static"]})
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(one is other for one, other in zip(teacher.modules(), blocks, strict=True))
    assert all(p.grad is None for p in teacher.parameters())
    assert not any(part._forward_hooks for part in teacher.modules())
