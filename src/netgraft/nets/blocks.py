"""The modules that operators put in a teacher's place.

Two ideas run through all of them. A module that is *calibrated* (:class:`Calibrated`) learns a constant from data
that pass through it, without gradients. A module that can be *deployed* (it has a ``deploy`` method) gives a
simpler module that computes the same: branches merged, norms and attention folded into convolutions.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netgraft.nets.nafnet import LAYER_NORM_EPS, LayerNorm2d, NafBlock
from netgraft.nets.sited import Fitted, fit_pointwise

LEAK = 0.25
"""Negative slope of the convolutional operators: features are signed, and runtimes fuse a leaky ReLU."""


@runtime_checkable
class Deployable(Protocol):
    """A module with a simpler form that computes the same."""

    def deploy(self) -> nn.Module:
        """A new module, equal in what it computes, for inference and export."""
        ...


class Calibrated(nn.Module):
    """A module that fits a constant to what passes through it while ``calibrating`` is set."""

    calibrating: bool = False


@contextmanager
def calibrating(
    module: nn.Module, kind: type[Calibrated] | tuple[type[Calibrated], ...] = Calibrated
) -> Iterator[None]:
    """While open, a forward pass refits every calibrated module of ``module``, in place, in the order of the data.

    Each sees what the blocks before it, already calibrated, really produce: calibrating all of them on the
    teacher's features at once lets their errors add up. kind: refit these alone.
    """
    before = {part: part.calibrating for part in module.modules() if isinstance(part, kind)}
    for part in before:
        part.calibrating = True
    try:
        yield
    finally:
        for part, was in before.items():
            part.calibrating = was


class StaticNorm(Calibrated):
    """A LayerNorm2d whose division by each pixel's deviation is frozen to a constant per channel.

    What is left is linear, so that it folds into the 1x1 convolution behind it, the subtraction of the mean over
    the channels included. x: (b, c, h, w) -> the same.
    """

    scale: Tensor

    def __init__(self, norm: LayerNorm2d) -> None:
        super().__init__()
        self.weight = nn.Parameter(norm.weight.detach().clone())
        self.bias = nn.Parameter(norm.bias.detach().clone())
        self.register_buffer("scale", torch.ones_like(norm.weight))

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Least-squares fit, per channel, of the frozen to the exact norm, in place."""
        centered = x - x.mean(1, keepdim=True)
        exact = centered * torch.rsqrt(centered.square().mean(1, keepdim=True) + LAYER_NORM_EPS)
        energy = centered.square().mean((0, 2, 3))
        self.scale.copy_((centered * exact).mean((0, 2, 3)) / energy.clamp_min(1e-12))

    def forward(self, x: Tensor) -> Tensor:
        if self.calibrating:
            self.calibrate(x)
        gain = (self.weight * self.scale).view(1, -1, 1, 1)
        return (x - x.mean(1, keepdim=True)) * gain + self.bias.view(1, -1, 1, 1)

    def folded_into(self, conv: nn.Conv2d) -> nn.Conv2d:
        """The 1x1 convolution that computes ``conv(self(x))``."""
        gain = self.weight * self.scale
        weight = conv.weight[:, :, 0, 0] * gain
        # Subtracting the mean over channels before the convolution is subtracting each row's mean in it.
        weight = weight - weight.mean(1, keepdim=True)
        bias = conv.weight[:, :, 0, 0] @ self.bias
        return _pointwise(weight, bias if conv.bias is None else conv.bias + bias)


class StaticAttention(Calibrated):
    """Channel attention frozen to its mean over the calibration images. x: (b, c, h, w) -> (1, c, 1, 1)."""

    def __init__(self, attention: nn.Module, channels: int) -> None:
        super().__init__()
        # The attention itself is kept, hidden from parameters, for calibration only.
        self._attention = (copy.deepcopy(attention).requires_grad_(False),)
        self.scale = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.calibrating:
            with torch.no_grad():
                self.scale.copy_(self._attention[0](x).mean((0, 2, 3), keepdim=True))
        return self.scale


