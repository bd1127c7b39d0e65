"""Attacks on networks for which the worst input is known in closed form."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netgraft.data.images import ImagePair
from netgraft.errors import DatasetError
from netgraft.nets.nafnet import NafNet
from netgraft.robustness import BOUNDS, Robustness, attack, robustness


class Scale(nn.Module):
    """y = a x."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a))

    def forward(self, x: Tensor) -> Tensor:
        return self.a * x


class WeightedSum(nn.Module):
    """Every value of the output is the same weighted sum of the input, of weights with both signs."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, x: Tensor) -> Tensor:
        return torch.full_like(x, 0.5) + (self.weights * x).sum((1, 2, 3), keepdim=True).expand_as(x)


class Blind(nn.Module):
    """Looks at nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return 0 * x + 0.25


def attacked(module: nn.Module, x: Tensor, clean: Tensor, bound: float, seed: int = 0) -> Tensor:
    return attack(module, x, clean, bound=bound, steps=10, step_size=bound / 4, seed=seed)


def errors(module: nn.Module, x: Tensor, clean: Tensor) -> Tensor:
    with torch.no_grad():
        return (module(x).clamp(0, 1) - clean).square().mean((1, 2, 3))


def noise(shape: tuple[int, ...], low: float, high: float, seed: int = 0) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("a", [0.5, 1.0, -0.3])
@pytest.mark.parametrize("bound", BOUNDS)
def test_of_a_scaling_the_worst_is_a_step_along_the_residual(a: float, bound: float) -> None:
    """(a (x + d) - c)^2 is largest at d = bound * sign(a (a x - c)), with the error (|a x - c| + |a| bound)^2."""
    x = noise((2, 3, 8, 8), 0.3, 0.7)
    # Residuals of 0.1 to 0.2, larger than any bound times a, of both signs; the output stays within the range.
    side = torch.where(noise(x.shape, 0, 1, 1) < 0.5, -1.0, 1.0)
    module = nn.Sequential(Scale(a), Offset(0.3 if a < 0 else 0.0))
    clean = module(x).detach() - side * noise(x.shape, 0.1, 0.2, 2)
    worst = attacked(module, x, clean, bound)
    assert worst - x == pytest.approx(bound * side * math.copysign(1, a), abs=1e-6)
    residual = module(x).detach() - clean
    expected = (residual.abs() + abs(a) * bound).square().mean((1, 2, 3))
    assert (module(worst).detach() - clean).square().mean((1, 2, 3)) == pytest.approx(expected, rel=1e-4)


class Offset(nn.Module):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return x + self.by


def test_of_a_weighted_sum_the_worst_follows_each_weights_sign() -> None:
    """The sum moves by bound * |weights|_1, in the direction of the residual."""
    weights = noise((1, 3, 8, 8), -0.01, 0.01)
    module, x = WeightedSum(weights), noise((1, 3, 8, 8), 0.3, 0.7)
    clean = module(x) - 0.1
    worst = attacked(module, x, clean, 2 / 255)
    assert worst - x == pytest.approx(2 / 255 * weights.sign(), abs=1e-6)
    moved = float((module(worst) - module(x)).mean())
    assert moved == pytest.approx(2 / 255 * float(weights.abs().sum()), rel=1e-4)


def test_nothing_leaves_the_range_of_an_image() -> None:
    """Black that is too dark already and white that is too bright stay; what can move inwards does."""
    x = torch.zeros(1, 3, 8, 8)
    x[:, :, :, 4:] = 1.0
    clean = torch.full_like(x, 0.5)
    worst = attacked(nn.Identity(), x, clean, 4 / 255)
    assert torch.equal(worst, x)
    inwards = attacked(nn.Sequential(Scale(0.5), Offset(0.25)), x, torch.where(x > 0.5, 1.0, 0.0), 4 / 255)
    assert (inwards - x).abs() == pytest.approx(torch.full_like(x, 4 / 255), abs=1e-6)
    assert float(inwards.min()) >= 0
    assert float(inwards.max()) <= 1


def test_a_network_that_looks_at_nothing_cannot_be_attacked() -> None:
    x, clean = noise((1, 3, 8, 8), 0, 1), noise((1, 3, 8, 8), 0, 1, 1)
    assert torch.equal(attacked(Blind(), x, clean, 4 / 255), x)


def test_without_a_bound_nothing_changes(teacher: NafNet) -> None:
    x, clean = noise((1, 3, 16, 16), 0, 1), noise((1, 3, 16, 16), 0, 1, 1)
    assert torch.equal(attacked(teacher, x, clean, 0.0), x)


def test_an_attack_repeats_by_its_seed_and_leaves_no_trace(teacher: NafNet) -> None:
    x, clean = noise((2, 3, 16, 16), 0.1, 0.9), noise((2, 3, 16, 16), 0.1, 0.9, 1)
    before = x.clone()
    first = attacked(teacher, x, clean, 2 / 255, seed=1)
    assert torch.equal(first, attacked(teacher, x, clean, 2 / 255, seed=1))
    assert not torch.equal(first, attacked(teacher, x, clean, 2 / 255, seed=2))
    assert torch.equal(x, before)
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not first.requires_grad


