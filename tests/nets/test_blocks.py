"""Blocks that stand in for a teacher's: what they compute, what calibration finds, and that deployment keeps it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netgraft.nets.blocks import (
    Calibrated,
    ConvBlock,
    DeployedNafBlock,
    FittedAffine,
    HalfResolution,
    InvertedResidual,
    MergedConv,
    PartialConv,
    ReluConvBlock,
    ReluNafBlock,
    ResizeConv,
    StaticAttention,
    StaticNafBlock,
    StaticNorm,
    calibrating,
    deploy,
    fit_pointwise,
    strided_from,
    transposed_from,
)
from netgraft.nets.nafnet import LayerNorm2d, NafBlock, NafNet, NafNetShape, localize

KINDS = [(True, True), (True, False), (False, True), (False, False)]


def naf_block(channels: int = 6) -> NafBlock:
    """A block in which every parameter is random, and so has an effect."""
    torch.manual_seed(0)
    block = NafBlock(channels)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return block.eval()


def shifted(channels: int = 6, batch: int = 2, side: int = 10) -> Tensor:
    """Features as networks have them: each channel with a mean and a spread of its own."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, channels, side, side, generator=generator)
    scale = torch.linspace(0.5, 3, channels).view(1, -1, 1, 1)
    return x * scale + torch.linspace(-2, 4, channels).view(1, -1, 1, 1)


def norm_of_numpy(x: Tensor, norm: nn.Module) -> np.ndarray:
    a = x.double().numpy()
    centered = a - a.mean(1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(1, keepdims=True) + 1e-6)


def test_the_static_norm_is_the_least_squares_fit_of_the_exact_one() -> None:
    """Channel by channel: the scale that numpy finds for the centered input."""
    norm, x = naf_block().norm1, shifted()
    static = StaticNorm(norm)
    static.calibrate(x)
    exact, a = norm_of_numpy(x, norm), x.double().numpy()
    centered = a - a.mean(1, keepdims=True)
    for channel in range(6):
        (expected,), *_ = np.linalg.lstsq(centered[:, channel].reshape(-1, 1), exact[:, channel].ravel(), rcond=None)
        assert static.scale[channel].item() == pytest.approx(expected, rel=1e-5)
    fitted = centered * static.scale.double().numpy().reshape(1, -1, 1, 1)
    weight, bias = (p.detach().double().numpy().reshape(1, -1, 1, 1) for p in (norm.weight, norm.bias))
    np.testing.assert_allclose(static(x).detach().numpy(), fitted * weight + bias, rtol=1e-4, atol=1e-5)


def test_the_static_norm_is_exact_where_every_pixel_has_the_same_deviation() -> None:
    """All pixels hold the same values in another order of channels: their deviation is one constant."""
    values = torch.tensor([1.0, 2.0, 4.0, 8.0])
    x = torch.stack([values.roll(i) for i in range(4)], dim=1).view(1, 4, 2, 2)
    norm = LayerNorm2d(4)
    static = StaticNorm(norm)
    static.calibrate(x)
    torch.testing.assert_close(static(x), norm(x), rtol=1e-5, atol=1e-6)


def test_a_static_norm_folds_into_the_convolution_behind_it() -> None:
    block, x = naf_block(), shifted()
    static = StaticNorm(block.norm1)
    static.calibrate(x)
    torch.testing.assert_close(static.folded_into(block.conv1)(x), block.conv1(static(x)), rtol=1e-4, atol=1e-5)
    bare = nn.Conv2d(6, 5, 1, bias=False)
    torch.testing.assert_close(static.folded_into(bare)(x), bare(static(x)), rtol=1e-4, atol=1e-5)