class StaticNafBlock(nn.Module):
    """A NAF block with its norms, its attention or both frozen to calibrated constants.

    x: (b, c, h, w) -> the same. Starts from the weights of the teacher's block.
    """

    def __init__(self, block: NafBlock, *, norm: bool, attention: bool) -> None:
        super().__init__()
        source = copy.deepcopy(block)
        self.norm1: nn.Module = StaticNorm(source.norm1) if norm else source.norm1
        self.norm2: nn.Module = StaticNorm(source.norm2) if norm else source.norm2
        channels = source.conv3.in_channels
        self.sca: nn.Module = StaticAttention(source.sca, channels) if attention else source.sca
        self.conv1, self.conv2, self.conv3 = source.conv1, source.conv2, source.conv3
        self.conv4, self.conv5, self.sg = source.conv4, source.conv5, source.sg
        self.beta, self.gamma = source.beta, source.gamma

    def forward(self, x: Tensor) -> Tensor:
        gated = self.sg(self.conv2(self.conv1(self.norm1(x))))
        y = x + self.conv3(gated * self.sca(gated)) * self.beta
        out: Tensor = y + self.conv5(self.sg(self.conv4(self.norm2(y)))) * self.gamma
        return out

    @torch.no_grad()
    def deploy(self) -> nn.Module:
        return DeployedNafBlock(self)


class ReluNafBlock(Calibrated):
    """A NAF block with frozen norms and attention whose gates are ReLUs: no products of features are left.

    Twice as many channels reach the 1x1 convolution behind each ReLU as behind a gate. While calibrating, these two
    convolutions are fitted by least squares to what the teacher's gate, attention and convolution make of the same
    input; all else starts from the weights of the teacher's block. x: (b, c, h, w) -> the same.
    """

    def __init__(self, block: NafBlock) -> None:
        super().__init__()
        source = copy.deepcopy(block)
        self.norm1, self.norm2 = StaticNorm(source.norm1), StaticNorm(source.norm2)
        self.conv1, self.conv2, self.conv4 = source.conv1, source.conv2, source.conv4
        self.sg, self.sca = nn.ReLU(), nn.Identity()
        self.conv3, self.conv5 = _for_both_halves(source.conv3), _for_both_halves(source.conv5)
        self.beta, self.gamma = source.beta, source.gamma
        # What the convolutions are fitted to, hidden from parameters.
        self._gated = (source.sg, source.sca, source.conv3, source.conv5)
        for part in self._gated:
            part.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.conv2(self.conv1(self.norm1(x)))
        if self.calibrating:
            with torch.no_grad():
                gate, attention, conv3, conv5 = self._gated
                gated = gate(wide)
                fit_pointwise(self.conv3, self.sg(wide), conv3(gated * attention(gated)))
        y = x + self.conv3(self.sg(wide)) * self.beta
        wide = self.conv4(self.norm2(y))
        if self.calibrating:
            with torch.no_grad():
                fit_pointwise(self.conv5, self.sg(wide), conv5(gate(wide)))
        out: Tensor = y + self.conv5(self.sg(wide)) * self.gamma
        return out

    @torch.no_grad()
    def deploy(self) -> nn.Module:
        return DeployedNafBlock(self)


def _for_both_halves(conv: nn.Conv2d) -> nn.Conv2d:
    """A 1x1 convolution's weights for twice the channels: the mean of what each half alone would give."""
    assert conv.bias is not None
    half = conv.weight[:, :, 0, 0] / 2
    return _pointwise(torch.cat([half, half], dim=1), conv.bias)


class DeployedNafBlock(nn.Module):
    """A NAF block for inference: the residual scales, and what is frozen, folded into the convolutions.

    x: (b, c, h, w) -> the same. What is not frozen stays as it is, so that a teacher's own blocks deploy too.
    """

    @torch.no_grad()
    def __init__(self, block: NafBlock | StaticNafBlock | ReluNafBlock) -> None:
        super().__init__()
        self.norm1, self.conv1 = _fold_norm(block.norm1, block.conv1)
        self.norm2, self.conv4 = _fold_norm(block.norm2, block.conv4)
        self.conv2 = copy.deepcopy(block.conv2)
        self.sg = block.sg
        scale = block.conv3.weight.new_ones(block.conv3.in_channels)
        self.sca: nn.Module | None = None
        if isinstance(block.sca, StaticAttention):
            scale = block.sca.scale.flatten()
        elif not isinstance(block.sca, nn.Identity):
            self.sca = copy.deepcopy(block.sca)
        self.conv3 = _scaled(block.conv3, scale, block.beta.flatten())
        self.conv5 = _scaled(block.conv5, block.conv5.weight.new_ones(block.conv5.in_channels), block.gamma.flatten())

    def forward(self, x: Tensor) -> Tensor:
        gated = self.sg(self.conv2(self.conv1(self.norm1(x))))
        if self.sca is not None:
            gated = gated * self.sca(gated)
        y = x + self.conv3(gated)
        out: Tensor = y + self.conv5(self.sg(self.conv4(self.norm2(y))))
        return out


