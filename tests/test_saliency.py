"""Saliency against zero-cost-nas itself, against the definitions, and by hand."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad

from netgraft.errors import ConfigError, ImageError, NetgraftError
from netgraft.nets.load import load_teacher
from netgraft.nets.nafnet import NafNet
from netgraft.saliency import METRICS, protect, psnr_loss, saliency

VECTORS = Path(__file__).parent / "vectors"


@dataclass(frozen=True)
class Place:
    path: str


@pytest.fixture(scope="module")
def reference() -> dict[str, NDArray[np.float64]]:
    return dict(np.load(VECTORS / "nafnet_w8_official.npz"))


@pytest.fixture(scope="module")
def nafnet() -> NafNet:
    return load_teacher(VECTORS / "nafnet_w8_official.pth").module


@pytest.mark.parametrize(
    ("metric", "tolerance"),
    [
        ("grad_norm", 1e-3),
        ("snip", 1e-3),
        ("grasp", 1e-2),
        ("fisher", 1e-3),
        ("plain", 1e-3),
        ("synflow", 1e-3),
    ],
)
def test_values_of_zero_cost_nas(
    reference: dict[str, NDArray[np.float64]], nafnet: NafNet, metric: str, tolerance: float
) -> None:
    x, clean = (torch.from_numpy(reference[name]) for name in ("sal_x", "sal_t"))
    sites = [Place(str(path)) for path in reference["sites"]]
    values = saliency(nafnet, x, clean, sites, metric=metric)
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, reference[f"sal_{metric}"], rtol=tolerance)


@pytest.mark.parametrize(
    ("metric", "clean", "expected"),
    [
        # y = -3 * 2 = -6 against -1: dL/dy = -10, dL/dw = -20, d2L/dw2 = 2 * 2 * 2 = 8.
        ("grad_norm", -1, 20),
        ("snip", -1, 60),
        ("plain", -1, 60),
        ("grasp", -1, 3 * 8 * -20),
        ("fisher", -1, 60**2 / 2),
        ("synflow", -1, 3),
        # Against -11 the slope turns: plain and grasp have signs, the others do not.
        ("grad_norm", -11, 20),
        ("snip", -11, 60),
        ("plain", -11, -60),
        ("grasp", -11, 3 * 8 * 20),
        ("fisher", -11, 60**2 / 2),
        ("synflow", -11, 3),
    ],
)
def test_one_weight_by_hand(metric: str, clean: float, expected: float) -> None:
    """The site is the convolution itself: y = w * x with w = -3 and x = 2."""
    net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False))
    nn.init.constant_(net[0].weight, -3.0)
    x, target = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), float(clean))
    assert saliency(net, x, target, [Place("0")], metric=metric) == pytest.approx([expected])


def test_fisher_of_two_images_and_pixels_by_hand() -> None:
    """Sum over pixels first, then the square, then the mean over images; once per weight of the channel."""
    net = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 1.0], [0.0, 0.0]])[:, :, None, None])
    x = torch.tensor([[[[1.0, 2.0]], [[1.0, 0.0]]], [[[3.0, 0.0]], [[0.0, 1.0]]]])
    # Channel 0 gives [2, 2] and [3, 1], channel 1 nothing; L is the mean of 8 squares, so dL/dy = y / 4.
    # The sums of y * y / 4 are 2 and 2.5; half their mean square is 2.5625, at two weights.
    value = saliency(net, x, torch.zeros_like(x), [Place("0")], metric="fisher")
    assert value == pytest.approx([2 * 2.5625])


class Tiny(nn.Module):
    """Two sites, of which the one that is registered first runs last; the second holds a linear layer too."""

    def __init__(self) -> None:
        super().__init__()
        self.late = nn.Conv2d(4, 3, 3, padding=1)
        self.early = nn.ModuleDict(
            {"wide": nn.Conv2d(3, 4, 3, padding=1), "deep": nn.Conv2d(4, 4, 3, padding=1, groups=2)}
        )
        self.early["mix"] = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.early["wide"](x))
        y = self.early["deep"](y) * self.scale
        y = self.early["mix"](y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.late(y * y.sigmoid())


LAYERS = {"late": ["late"], "early": ["early.wide", "early.deep", "early.mix"]}
SITES = [Place("early"), Place("late")]


@pytest.fixture
def tiny() -> tuple[Tiny, Tensor, Tensor]:
    torch.manual_seed(3)
    return Tiny(), torch.rand(2, 3, 5, 6), torch.rand(2, 3, 5, 6)


def weights_of(net: nn.Module) -> dict[str, Tensor]:
    names = [f"{layer}.weight" for layers in LAYERS.values() for layer in layers]
    return {name: net.get_parameter(name).detach().double() for name in names}


def loss_of(net: nn.Module, x: Tensor, clean: Tensor) -> Callable[[dict[str, Tensor]], Tensor]:
    rest = {name: p.detach().double() for name, p in net.named_parameters()}

    def loss(weights: dict[str, Tensor]) -> Tensor:
        restored = functional_call(net, {**rest, **weights}, (x.double(),))
        return (restored - clean.double()).square().mean()

    return loss


def by_site(layer_values: dict[str, Tensor]) -> list[float]:
    return [sum(float(layer_values[f"{layer}.weight"]) for layer in LAYERS[site.path]) for site in SITES]


def test_first_order_metrics_by_definition(tiny: tuple[Tiny, Tensor, Tensor]) -> None:
    net, x, clean = tiny
    weights = weights_of(net)
    g = grad(loss_of(net, x, clean))(weights)
    expected = {
        "grad_norm": {name: g[name].square().sum().sqrt() for name in g},
        "snip": {name: (weights[name] * g[name]).abs().sum() for name in g},
        "plain": {name: (weights[name] * g[name]).sum() for name in g},
    }
    for metric, layers in expected.items():
        values = saliency(net, x, clean, SITES, metric=metric)
        np.testing.assert_allclose(values, by_site(layers), rtol=1e-4, err_msg=metric)


def test_plain_is_the_slope_of_the_loss_when_a_site_grows(tiny: tuple[Tiny, Tensor, Tensor]) -> None:
    """d/dt L((1 + t) theta) at 0, by central differences: nothing here is differentiated by a program."""
    net, x, clean = tiny
    loss, weights, step = loss_of(net, x, clean), weights_of(net), 1e-5

    def grown(site: str, t: float) -> float:
        inside = {f"{layer}.weight" for layer in LAYERS[site]}
        return float(loss({name: w * (1 + t) if name in inside else w for name, w in weights.items()}))

    slopes = [(grown(site.path, step) - grown(site.path, -step)) / (2 * step) for site in SITES]
    np.testing.assert_allclose(saliency(net, x, clean, SITES, metric="plain"), slopes, rtol=1e-4)


def test_grasp_by_finite_differences(tiny: tuple[Tiny, Tensor, Tensor]) -> None:
    """Without layer norms, H g is how the gradient changes along the gradient."""
    net, x, clean = tiny
    weights, step = weights_of(net), 1e-4
    gradient = grad(loss_of(net, x, clean))
    g = gradient(weights)
    ahead, behind = (gradient({name: w + side * step * g[name] for name, w in weights.items()}) for side in (1, -1))
    hg = {name: (ahead[name] - behind[name]) / (2 * step) for name in weights}
    expected = by_site({name: -(weights[name] * hg[name]).sum() for name in weights})
    np.testing.assert_allclose(saliency(net, x, clean, SITES, metric="grasp"), expected, rtol=1e-3)


def test_fisher_by_definition(tiny: tuple[Tiny, Tensor, Tensor]) -> None:
    """The gradient at a layer's output is the gradient for a zero that is added there."""
    net, x, clean = tiny
    net = net.double()
    expected = {}
    for layer in LAYERS["early"] + LAYERS["late"]:
        seen: list[Tensor] = []

        def loss(shift: Tensor, layer: str = layer, seen: list[Tensor] = seen) -> Tensor:
            def add(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
                seen.append(output.detach())
                return output + shift

            with_shift = net.get_submodule(layer).register_forward_hook(add)
            restored = net(x.double())
            with_shift.remove()
            return F.mse_loss(restored, clean.double())

        net.requires_grad_(False)
        shape = (2, 5, 6, 4) if layer == "early.mix" else (2, 3 if layer == "late" else 4, 5, 6)
        shift = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
        (g,) = torch.autograd.grad(loss(shift), shift)
        product = seen[0] * g
        if layer == "early.mix":
            # A linear layer's channels come last, and each vector that passes through it is a sample.
            per_channel = product.reshape(-1, 4).square().mean(0) / 2
        else:
            per_channel = product.sum((2, 3)).square().mean(0) / 2
        weight = net.get_submodule(layer).weight
        expected[f"{layer}.weight"] = sum(float(per_channel[o]) * weight[o].numel() for o in range(weight.shape[0]))
    np.testing.assert_allclose(saliency(net, x, clean, SITES, metric="fisher"), by_site(expected), rtol=1e-4)


def test_synflow_by_definition(tiny: tuple[Tiny, Tensor, Tensor]) -> None:
    net, x, clean = tiny
    positive = {name: p.detach().double().abs() for name, p in net.named_parameters()}
    weights = {name: positive[name] for name in weights_of(net)}

    def flow(chosen: dict[str, Tensor]) -> Tensor:
        return functional_call(net, {**positive, **chosen}, (torch.ones(1, 3, 5, 6).double(),)).sum()

    g = grad(flow)(weights)
    expected = by_site({name: (weights[name] * g[name]).abs().sum() for name in weights})
    np.testing.assert_allclose(saliency(net, x, clean, SITES, metric="synflow"), expected, rtol=1e-9)


def test_losses(tiny: tuple[Tiny, Tensor, Tensor]) -> None:
    """With each loss, plain is the derivative of that loss along the weights."""
    net, x, clean = tiny
    losses = {
        "mse": lambda y: (y - clean).square().mean(),
        "l1": lambda y: (y - clean).abs().mean(),
        # Per image, then averaged: PSNR is not linear in the error.
        "psnr": lambda y: -sum(-10 * torch.log10((y[i] - clean[i]).square().mean()) for i in range(2)) / 2,
    }
    for name, loss in losses.items():
        net.zero_grad()
        loss(net(x)).backward()
        weight = net.late.weight
        expected = float((weight * weight.grad).sum().detach())
        assert saliency(net, x, clean, [Place("late")], metric="plain", loss=name) == pytest.approx(
            [expected], rel=1e-4
        )


def test_psnr_loss_is_minus_the_psnr() -> None:
    """An error of 0.1 everywhere is 20 dB, one of 0.01 is 40 dB."""
    clean = torch.zeros(2, 3, 4, 4)
    restored = torch.stack([torch.full((3, 4, 4), 0.1), torch.full((3, 4, 4), 0.01)])
    assert float(psnr_loss(restored, clean)) == pytest.approx(-30, abs=1e-3)


@pytest.mark.parametrize("metric", list(METRICS))
@pytest.mark.parametrize("inference", [False, True])
def test_the_callers_network_is_untouched(tiny: tuple[Tiny, Tensor, Tensor], metric: str, inference: bool) -> None:
    """Values, gradients, modes, hooks, what takes gradients: all as before, also when gradients are off."""
    net, x, clean = tiny
    net.train()
    net.early["deep"].eval()
    net.late.weight.requires_grad_(False)
    net(x).sum().backward()
    before = {name: (p.clone(), p.grad.clone() if p.grad is not None else None) for name, p in net.named_parameters()}
    with torch.inference_mode(inference):
        first = saliency(net, x, clean, SITES, metric=metric)
    for name, p in net.named_parameters():
        value, gradient = before[name]
        assert torch.equal(p, value)
        assert (p.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(p.grad, gradient)
        assert p.dtype == torch.float32
        assert p.requires_grad == (name != "late.weight")
    assert net.training
    assert not net.early["deep"].training
    assert not any(m._forward_hooks or m._backward_hooks for m in net.modules())
    np.testing.assert_array_equal(first, saliency(net, x, clean, SITES, metric=metric))


def test_order_of_sites_is_the_callers(tiny: tuple[Tiny, Tensor, Tensor]) -> None:
    net, x, clean = tiny
    forward = saliency(net, x, clean, SITES, metric="snip")
    backward = saliency(net, x, clean, SITES[::-1], metric="snip")
    np.testing.assert_array_equal(forward, backward[::-1])
    assert saliency(net, x, clean, [], metric="snip").shape == (0,)


def test_a_path_does_not_catch_its_namesakes() -> None:
    """Site ``b.1`` is not the beginning of ``b.10``."""
    net = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(11)))
    x = torch.rand(1, 3, 4, 4)
    first, tenth, whole = (saliency(Wrapped(net), x, x / 2, [Place(p)], metric="snip")[0] for p in ("b.1", "b.10", "b"))
    singles = saliency(Wrapped(net), x, x / 2, [Place(f"b.{i}") for i in range(11)], metric="snip")
    assert first == singles[1]
    assert tenth == singles[10]
    assert whole == pytest.approx(singles.sum())