def test_the_static_attention_is_the_mean_over_the_calibration_images() -> None:
    block, x = naf_block(), shifted(batch=3)
    static = StaticAttention(block.sca, 6)
    assert torch.equal(static(x), torch.ones(1, 6, 1, 1)), "before calibration it changes nothing"
    with calibrating(static):
        static(x)
    means = x.double().numpy().mean((2, 3))
    weight, bias = (p.detach().double().numpy() for p in (block.sca[1].weight[:, :, 0, 0], block.sca[1].bias))
    np.testing.assert_allclose(static(x).detach().numpy().ravel(), (means @ weight.T + bias).mean(0), rtol=1e-5)
    assert [name for name, _ in static.named_parameters()] == ["scale"], "the teacher's attention does not learn"


@pytest.mark.parametrize(("norm", "attention"), KINDS)
def test_static_blocks_deploy_to_the_same(norm: bool, attention: bool) -> None:
    """At 1e-5, and with nothing left of what was frozen."""
    block, x = naf_block(), shifted()
    static = StaticNafBlock(block, norm=norm, attention=attention)
    with torch.no_grad(), calibrating(static):
        static(x)
    deployed = static.deploy()
    torch.testing.assert_close(deployed(x), static(x), rtol=1e-5, atol=1e-5)
    left = [type(part) for part in deployed.modules()]
    assert (LayerNorm2d in left) == (not norm)
    assert (nn.Sequential in left) == (not attention)
    assert not any(isinstance(part, Calibrated) for part in deployed.modules())


def test_a_static_block_with_nothing_frozen_is_the_teachers() -> None:
    block, x = naf_block(), shifted()
    torch.testing.assert_close(StaticNafBlock(block, norm=False, attention=False)(x), block(x))


def test_a_teachers_block_deploys_to_the_same() -> None:
    block, x = naf_block(), shifted()
    torch.testing.assert_close(DeployedNafBlock(block)(x), block(x), rtol=1e-5, atol=1e-5)


def test_calibration_follows_the_data() -> None:
    """A chain on data far from the teacher's: each block fits what the ones before it, frozen, really give.

    Calibrating all of them on the teacher's features instead is further from the teacher.
    """
    torch.manual_seed(3)
    chain = nn.Sequential(*(NafBlock(6) for _ in range(8))).eval()
    with torch.no_grad():
        for name, parameter in chain.named_parameters():
            if name.endswith(("beta", "gamma")):
                parameter.fill_(0.7)
    x = 3 * shifted(side=12)
    in_order = nn.Sequential(*(StaticNafBlock(block, norm=True, attention=True) for block in chain))  # type: ignore[arg-type]
    apart = copy.deepcopy(in_order)
    with torch.no_grad():
        with calibrating(in_order):
            in_order(x)
        features = x
        for block, static in zip(chain, apart, strict=True):
            with calibrating(static):
                static(features)
            features = block(features)
        error = (in_order(x) - features).square().mean()
        error_apart = (apart(x) - features).square().mean()
    assert torch.isfinite(error)
    assert error < error_apart

    # What the last norm holds is the fit on its input as the frozen chain makes it, by the formula again.
    with torch.no_grad():
        last = StaticNorm(chain[-1].norm1)  # type: ignore[arg-type]
        last.calibrate(in_order[:-1](x))
    torch.testing.assert_close(in_order[-1].norm1.scale, last.scale)


def test_calibrating_ends_with_its_block() -> None:
    """Also after an error, and inside another one; training modes stay as they are."""
    block = StaticNafBlock(naf_block(), norm=True, attention=True).train()
    parts = [part for part in block.modules() if isinstance(part, Calibrated)]
    assert len(parts) == 3
    with pytest.raises(RuntimeError), calibrating(block):
        block(torch.zeros(1, 5, 4, 4))
    assert not any(part.calibrating for part in parts)
    with calibrating(block):
        with calibrating(block.norm1):
            pass
        assert all(part.calibrating for part in parts)
    with calibrating(block, StaticNorm):
        assert [type(part) for part in parts if part.calibrating] == [StaticNorm, StaticNorm]
    assert block.training
    before = copy.deepcopy(block.state_dict())
    block(shifted())
    assert all(torch.equal(value, before[key]) for key, value in block.state_dict().items())


