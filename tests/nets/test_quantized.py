"""Eight bits in floating point: against arithmetic done by hand and against ONNX Runtime's integers."""

from __future__ import annotations

import copy

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from netgraft.devices import onnx_bytes, quantize_onnx
from netgraft.nets.blocks import StaticNafBlock, calibrating, deploy
from netgraft.nets.nafnet import NafBlock
from netgraft.nets.quantized import (
    QuantizedBlock,
    QuantizedConv,
    Rounding,
    observe,
    quantized,
    quantized_network,
    shipped,
)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 8, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def conv() -> nn.Conv2d:
    torch.manual_seed(1)
    return nn.Conv2d(8, 6, 3, padding=1)


@pytest.fixture
def block() -> NafBlock:
    """With residual scales as if trained: they are zeros at the start, and nothing could go wrong."""
    torch.manual_seed(2)
    made = NafBlock(8)
    with torch.no_grad():
        made.beta.fill_(0.7)
        made.gamma.fill_(0.5)
    return made.requires_grad_(False)


def error(found: Tensor, wanted: Tensor) -> float:
    return float(((found - wanted).square().mean() / wanted.square().mean()).detach())


@pytest.mark.parametrize("transposed", [False, True])
def test_weights_and_inputs_are_rounded_as_integers_would_be(x: Tensor, transposed: bool) -> None:
    torch.manual_seed(1)
    conv = nn.ConvTranspose2d(8, 6, 2, stride=2) if transposed else nn.Conv2d(8, 6, 3, padding=1)
    rounded = QuantizedConv(copy.deepcopy(conv))
    observe(rounded, x)
    low, high = float(x.min()), float(x.max())
    scale = (high - low) / 255
    zero = round(-low / scale)
    integers = (x / scale).round().add(zero).clamp(0, 255) - zero
    axis = (0, 2, 3) if transposed else (1, 2, 3)
    steps = conv.weight.detach().abs().amax(axis, keepdim=True) / 127
    with torch.no_grad():
        weights = (conv.weight / steps).round()
        assert weights.abs().max() == 127
        conv.weight.copy_(weights * steps)
        torch.testing.assert_close(rounded(x), conv(integers * scale), rtol=1e-5, atol=1e-5)


def test_values_beyond_the_observed_range_are_cut_off(conv: nn.Conv2d, x: Tensor) -> None:
    rounded = QuantizedConv(conv)
    observe(rounded, x)
    torch.testing.assert_close(rounded(10 * x), rounded((10 * x).clamp(x.min(), x.max())), rtol=0, atol=1e-4)


def test_it_is_what_onnx_runtime_computes_in_8_bits(conv: nn.Conv2d, x: Tensor) -> None:
    """Outputs are rounded there as well, to half a step, and some inputs fall to the other side."""
    module = nn.Sequential(conv).eval()
    given = x[:1]
    session = ort.InferenceSession(quantize_onnx(onnx_bytes(module, given, fast_forms=False), given.numpy()))
    there = session.run(None, {session.get_inputs()[0].name: given.numpy()})[0]
    here = quantized(module)
    observe(here, given)
    computed = here(given).detach().numpy()
    step = np.ptp(there) / 255
    assert np.abs(computed - there).max() < 1.5 * step
    assert np.abs(computed - there).mean() < 0.4 * step


def test_gradients_pass_the_rounding(conv: nn.Conv2d, x: Tensor) -> None:
    rounded = QuantizedConv(copy.deepcopy(conv))
    observe(rounded, x)
    found, wanted = (x.clone().requires_grad_() for _ in range(2))
    rounded(found).square().sum().backward()
    conv(wanted).square().sum().backward()
    assert rounded.conv.weight.grad is not None
    assert conv.weight.grad is not None
    assert error(rounded.conv.weight.grad, conv.weight.grad) < 1e-3
    assert found.grad is not None
    assert wanted.grad is not None
    assert error(found.grad, wanted.grad) < 1e-3


@pytest.mark.parametrize("static", [False, True])
def test_a_block_in_8_bits_is_close_to_itself_and_deploys_to_what_it_computes(
    block: NafBlock, x: Tensor, static: bool
) -> None:
    inner = StaticNafBlock(block, norm=True, attention=True) if static else block
    made = QuantizedBlock(copy.deepcopy(inner)).eval()
    with calibrating(inner), calibrating(made), torch.no_grad():
        wanted = inner(x)
        made(x)
    found = made(x)
    assert 1e-7 < error(found, wanted) < 3e-3
    deployed = deploy(nn.Sequential(made))
    torch.testing.assert_close(deployed(x), found)
    plain = shipped(nn.Sequential(made))
    assert not any(isinstance(part, QuantizedConv | Rounding) for part in plain.modules())
    torch.testing.assert_close(plain(x), deploy(nn.Sequential(inner))(x))
    assert any(isinstance(part, QuantizedConv) for part in made.modules()), "it is left as it was"


def test_ranges_follow_the_calibration(block: NafBlock, x: Tensor) -> None:
    made = QuantizedBlock(block).eval()
    ranges = []
    for images in (x, 3 * x, x):
        with calibrating(made):
            made(images)
        ranges.append(float(made.rounded[0].high))  # type: ignore[arg-type]
    assert ranges[0] == ranges[2]
    state = made.state_dict()
    other = QuantizedBlock(copy.deepcopy(block)).eval()
    other.load_state_dict(state)
    torch.testing.assert_close(other(x), made(x))


def test_what_is_quantized_already_stays(conv: nn.Conv2d) -> None:
    once = quantized(nn.Sequential(conv))
    assert [type(part) for part in quantized(once).modules()] == [nn.Sequential, QuantizedConv, Rounding, nn.Conv2d]


def test_a_network_that_trains_in_8_bits_learns_to_be_rounded(x: Tensor) -> None:
    """Ten outputs of two convolutions whose input is dominated by one channel: rounding hurts, and training helps."""
    torch.manual_seed(3)
    wanted = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 10, 1)).eval().requires_grad_(False)
    given = x * torch.tensor([60.0, 1, 1, 1, 1, 1, 1, 1]).view(1, -1, 1, 1)
    wanted[0].weight[:, :1] /= 60
    network = quantized_network(wanted, given).requires_grad_(True)
    target = wanted(given)
    before = error(network(given), target)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        (network(given) - target).square().mean().backward()
        optimizer.step()
    assert error(network(given), target) < 0.7 * before
    again = quantized_network(shipped(network), given)
    assert error(again(given), target) < 0.8 * before