def _fold_norm(norm: nn.Module, conv: nn.Conv2d) -> tuple[nn.Module, nn.Conv2d]:
    if isinstance(norm, StaticNorm):
        return nn.Identity(), norm.folded_into(conv)
    return copy.deepcopy(norm), copy.deepcopy(conv)


def _pointwise(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A 1x1 convolution from (out, in) weights and (out,) biases."""
    # Made without data: random weights would be thrown away, and would move the caller's random numbers on.
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, device="meta")
    conv.weight = nn.Parameter(weight.detach()[:, :, None, None].clone())
    conv.bias = nn.Parameter(bias.detach().clone())
    return conv


def _scaled(conv: nn.Conv2d, inputs: Tensor, outputs: Tensor) -> nn.Conv2d:
    """The 1x1 convolution that computes ``outputs * conv(inputs * x)``, channel by channel."""
    assert conv.bias is not None
    return _pointwise(conv.weight[:, :, 0, 0] * inputs * outputs[:, None], conv.bias * outputs)


class FittedAffine(Fitted):
    """A dropped block: a scale and an offset per channel, fitted in closed form. x: (b, c, h, w) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.offset = nn.Parameter(torch.zeros(1, channels, 1, 1))

    @torch.no_grad()
    def fit(self, inputs: Sequence[Tensor], y: Tensor) -> None:
        """Least-squares fit, per channel, of ``y`` by the first input, in place; both (b, c, h, w)."""
        x = inputs[0]
        axes = (0, 2, 3)
        x_mean, y_mean = x.mean(axes, keepdim=True), y.mean(axes, keepdim=True)
        spread = (x - x_mean).square().mean(axes, keepdim=True)
        self.scale.copy_(((x - x_mean) * (y - y_mean)).mean(axes, keepdim=True) / spread.clamp_min(1e-12))
        self.offset.copy_(y_mean - self.scale * x_mean)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.offset


class MergedConv(nn.Module):
    """A 3x3 convolution trained as 3x3 + 1x1 + scaled identity (RepVGG, Ding et al., CVPR 2021).

    x: (b, c, h, w) -> the same. The branches train better than one kernel and merge into one.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dense = nn.Conv2d(channels, channels, 3, padding=1)
        self.point = nn.Conv2d(channels, channels, 1, bias=False)
        self.direct = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel(), self.dense.bias, padding=1)

    def kernel(self) -> Tensor:
        """The merged kernel, (c, c, 3, 3)."""
        return self.dense.weight + F.pad(self.point.weight + torch.diag(self.direct)[:, :, None, None], [1] * 4)

    @torch.no_grad()
    def deploy(self) -> nn.Module:
        merged = copy.deepcopy(self.dense)
        merged.weight.copy_(self.kernel())
        return merged


class ConvBlock(nn.Module):
    """A dense 3x3 convolution with a leaky ReLU, on a residual path or not. x: (b, c, h, w) -> the same."""

    def __init__(self, channels: int, *, residual: bool) -> None:
        super().__init__()
        merged = MergedConv(channels)
        self.conv: nn.Module = merged
        self.leaky = nn.LeakyReLU(LEAK)
        self.residual = residual
        if residual:
            nn.init.zeros_(merged.direct)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.leaky(self.conv(x))
        return x + y if self.residual else y


class ConvPairBlock(nn.Module):
    """Two dense 3x3 convolutions with a leaky ReLU between them, on a residual path. x: (b, c, h, w) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.leaky = nn.LeakyReLU(LEAK)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.conv2(self.leaky(self.conv1(x)))
        return x + change


class ReluConvBlock(nn.Module):
    """A dense 3x3 convolution, a ReLU and a 1x1 convolution on a residual path. x: (b, c, h, w) -> the same.

    The 1x1 convolution gives the change either sign, which a ReLU at its end would not, and every NPU fuses a ReLU
    into the convolution before it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        merged = MergedConv(channels)
        self.conv: nn.Module = merged
        self.project = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(merged.direct)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.project(F.relu(self.conv(x)))
        return x + change


class InvertedResidual(nn.Module):
    """Expand, depthwise 3x3, project, with ReLU6 (MobileNetV2, Sandler et al., CVPR 2018).

    x: (b, c, h, w) -> the same.
    """

    def __init__(self, channels: int, expansion: int = 2) -> None:
        super().__init__()
        wide = expansion * channels
        self.expand = nn.Conv2d(channels, wide, 1)
        self.depthwise = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.project = nn.Conv2d(wide, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.project(F.relu6(self.depthwise(F.relu6(self.expand(x)))))
        return x + change


class PartialConv(nn.Module):
    """A dense 3x3 over a quarter of the channels, then a pointwise MLP (FasterNet, Chen et al., CVPR 2023).

    x: (b, c, h, w) -> the same.
    """

    def __init__(self, channels: int, expansion: int = 2) -> None:
        super().__init__()
        self.part = max(1, channels // 4)
        self.spatial = nn.Conv2d(self.part, self.part, 3, padding=1, bias=False)
        self.expand = nn.Conv2d(channels, expansion * channels, 1)
        self.project = nn.Conv2d(expansion * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        mixed = torch.cat([self.spatial(x[:, : self.part]), x[:, self.part :]], dim=1)
        change: Tensor = self.project(F.relu(self.expand(mixed)))
        return x + change


class HalfResolution(nn.Module):
    """A NAF-style gated block at half the resolution: strided 2x2, gated depthwise 3x3, transposed 2x2 back.

    x: (b, c, h, w) -> the same; an odd side is continued by one pixel.
    """

    size_multiple = 2
    """Sides that are multiples of this need no continuation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shrink = nn.Conv2d(channels, 2 * channels, 2, stride=2)
        self.depthwise = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.grow = nn.ConvTranspose2d(channels, channels, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        even = F.pad(x, (0, w % 2, 0, h % 2), mode="replicate") if h % 2 or w % 2 else x
        first, second = self.depthwise(self.shrink(even)).chunk(2, dim=1)
        grown: Tensor = self.grow(first * second)
        return x + (grown[..., :h, :w] if h % 2 or w % 2 else grown)


def transposed_from(up: nn.Sequential) -> nn.ConvTranspose2d:
    """The transposed 2x2 convolution that computes exactly what a 1x1 convolution and PixelShuffle(2) do."""
    conv = up[0]
    assert isinstance(conv, nn.Conv2d)
    out_channels = conv.out_channels // 4
    transposed = nn.ConvTranspose2d(conv.in_channels, out_channels, 2, stride=2, bias=False, device="meta")
    # PixelShuffle sends channel 4c + 2i + j to pixel (2y + i, 2x + j) of channel c.
    kernel = conv.weight[:, :, 0, 0].reshape(out_channels, 2, 2, conv.in_channels)
    transposed.weight = nn.Parameter(kernel.permute(3, 0, 1, 2).detach().clone(memory_format=torch.contiguous_format))
    return transposed


class ResizeConv(nn.Module):
    """Nearest upsampling by two, then a 3x3 convolution: it starts as the mean of what an up gives its four pixels.

    x: (b, c, h, w) -> (b, c / 2, 2h, 2w). A resize convolution (Odena et al., Distill 2016) moves no channel to
    another pixel, which is what costs an NPU time in a PixelShuffle.
    """

    def __init__(self, up: nn.Sequential) -> None:
        super().__init__()
        source = up[0]
        assert isinstance(source, nn.Conv2d)
        out_channels = source.out_channels // 4
        self.conv = nn.Conv2d(source.in_channels, out_channels, 3, padding=1, device="meta")
        # Channels 4c to 4c + 3 of the up's convolution are the four pixels of channel c.
        mean = source.weight.detach().reshape(out_channels, 4, source.in_channels).mean(1)
        self.conv.weight = nn.Parameter(F.pad(mean[:, :, None, None], [1] * 4))
        self.conv.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return y


def strided_from(down: nn.Conv2d) -> nn.Conv2d:
    """A strided 3x3 convolution that starts as the teacher's strided 2x2 one."""
    assert down.bias is not None
    conv = nn.Conv2d(down.in_channels, down.out_channels, 3, stride=2, padding=1, device="meta")
    # With padding 1 the kernel's center stands on the first of the two pixels.
    conv.weight = nn.Parameter(F.pad(down.weight.detach(), (1, 0, 1, 0)))
    conv.bias = nn.Parameter(down.bias.detach().clone())
    return conv


def deploy(module: nn.Module) -> nn.Module:
    """A copy of ``module`` in which everything that has a simpler form for inference has taken it."""
    clone = copy.deepcopy(module)
    return _deploy_inside(clone).eval()


def _deploy_inside(module: nn.Module) -> nn.Module:
    if isinstance(module, NafBlock):
        return DeployedNafBlock(module)
    if isinstance(module, Deployable):
        return module.deploy()
    for name, child in module.named_children():
        setattr(module, name, _deploy_inside(child))
    return module