def test_the_affine_of_a_dropped_block_is_numpys() -> None:
    x = shifted(channels=4)
    y = x.flip(1) + 0.5 * x.square()
    affine = FittedAffine(4)
    affine.fit([x], y)
    for channel in range(4):
        a = x[:, channel].double().numpy().ravel()
        design = np.stack([a, np.ones_like(a)], axis=1)
        (scale, offset), *_ = np.linalg.lstsq(design, y[:, channel].double().numpy().ravel(), rcond=None)
        assert affine.scale[0, channel].item() == pytest.approx(scale, rel=1e-4, abs=1e-5)
        assert affine.offset[0, channel].item() == pytest.approx(offset, rel=1e-4, abs=1e-4)


def test_the_affine_survives_a_constant_channel() -> None:
    """A dead channel has no slope: its offset is the mean of what is wanted."""
    affine = FittedAffine(1)
    affine.fit([torch.full((1, 1, 4, 4), 3.0)], torch.arange(16.0).view(1, 1, 4, 4))
    assert affine(torch.full((1, 1, 1, 1), 3.0)).item() == pytest.approx(7.5)


def test_merged_branches_compute_their_sum() -> None:
    """3x3 + 1x1 + scaled identity, each run on its own; one plain convolution after deployment."""
    torch.manual_seed(0)
    merged, x = MergedConv(5), shifted(channels=5)
    with torch.no_grad():
        merged.direct.copy_(torch.linspace(-1, 2, 5))
    apart = merged.dense(x) + merged.point(x) + x * merged.direct.view(1, -1, 1, 1)
    torch.testing.assert_close(merged(x), apart, rtol=1e-4, atol=1e-5)
    deployed = merged.deploy()
    assert type(deployed) is nn.Conv2d
    torch.testing.assert_close(deployed(x), apart, rtol=1e-4, atol=1e-5)


def test_a_convolution_block_by_hand() -> None:
    """One channel, identity only: 2 stays, -2 leaks a quarter; the residual adds the input."""
    x = torch.tensor([2.0, -2.0]).view(1, 1, 1, 2)
    for residual, expected in ((False, [2.0, -0.5]), (True, [4.0, -2.5])):
        block = ConvBlock(1, residual=residual)
        with torch.no_grad():
            for parameter in block.parameters():
                parameter.zero_()
            block.conv.direct.fill_(1.0)
        assert block(x).flatten().tolist() == expected


@pytest.mark.parametrize("make", [InvertedResidual, PartialConv, HalfResolution, ReluConvBlock])
def test_residual_blocks_pass_their_input_on(make: type[nn.Module]) -> None:
    """With every weight at zero nothing is added to the input."""
    block, x = make(8), shifted(channels=8)
    assert not torch.allclose(block(x), x)
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(block(x), x)


def test_a_pointwise_fit_is_numpys() -> None:
    """Least squares with an offset; a channel that is always zero takes part without harm, at weight zero."""
    x, conv = shifted(), nn.Conv2d(6, 3, 1)
    x[:, 2] = 0
    y = torch.randn(2, 3, 10, 10, generator=torch.Generator().manual_seed(2)) + x[:, :3] * 2
    fit_pointwise(conv, x, y, ridge=0)
    inputs = np.concatenate([x.movedim(1, -1).reshape(-1, 6).double().numpy(), np.ones((200, 1))], axis=1)
    expected, *_ = np.linalg.lstsq(inputs, y.movedim(1, -1).reshape(-1, 3).double().numpy(), rcond=None)
    np.testing.assert_allclose(conv.weight.detach()[:, :, 0, 0].numpy(), expected[:6].T, atol=1e-5)
    assert conv.bias is not None
    np.testing.assert_allclose(conv.bias.detach().numpy(), expected[6], atol=1e-5)