class Wrapped(nn.Module):
    def __init__(self, b: nn.Module) -> None:
        super().__init__()
        self.b = b

    def forward(self, x: Tensor) -> Tensor:
        return self.b(x)


def test_a_site_that_takes_no_part_has_none(tiny: tuple[Tiny, Tensor, Tensor]) -> None:
    net, x, clean = tiny
    net.idle = nn.Conv2d(3, 3, 1)
    for metric in METRICS:
        assert saliency(net, x, clean, [Place("idle")], metric=metric) == [0.0]


def test_works_after_in_place_activations() -> None:
    """What follows a convolution may overwrite its output."""
    torch.manual_seed(0)
    inplace = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(4, 3, 1))
    separate = nn.Sequential(inplace[0], nn.ReLU(), inplace[2])
    x, clean = torch.rand(2, 3, 6, 6), torch.rand(2, 3, 6, 6)
    for metric in METRICS:
        np.testing.assert_array_equal(
            saliency(inplace, x, clean, [Place("0"), Place("2")], metric=metric),
            saliency(separate, x, clean, [Place("0"), Place("2")], metric=metric),
        )


def test_errors_say_what_is_wrong(tiny: tuple[Tiny, Tensor, Tensor]) -> None:
    net, x, clean = tiny
    with pytest.raises(ConfigError, match="did you mean 'synflow'"):
        saliency(net, x, clean, SITES, metric="synflo")
    with pytest.raises(ConfigError, match=r"unknown loss 'mae': did you mean 'mse'\? the choices are mse, l1, psnr"):
        saliency(net, x, clean, SITES, metric="snip", loss="mae")
    with pytest.raises(ConfigError, match="unknown site 'earl': did you mean 'early'"):
        saliency(net, x, clean, [Place("earl")], metric="snip")
    with pytest.raises(ImageError, match=r"\(2, 3, 5, 6\) and \(2, 3, 4, 6\)"):
        saliency(net, x, clean[:, :, 1:], SITES, metric="snip")
    with pytest.raises(ImageError, match=r"torch\.uint8"):
        saliency(net, (x * 255).to(torch.uint8), clean, SITES, metric="snip")
    x[0, 0, 0, 0] = torch.nan
    with pytest.raises(NetgraftError, match="snip is not finite at 2 of 2 sites, first early"):
        saliency(net, x, clean, SITES, metric="snip")


