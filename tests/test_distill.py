"""Distillation: surrogates learn apart from each other, resume exactly, and leave the teacher alone."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netgraft.assemble import assemble
from netgraft.distill import (
    Distillation,
    DistillConfig,
    SurrogateKey,
    fit_surrogates,
    start_surrogates,
    surrogate_errors,
)
from netgraft.features import site_features
from netgraft.nets.blocks import FittedAffine, StaticNafBlock
from netgraft.nets.losses import normalized_l2
from netgraft.nets.nafnet import NafNet
from netgraft.operators import OPERATORS, operator_pool
from netgraft.sites import Site, find_sites, select_sites

PATHS = ("encoders.0.0", "downs.0", "middle_blks.0", "decoders.0.0")
POOL = operator_pool(["drop", "naf_static", "conv3_res", "partial_conv", "strided3"])
CONFIG = DistillConfig(steps=6, batch=2, crop=16)


@pytest.fixture
def sites(teacher: NafNet) -> tuple[Site, ...]:
    return select_sites(find_sites(teacher, (16, 16)), PATHS)


def batches(count: int = 6, first: int = 0) -> list[Tensor]:
    return [torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(first, count)]


def weights(modules: Mapping[SurrogateKey, nn.Module]) -> dict[str, Tensor]:
    return {f"{key}.{name}": value.clone() for key, m in modules.items() for name, value in m.state_dict().items()}


def assert_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_loss_by_hand() -> None:
    """Errors 1 and 2 against targets 3 and 4: (1 + 4) / (9 + 16)."""
    target = torch.tensor([3.0, 4.0]).view(1, 1, 1, 2)
    assert normalized_l2(target + torch.tensor([1.0, -2.0]), target).item() == pytest.approx(0.2)
    assert normalized_l2(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)).item() == 0


def test_each_surrogate_starts_by_a_seed_of_its_own(teacher: NafNet, sites: tuple[Site, ...]) -> None:
    """The same whichever others are built with it; others for other sites and seeds; the caller's randomness stays."""
    random = torch.get_rng_state()
    together = start_surrogates(teacher, sites, POOL, seed=5)
    assert torch.equal(torch.get_rng_state(), random)
    blocks = ("encoders.0.0", "middle_blks.0", "decoders.0.0")
    names = ("drop", "naf_static", "conv3_res", "partial_conv")
    assert set(together) == {(path, name) for path in blocks for name in names} | {("downs.0", "strided3")}
    alone = start_surrogates(teacher, sites[-1:], operator_pool(["conv3_res"]), seed=5)
    key = ("decoders.0.0", "conv3_res")
    assert_same(weights(alone), weights({key: together[key]}))
    # Of the same shape at another site, and with another seed, the random weights differ.
    for other in (together["encoders.0.0", "conv3_res"], start_surrogates(teacher, sites, POOL, seed=6)[key]):
        assert not torch.equal(other.conv.dense.weight, together[key].conv.dense.weight)  # type: ignore[union-attr]


def test_fitting_and_calibrating_the_new(teacher: NafNet, sites: tuple[Site, ...]) -> None:
    """Dropped blocks reach numpy's least squares, frozen ones are closer than before, and the errors are those now."""
    modules = start_surrogates(teacher, sites, POOL, seed=0)
    features = site_features(teacher, torch.rand(3, 3, 16, 16), sites)
    before = surrogate_errors(modules, features)
    losses = fit_surrogates(modules, features)
    assert losses == surrogate_errors(modules, features)
    assert losses["downs.0", "strided3"] == pytest.approx(0, abs=1e-10)
    for path in ("encoders.0.0", "middle_blks.0", "decoders.0.0"):
        x, y = (t.double().numpy() for t in (features[path].x, features[path].y))
        rest = 0.0
        for channel in range(x.shape[1]):
            design = np.stack([x[:, channel].ravel(), np.ones(x[:, channel].size)], axis=1)
            rest += np.linalg.lstsq(design, y[:, channel].ravel(), rcond=None)[1].item()
        assert losses[path, "drop"] == pytest.approx(rest / np.square(y).sum(), rel=1e-3)
        assert losses[path, "naf_static"] < before[path, "naf_static"]
        assert losses[path, "conv3_res"] == before[path, "conv3_res"]