def test_relu_gates_are_exact_where_a_relu_can_be_the_gate() -> None:
    """One half of every gate's input is a constant 1: the product is the other half, which only is positive here."""
    block, x = naf_block(), shifted()
    with torch.no_grad():
        for conv in (block.conv2, block.conv4):
            conv.weight[6:] = 0
            conv.bias[6:] = 1.0  # type: ignore[index]
            conv.bias[:6] += 100.0  # type: ignore[index]
    relu = ReluNafBlock(block)
    # The norms as they would be if every pixel had the same deviation: what the gates do is looked at here.
    block.norm1, block.norm2 = relu.norm1, relu.norm2
    block.sca = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 6, 1))
    nn.init.zeros_(block.sca[1].weight)  # type: ignore[arg-type]
    relu._gated = (block.sg, block.sca, block.conv3, block.conv5)
    with torch.no_grad(), calibrating(relu):
        relu(x)
        found, expected = relu(x), block(x)
    change = (expected - x).std()
    assert (found - expected).abs().max() < 0.02 * change


def test_calibration_brings_relu_gates_closer_and_deployment_keeps_them() -> None:
    block, x = naf_block(), shifted()
    before = copy.deepcopy(block.state_dict())
    relu = ReluNafBlock(block)
    with torch.no_grad():
        uncalibrated = (relu(x) - block(x)).square().mean()
        with calibrating(relu):
            relu(x)
        assert (relu(x) - block(x)).square().mean() < 0.5 * uncalibrated
        deployed = deploy(relu)
        assert isinstance(deployed, DeployedNafBlock)
        torch.testing.assert_close(deployed(x), relu(x), rtol=1e-4, atol=1e-4)
    # What it is fitted to is no part of it, and is the teacher's own no more.
    assert not any("_gated" in name for name in relu.state_dict())
    for name, value in block.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_partial_convolution_mixes_space_in_a_quarter_of_the_channels() -> None:
    """A pixel changes its neighbors through the first quarter alone; the rest acts on the pixel itself."""
    torch.manual_seed(0)
    block, x = PartialConv(8), torch.zeros(1, 8, 5, 5)
    for channel, reaches in ((0, True), (1, True), (2, False), (7, False)):
        poked = x.clone()
        poked[0, channel, 2, 2] = 5.0
        change = (block(poked) - block(x)).abs().sum(1)[0]
        assert change[2, 2] > 0
        assert bool(change[1, 2] > 0) == reaches


def test_half_resolution_takes_odd_sides_and_needs_no_padding_at_even_ones() -> None:
    """An odd side is continued by its last pixel; the result is cut back."""
    torch.manual_seed(0)
    block, x = HalfResolution(4), shifted(channels=4, side=7)
    longer = F.pad(x, (0, 1, 0, 1), mode="replicate")
    torch.testing.assert_close(block(x), block(longer)[..., :7, :7])
    assert block(x[..., :1, :1]).shape == (2, 4, 1, 1)


def test_the_transposed_convolution_is_exactly_the_pixel_shuffle() -> None:
    torch.manual_seed(0)
    up = nn.Sequential(nn.Conv2d(6, 12, 1, bias=False), nn.PixelShuffle(2))
    x = shifted()
    transposed = transposed_from(up)
    assert isinstance(transposed, nn.ConvTranspose2d)
    torch.testing.assert_close(transposed(x), up(x), rtol=1e-5, atol=1e-6)
    # With weights and inputs of small whole numbers there is no rounding: equal to the last bit.
    with torch.no_grad():
        up[0].weight.copy_(torch.arange(72.0).view(12, 6, 1, 1) % 11 - 5)
    assert torch.equal(transposed_from(up)(x.round()), up(x.round()))