@pytest.mark.parametrize("bound", BOUNDS)
def test_an_attack_is_at_least_as_strong_as_noise(teacher: NafNet, bound: float) -> None:
    """The corners of the allowed cube are the strongest noise that there is."""
    x, clean = noise((3, 3, 16, 16), 0.1, 0.9), noise((3, 3, 16, 16), 0.1, 0.9, 1)
    worst = attacked(teacher, x, clean, bound)
    assert float((worst - x).abs().max()) <= bound + 1e-6
    for seed in range(8):
        corner = (x + bound * noise(x.shape, -1, 1, seed + 10).sign()).clamp(0, 1)
        assert (errors(teacher, worst, clean) >= errors(teacher, corner, clean)).all()


def test_images_of_a_batch_do_not_meet(teacher: NafNet) -> None:
    """A hard image beside it does not change how an image is attacked."""
    x, clean = noise((2, 3, 16, 16), 0.2, 0.8), noise((2, 3, 16, 16), 0.2, 0.8, 1)
    clean[1] = 1 - clean[1].round()
    both = attack(teacher, x, clean, bound=2 / 255, steps=1, step_size=1 / 255, seed=0)
    alone = attack(teacher, x[:1], clean[:1], bound=2 / 255, steps=1, step_size=1 / 255, seed=0)
    # The start of the first image takes the first numbers of the generator in both.
    assert torch.equal(both[:1], alone)


def pair(name: str, degraded: int, clean: int) -> ImagePair:
    return ImagePair(
        name=name, degraded=np.full((40, 50, 3), degraded, np.uint8), clean=np.full((40, 50, 3), clean, np.uint8)
    )


@pytest.fixture(scope="module")
def found() -> Robustness:
    """Two networks of which the second halves what is done to it, on two images that are 20 steps too bright."""
    half = nn.Sequential(Scale(0.5), Offset(0.25))
    images = [pair("a", 128, 108), pair("b", 148, 128)]
    return robustness({"teacher": nn.Identity(), "student": half}, images, size=(16, 16), steps=5)


def test_the_identity_loses_what_the_bound_adds_to_the_residual(found: Robustness) -> None:
    """20 steps too bright become 21, 22 and 24."""
    assert found.unattacked_db["teacher"] == pytest.approx([20 * math.log10(255 / 20)] * 2, rel=1e-5)
    for i, residual in enumerate((21, 22, 24)):
        assert found.attacked_db["teacher"][i] == pytest.approx([20 * math.log10(255 / residual)] * 2, rel=1e-5)
        assert found.drops_db("teacher", i) == pytest.approx([20 * math.log10(residual / 20)] * 2, rel=1e-4)


def test_differences_are_paired(found: Robustness) -> None:
    """a: 128 becomes 127.75, 19.75 too bright; b: 137.75, 9.75 too bright; each bound adds half of itself."""
    *_, teacher, student = found.rows()
    assert (teacher["network"], student["network"]) == ("teacher", "student")
    assert teacher["bound_of_255"] == pytest.approx(4)
    assert teacher["first_drop_less_this_db"] is None
    drops = [20 * math.log10((residual + 2) / residual) for residual in (19.75, 9.75)]
    assert student["drop_db"]["mean"] == pytest.approx(np.mean(drops), rel=1e-4)
    gaps = [20 * math.log10(24 / 20) - drop for drop in drops]
    differences = student["first_drop_less_this_db"]
    assert differences["mean"] == pytest.approx(np.mean(gaps), rel=1e-3)
    # Of two images, the interval reaches from one to the other.
    assert (differences["low"], differences["high"]) == pytest.approx((min(gaps), max(gaps)), rel=1e-3)


def test_a_record_has_every_image(found: Robustness) -> None:
    record = found.as_dict()
    assert record["images"] == ["a", "b"]
    assert len(record["rows"]) == 6
    assert np.shape(record["attacked_db"]["student"]) == (3, 2)


def test_an_image_is_attacked_alike_whatever_stands_beside_it(teacher: NafNet) -> None:
    rng = np.random.default_rng(0)
    images = [
        ImagePair(
            name=name,
            degraded=rng.integers(0, 256, (20, 20, 3)).astype(np.uint8),
            clean=pair(name, 0, 9).clean[:20, :20],
        )
        for name in "ab"
    ]
    both = robustness({"teacher": teacher}, images, bounds=(2 / 255,), size=(16, 16), steps=2)
    alone = robustness({"teacher": teacher}, images[1:], bounds=(2 / 255,), size=(16, 16), steps=2)
    assert both.attacked_db["teacher"][0][1] == alone.attacked_db["teacher"][0][0]


def test_without_images_there_is_nothing_to_attack() -> None:
    with pytest.raises(DatasetError, match="no images"):
        robustness({"teacher": nn.Identity()}, [])