PLACES = [Place(name) for name in "abcd"]


def test_protect_takes_the_highest_and_the_named() -> None:
    scores = np.array([1.0, -5.0, 4.0, 3.0])
    chosen = protect(PLACES, scores, metric="plain", top=2, named=["b"])
    assert chosen.paths == ("b", "c", "d")
    assert chosen.rule == "the 2 most salient by plain and named by the user"
    assert protect(PLACES, scores, metric="plain").paths == ("c",)
    nothing = protect(PLACES, scores, metric="plain", top=0)
    assert nothing.paths == ()
    assert nothing.rule == "no site is protected"


def test_protect_breaks_ties_by_data_flow() -> None:
    assert protect(PLACES, np.array([0.0, 2.0, 2.0, 2.0]), metric="snip", top=2).paths == ("b", "c")


def test_protect_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ConfigError, match="unknown site 'e'"):
        protect(PLACES, np.zeros(4), metric="snip", named=["e"])
    with pytest.raises(ConfigError, match="the 5 most salient of 4 sites"):
        protect(PLACES, np.zeros(4), metric="snip", top=5)


class Halved(nn.Module):
    """A convolution and a linear layer of which each half is used by itself, or which are called."""

    def __init__(self, apart: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.apart = apart
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.spread = nn.Linear(4, 6)
        self.ending = nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).permute(0, 2, 3, 1)
        if self.apart:
            halves = zip(self.spread.weight.chunk(2), self.spread.bias.chunk(2), strict=True)
            y = torch.cat([F.linear(y, weight, bias) for weight, bias in halves], dim=-1)
        else:
            y = self.spread(y)
        restored: Tensor = self.ending(y.permute(0, 3, 1, 2))
        return restored


@pytest.mark.parametrize("metric", METRICS)
def test_a_layer_of_which_parts_are_used_counts_as_one_that_is_called(metric: str) -> None:
    """As MAXIM's linear layers, which are never called as modules."""
    x, clean = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    sites = [Place(path) for path in ("conv", "spread", "ending")]
    called, apart = (saliency(Halved(way), x, clean, sites, metric=metric) for way in (False, True))
    np.testing.assert_allclose(apart, called, rtol=1e-4)
    assert (called != 0).all()