def test_errors_are_looked_at_without_a_change(teacher: NafNet, sites: tuple[Site, ...]) -> None:
    modules = start_surrogates(teacher, sites, POOL, seed=0)
    before = weights(modules)
    surrogate_errors(modules, site_features(teacher, torch.rand(1, 3, 16, 16), sites))
    assert_same(weights(modules), before)


def distilled(
    teacher: NafNet, sites: tuple[Site, ...], keys: set[SurrogateKey] | None = None
) -> tuple[Distillation, dict[SurrogateKey, nn.Module]]:
    modules = start_surrogates(teacher, sites, POOL, seed=0)
    modules = {key: module for key, module in modules.items() if keys is None or key in keys}
    fit_surrogates(modules, site_features(teacher, batches()[0], sites))
    work = Distillation(teacher, sites, modules, POOL, CONFIG)
    work.run(batches())
    return work, modules


@pytest.mark.parametrize(
    "key", [("encoders.0.0", "naf_static"), ("middle_blks.0", "conv3_res"), ("decoders.0.0", "partial_conv")]
)
def test_a_surrogate_learns_alone_what_it_learns_among_others(
    teacher: NafNet, sites: tuple[Site, ...], key: SurrogateKey
) -> None:
    """To the last bit, losses included."""
    work, together = distilled(teacher, sites)
    work_alone, alone = distilled(teacher, sites, {key})
    assert_same(weights(alone), weights({key: together[key]}))
    assert work_alone.losses[key] == work.losses[key]


def test_losses_go_down(teacher: NafNet, sites: tuple[Site, ...]) -> None:
    """On one batch, seen again and again, every surrogate gets closer."""
    modules = start_surrogates(teacher, sites, POOL, seed=0)
    features = site_features(teacher, batches()[0], sites)
    before = fit_surrogates(modules, features)
    work = Distillation(teacher, sites, modules, POOL, DistillConfig(steps=40))
    work.run(batches()[:1] * 40)
    after = surrogate_errors(modules, features)
    for key, losses in work.losses.items():
        assert len(losses) == 40
        assert losses[0] == pytest.approx(before[key], rel=1e-4)
        assert after[key] < 0.9 * before[key]
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in modules[key].parameters())


def test_only_what_learns_by_distillation_does(teacher: NafNet, sites: tuple[Site, ...]) -> None:
    modules = start_surrogates(teacher, sites, POOL, seed=0)
    fit_surrogates(modules, site_features(teacher, batches()[0], sites))
    fixed = {key: m for key, m in modules.items() if OPERATORS[key[1]].learning != "distill"}
    assert {key[1] for key in fixed} == {"drop", "strided3"}
    before = weights(fixed)
    work = Distillation(teacher, sites, modules, POOL, CONFIG)
    work.run(batches())
    assert work.learning.keys() == work.losses.keys() == modules.keys() - fixed.keys()
    assert_same(weights(fixed), before)


def test_with_nothing_to_learn_no_batch_is_asked_for_twice(teacher: NafNet, sites: tuple[Site, ...]) -> None:
    modules = {key: FittedAffine(4) for key in [("encoders.0.0", "drop")]}
    work = Distillation(teacher, sites, modules, POOL, CONFIG)
    work.run(batches())
    assert work.step == 0


def test_the_steps_of_the_config_are_the_last(teacher: NafNet, sites: tuple[Site, ...]) -> None:
    """However many batches there are; the callback sees every step once."""
    modules = start_surrogates(teacher, sites, POOL, seed=0)
    work, steps = Distillation(teacher, sites, modules, POOL, CONFIG), []
    work.run(batches(9), lambda now: steps.append(now.step))
    assert steps == [1, 2, 3, 4, 5, 6]