def test_a_resize_convolution_starts_as_the_mean_of_the_four_pixels() -> None:
    torch.manual_seed(0)
    up, x = nn.Sequential(nn.Conv2d(6, 12, 1, bias=False), nn.PixelShuffle(2)), shifted()
    resize = ResizeConv(up)
    found = resize(x)
    assert found.shape == (2, 3, 20, 20)
    mean = F.avg_pool2d(up(x), 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(found, mean, rtol=1e-5, atol=1e-5)
    # Each tap counts: it can learn what the teacher's up does not do.
    nn.init.ones_(resize.conv.weight)
    assert not torch.allclose(resize(x), F.interpolate(F.avg_pool2d(resize(x), 2), scale_factor=2.0))


def test_the_strided_convolution_is_exactly_the_2x2_one() -> None:
    torch.manual_seed(0)
    down, x = nn.Conv2d(6, 12, 2, stride=2), shifted()
    torch.testing.assert_close(strided_from(down)(x), down(x), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        down.weight.copy_(torch.arange(288.0).view(12, 6, 2, 2) % 11 - 5)
        down.bias.copy_(torch.arange(12.0))  # type: ignore[union-attr]
    assert torch.equal(strided_from(down)(x.round()), down(x.round()))


def mixed_network() -> NafNet:
    torch.manual_seed(0)
    net = NafNet(NafNetShape(width=4, encoder_blocks=(2, 1), middle_blocks=1, decoder_blocks=(1, 1)))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    net.encoders[0][1] = StaticNafBlock(net.encoders[0][1], norm=True, attention=True)  # type: ignore[index,arg-type]
    net.encoders[1][0] = ConvBlock(8, residual=True)  # type: ignore[index]
    net.middle_blks[0] = HalfResolution(16)
    net.ups[0] = transposed_from(net.ups[0])  # type: ignore[arg-type]
    with torch.no_grad(), calibrating(net):
        net(torch.rand(2, 3, 16, 16))
    return net


def test_a_whole_network_deploys_and_stays_as_it_was() -> None:
    """The copy computes the same without any trainable form left; the input, and torch's randomness, are untouched."""
    net, x = mixed_network().train(), torch.rand(1, 3, 24, 16)
    before, parts = copy.deepcopy(net.state_dict()), [type(part) for part in net.modules()]
    random = torch.get_rng_state()
    deployed = deploy(net)
    assert torch.equal(torch.get_rng_state(), random)
    torch.testing.assert_close(deployed(x), net(x), rtol=1e-5, atol=1e-5)
    left = {type(part) for part in deployed.modules()}
    assert left.isdisjoint({NafBlock, StaticNafBlock, StaticNorm, StaticAttention, MergedConv})
    assert not deployed.training
    assert net.training
    assert [type(part) for part in net.modules()] == parts
    for parameter in deployed.parameters():
        nn.init.constant_(parameter, 9.0)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_a_single_block_deploys() -> None:
    block, x = naf_block(), shifted()
    assert isinstance(deploy(block), DeployedNafBlock)
    assert type(deploy(MergedConv(6))) is nn.Conv2d
    torch.testing.assert_close(deploy(block)(x), block(x), rtol=1e-5, atol=1e-5)


def test_a_network_with_a_halving_block_at_the_bottom_pads_further() -> None:
    """Two levels need multiples of 4; a block that halves once more at the lowest level needs 8."""
    plain = NafNet(NafNetShape(width=4, encoder_blocks=(1, 1), middle_blocks=1, decoder_blocks=(1, 1)))
    assert plain.size_multiple == 4
    net = mixed_network()
    assert net.size_multiple == 8
    x = torch.rand(1, 3, 12, 20)
    padded = F.pad(x, (0, 4, 0, 4))
    torch.testing.assert_close(net(x), net(padded)[..., :12, :20])
    torch.testing.assert_close(deploy(net)(x), net(x), rtol=1e-5, atol=1e-5)


def test_frozen_attention_of_a_local_network_is_its_mean_over_the_map() -> None:
    net = NafNet(NafNetShape(width=4, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,)))
    localize(net, (8, 8))
    block, x = net.encoders[0][0], torch.rand(2, 4, 32, 32)  # type: ignore[index]
    static = StaticAttention(block.sca, 4)
    with calibrating(static):
        static(x)
    local = block.sca(x)
    assert local.shape == x.shape, "the window does not cover the map"
    torch.testing.assert_close(static(x).flatten(), local.mean((0, 2, 3)))
