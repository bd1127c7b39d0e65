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
from netgraft.nets.nafnet import NafNet
from netgraft.operators import operator_pool
from netgraft.sites import find_sites

FIRST, MIDDLE, LAST = "encoders.0.0", "middle_blks.0", "decoders.0.0"
IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def surrogates(teacher: NafNet) -> dict[SurrogateKey, nn.Module]:
    sites, pool = (
        find_sites(teacher, (16, 16)),
        operator_pool(["drop", "naf_static", "conv3_res", "inverted_residual", "transposed"]),
    )
    modules = start_surrogates(teacher, sites, pool, seed=0)
    fit_surrogates(modules, site_features(teacher, IMAGES, sites))
    return modules


def gradients(module: nn.Module) -> list[Tensor]:
    found = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    module.zero_grad(set_to_none=True)
    return found


def learned(
    teacher: NafNet, path: dict[str, nn.Module], learners: dict[str, dict[str, nn.Module]]
) -> dict[str, dict[str, float]]:
    features = site_features(teacher, IMAGES, find_sites(teacher, (16, 16)))
    return learn_along(teacher, path, learners, IMAGES, features)


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
    """Losses and gradients are those of the inputs in the assembled student, against the teacher's outputs.

    So for the surrogate on the path, for one of the same site that is not, and for one at a site that is kept.
    """
    names = {FIRST: "conv3_res", "ups.0": "transposed", LAST: "conv3_res"}
    student = assemble(teacher, names, surrogates)
    seen: dict[str, Tensor] = {}
    for site in (FIRST, MIDDLE, LAST):
        student.get_submodule(site).register_forward_pre_hook(
            lambda _, given, site=site: seen.__setitem__(site, given[0].detach())
        )
    student(IMAGES)
    wanted = site_features(teacher, IMAGES, find_sites(teacher, (16, 16)))
    assert not torch.allclose(seen[LAST], wanted[LAST].x, atol=1e-3), "the path makes a difference"
    keys = [(FIRST, "conv3_res"), (MIDDLE, "conv3_res"), (LAST, "conv3_res"), (LAST, "inverted_residual")]
    learners = {site: {name: surrogates[key] for key in keys for name in key[1:] if key[0] == site} for site, _ in keys}
    losses = learned(teacher, {site: surrogates[site, name] for site, name in names.items()}, learners)
    assert losses.keys() == names.keys() | {MIDDLE}
    for site, name in keys:
        given, alone = gradients(surrogates[site, name]), copy.deepcopy(surrogates[site, name])
        loss = normalized_l2(alone(seen[site]), wanted[site].y)
        loss.backward()  # type: ignore[no-untyped-call]
        assert losses[site][name] == pytest.approx(loss.item(), rel=1e-4)
        for one, other in zip(given, gradients(alone), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    assert gradients(surrogates["ups.0", "transposed"]) == [], "on the path, but no learner"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_a_path_that_diverged_is_no_lesson(
    teacher: NafNet, surrogates: dict[SurrogateKey, nn.Module], value: float
) -> None:
    """For those that its output reaches; those before the break still learn."""
    broken = surrogates[MIDDLE, "conv3_res"]
    broken.conv.dense.bias.data.fill_(value)  # type: ignore[union-attr, operator]
    learners = {site: {"conv3_res": surrogates[site, "conv3_res"]} for site in (FIRST, MIDDLE, LAST)}
    losses = learned(teacher, {MIDDLE: broken}, learners)
    assert losses[FIRST]["conv3_res"] < 1
    assert not losses[LAST]["conv3_res"] < 1
    assert gradients(broken) == []
    assert gradients(surrogates[LAST, "conv3_res"]) == []
    assert len(gradients(surrogates[FIRST, "conv3_res"])) == 4


def test_frozen_norms_are_calibrated_on_the_way_and_then_as_before(
    teacher: NafNet, surrogates: dict[SurrogateKey, nn.Module]
) -> None:
    """What reaches the last site is what a calibrated student gives it; the surrogates keep their own constants."""
    frozen, last = surrogates[MIDDLE, "naf_static"], surrogates[LAST, "drop"]
    before = {key: value.clone() for key, value in frozen.state_dict().items()}
    names = {FIRST: "conv3_res", MIDDLE: "naf_static"}
    student = assemble(teacher, names, surrogates, calibration=IMAGES)
    sites = find_sites(teacher, (16, 16))
    target, seen = site_features(teacher, IMAGES, sites), {}
    for site in (MIDDLE, LAST):
        student.get_submodule(site).register_forward_hook(
            lambda _, given, out, site=site: seen.__setitem__(site, (given[0], out))
        )
    with torch.no_grad():
        student(IMAGES)
        expected = {
            MIDDLE: normalized_l2(seen[MIDDLE][1], target[MIDDLE].y).item(),
            LAST: normalized_l2(last(seen[LAST][0]), target[LAST].y).item(),
        }
    path = {site: surrogates[site, name] for site, name in names.items()}
    losses = learned(teacher, path, {MIDDLE: {"naf_static": frozen}, LAST: {"drop": last}})
    assert losses[MIDDLE]["naf_static"] == pytest.approx(expected[MIDDLE], rel=1e-4)
    assert losses[LAST]["drop"] == pytest.approx(expected[LAST], rel=1e-4)
    scale = next(part.scale for part in frozen.modules() if isinstance(part, StaticNorm))
    calibrated = next(part.scale for part in student.modules() if isinstance(part, StaticNorm))
    assert not torch.allclose(scale, calibrated, rtol=1e-3)
    assert all(torch.equal(value, before[key]) for key, value in frozen.state_dict().items())
    assert len(gradients(frozen)) == len(list(frozen.parameters()))


def test_the_teacher_is_left_alone(teacher: NafNet, surrogates: dict[SurrogateKey, nn.Module]) -> None:
    before, blocks = copy.deepcopy(teacher.state_dict()), list(teacher.modules())
    path = {site: surrogates[site, "conv3_res"] for site in (FIRST, LAST)}
    learned(teacher, path, {site: {"conv3_res": module} for site, module in path.items()})
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(one is other for one, other in zip(teacher.modules(), blocks, strict=True))
    assert all(p.grad is None for p in teacher.parameters())
    assert not any(part._forward_hooks for part in teacher.modules())