def test_what_starts_from_the_teacher_learns_at_a_tenth(teacher: NafNet, sites: tuple[Site, ...]) -> None:
    """The first step of Adam moves every weight by its learning rate, whatever the gradient."""
    keys: set[SurrogateKey] = {("encoders.0.0", "conv3_res"), ("encoders.0.0", "naf_static")}
    modules = {k: m for k, m in start_surrogates(teacher, sites, POOL, seed=0).items() if k in keys}
    before = copy.deepcopy(modules)
    work = Distillation(teacher, sites, modules, POOL, DistillConfig(steps=10, learning_rate=1e-2))
    work.run(batches(1))
    for name, rate in (("conv3_res", 1e-2), ("naf_static", 1e-3)):
        key = ("encoders.0.0", name)
        moved = [
            (new - old).abs().max().item()
            for new, old in zip(modules[key].parameters(), before[key].parameters(), strict=True)
        ]
        assert max(moved) == pytest.approx(rate, rel=1e-2)


@pytest.mark.parametrize("stop", [3, 6, 8])
def test_a_distillation_resumes_to_the_last_bit(teacher: NafNet, sites: tuple[Site, ...], stop: int) -> None:
    """Some steps, a file, and the rest by a new object equal all in one go, wherever it stopped."""
    config = CONFIG.model_copy(update={"joint_steps": 4})

    def begun(seed: int) -> Distillation:
        modules = start_surrogates(teacher, sites, POOL, seed=seed)
        fit_surrogates(modules, site_features(teacher, batches()[0], sites))
        return Distillation(teacher, sites, modules, POOL, config, seed=7)

    whole = begun(0)
    whole.run(batches(12))
    assert whole.step == config.all_steps == 10
    half = begun(0)
    half.run(batches(stop))
    file = io.BytesIO()
    torch.save(half.state(), file)
    file.seek(0)

    resumed = begun(99)
    resumed.load_state(torch.load(file, weights_only=True))
    assert resumed.step == stop
    resumed.run(batches(10, first=stop))
    assert_same(weights(resumed.learning), weights(whole.learning))
    assert resumed.losses == whole.losses
    assert {len(losses) for losses in whole.losses.values()} == {6}
    assert any(isinstance(m, StaticNafBlock) for m in whole.learning.values())


def test_the_joint_phase_learns_along_paths(
    teacher: NafNet, sites: tuple[Site, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that learns does so; the loss at the end of a path goes down further than apart; what is fitted stays."""
    path = {"encoders.0.0": "drop", "middle_blks.0": "drop"}
    monkeypatch.setattr("netgraft.distill.draw_path", lambda keys, rng: path)
    key, errors = ("decoders.0.0", "conv3_res"), {}
    for name, counts in {"apart": (80, 0), "joint": (40, 40)}.items():
        modules = start_surrogates(teacher, sites, POOL, seed=0)
        features = site_features(teacher, batches()[0], sites)
        fit_surrogates(modules, features)
        before = weights(modules)
        config = DistillConfig(steps=counts[0], joint_steps=counts[1], learning_rate=1e-2)
        work = Distillation(teacher, sites, modules, POOL, config)
        work.run(batches()[:1] * 80)
        assert work.step == 80
        assert {len(losses) for losses in work.losses.values()} == {counts[0]}
        changed = {value for value, tensor in weights(modules).items() if not torch.equal(tensor, before[value])}
        assert not any("drop" in value or "strided3" in value for value in changed)
        student = assemble(teacher, path | dict([key]), modules)
        seen = site_features(student, batches()[0], [site for site in sites if site.path == key[0]])
        errors[name] = normalized_l2(seen[key[0]].y, features[key[0]].y).item()
    assert errors["joint"] < errors["apart"]


def test_the_teacher_is_left_alone(teacher: NafNet, sites: tuple[Site, ...]) -> None:
    """Weights, modes, gradients, memory layout and hooks."""
    teacher.train()
    teacher.intro.requires_grad_(False)
    before = copy.deepcopy(teacher.state_dict())
    wants = [p.requires_grad for p in teacher.parameters()]
    strides = [p.stride() for p in teacher.parameters()]
    distilled(teacher, sites)
    assert_same(teacher.state_dict(), before)
    assert all(part.training for part in teacher.modules())
    assert [p.requires_grad for p in teacher.parameters()] == wants
    assert [p.stride() for p in teacher.parameters()] == strides
    assert all(p.grad is None for p in teacher.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in teacher.modules())
