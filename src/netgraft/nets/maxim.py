"""MAXIM (Tu et al., "MAXIM: Multi-Axis MLP for Image Processing", CVPR 2022): stages of U-Nets of gated MLPs.

Each stage is a U-Net of three levels. Its blocks mix pixels along two axes at once: half of the channels over a grid
of cells, one pixel from each, which reaches across the whole image; half within blocks of neighboring pixels. Levels
exchange features by cross gating, and a stage hands features to the next through supervised attention. All take and
give (b, c, h, w).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netgraft.errors import ConfigError
from netgraft.nets.maxim_axes import CrossGating, MultiAxisBlock, SignalGating, gelu, only_runs
from netgraft.nets.nafnet import LAYER_NORM_EPS, GlobalPool2d, LayerNorm2d

LEVELS = 3
"""Resolutions of a stage; the channels double from one to the next."""
HIGH_LEVELS = 2
"""Levels, from full resolution down, that mix over the larger number of tokens."""
REDUCTION = 4
"""Channels over those inside channel attention."""
SLOPE = 0.2
"""Of the leaky ReLU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaximShape:
    """The hyper-parameters of a MAXIM; by default those of MAXIM-3S."""

    width: int = 32
    """Channels at full resolution; they double at each level."""
    stages: int = 3
    """U-Nets in a row."""
    groups: int = 2
    """Pairs of a multi-axis block and a channel attention block at each level."""
    bottlenecks: int = 2
    """Blocks at the lowest resolution, each of so many groups."""
    high_side: int = 16
    """Side of the grid, in cells, and of the blocks, in feature pixels, at the upper two levels."""
    low_side: int = 8
    """The same at the third level and below."""

    def side(self, level: int) -> int:
        """Side of grid and blocks at a level."""
        return self.high_side if level < HIGH_LEVELS else self.low_side

    @property
    def size_multiple(self) -> int:
        """Sides of images that every grid and block divides."""
        return math.lcm(*(self.side(level) << level for level in range(LEVELS + 1)))


class Maxim(nn.Module):
    """The whole network, which predicts the residual to a clean image at its last stage.

    x: (b, 3, h, w), RGB in [0, 1] -> the same. Any size: the input is padded to :attr:`size_multiple`.
    """

    def __init__(self, shape: MaximShape) -> None:
        super().__init__()
        self.shape = shape
        self.stages = nn.ModuleList(Stage(shape, first=i == 0, last=i == shape.stages - 1) for i in range(shape.stages))
        self.output = _conv3(shape.width, 3)

    @property
    def size_multiple(self) -> int:
        """Both sides of every feature map divide into grids and blocks when the image's are multiples of this."""
        return self.shape.size_multiple

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        pad_h, pad_w = -h % self.size_multiple, -w % self.size_multiple
        # The grid mixes all of the image: a black border would be seen everywhere.
        padded = F.pad(x, (0, pad_w, 0, pad_h), mode="replicate") if pad_h or pad_w else x
        if only_runs():
            # Whatever the memory of the weights: pixel after pixel, the layers over channels read it as it is.
            padded = padded.contiguous(memory_format=torch.channels_last)
        images = [padded]
        for level in range(1, LEVELS):
            # The nearest pixel to the center of each cell, the lower right one of its middle.
            step = 1 << level
            images.append(padded[..., step // 2 :: step, step // 2 :: step])
        carried: Carried | None = None
        for stage in self.stages:
            carried = stage(images, carried)
        assert carried is not None
        restored: Tensor = self.output(carried.decoded[0]) + padded
        return restored[..., :h, :w] if pad_h or pad_w else restored


def first_stages(net: Maxim, count: int) -> Maxim:
    """A copy of the first ``count`` stages as a network of its own, which gives the image that the last of them was
    taught to give on the way (supervised attention).

    Raises:
        ConfigError: there are not so many stages.
    """
    if not 1 <= count <= net.shape.stages:
        raise ConfigError(f"{count} stages are asked for, but this MAXIM has {net.shape.stages}, of which at least 1")
    shorter = copy.deepcopy(net)
    if count < net.shape.stages:
        shorter.shape = replace(net.shape, stages=count)
        shorter.stages = shorter.stages[:count]
        last = shorter.stages[-1]
        assert isinstance(last, Stage)
        attention = last.attention[0]
        assert isinstance(attention, SupervisedAttention)
        shorter.output = attention.image
        last.attention = nn.ModuleList()
    return shorter


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What a stage hands to the next; by level, from full resolution down."""

    encoded: Sequence[Tensor]
    """Features of its encoder, (b, width * 2^level, h / 2^level, w / 2^level)."""
    decoded: Sequence[Tensor]
    """Features of its decoder, of the same shapes."""
    attended: Sequence[Tensor]
    """The decoder's features after supervised attention; none of the last stage."""


class Stage(nn.Module):
    """One U-Net. images: by level, (b, 3, h / 2^level, w / 2^level); carried: from the stage before, if any."""

    def __init__(self, shape: MaximShape, *, first: bool, last: bool) -> None:
        super().__init__()
        channels = [shape.width << level for level in range(LEVELS)]
        sides = [shape.side(level) for level in range(LEVELS)]
        both = list(zip(channels, sides, strict=True))
        self.inputs = nn.ModuleList(_conv3(3, c) for c in channels)
        self.fuse = nn.ModuleList() if first else nn.ModuleList(SignalGating(c, c, side) for c, side in both)
        self.encoders = nn.ModuleList()
        self.downs = nn.ModuleList()
        for level, (c, side) in enumerate(both):
            # At full resolution the image's features come twice, as themselves and as the level above would give.
            above = channels[max(level - 1, 0)]
            self.encoders.append(Level(above + c, c, side, shape.groups, cross=not first))
            self.downs.append(nn.Conv2d(c, c, 4, stride=2, padding=1))
        self.bottlenecks = nn.ModuleList(
            Bottleneck(channels[-1], shape.low_side, shape.groups) for _ in range(shape.bottlenecks)
        )
        self.skips = nn.ModuleList(Gather(channels, level) for level in range(LEVELS))
        self.gate_ups = nn.ModuleList(
            _up(channels[min(level + 1, LEVELS - 1)], channels[level]) for level in range(LEVELS)
        )
        self.gates = nn.ModuleList(CrossGating(LEVELS * c, c, side) for c, side in both)
        self.bridges = nn.ModuleList(Gather(channels, level, lowest_first=True) for level in range(LEVELS))
        self.ups = nn.ModuleList(_up(channels[min(level + 1, LEVELS - 1)], channels[level]) for level in range(LEVELS))
        self.decoders = nn.ModuleList(Level((1 + LEVELS) * c, c, side, shape.groups) for c, side in both)
        self.attention = nn.ModuleList() if last else nn.ModuleList(SupervisedAttention(c) for c in channels)

    def forward(self, images: Sequence[Tensor], carried: Carried | None) -> Carried:
        features = [conv(image) for conv, image in zip(self.inputs, images, strict=True)]
        if carried is not None:
            features = [fuse(x, y) for fuse, x, y in zip(self.fuse, features, carried.attended, strict=True)]
        encoded: list[Tensor] = []
        y = features[0]
        for level, (encoder, down) in enumerate(zip(self.encoders, self.downs, strict=True)):
            signal = None if carried is None else carried.encoded[level] + carried.decoded[level]
            encoded.append(encoder(torch.cat([y, features[level]], dim=1), signal))
            y = down(encoded[-1])
        for bottleneck in self.bottlenecks:
            y = bottleneck(y)
        lowest = y
        gated: dict[int, Tensor] = {}
        for level in reversed(range(LEVELS)):
            gated[level], y = self.gates[level](self.skips[level](encoded), self.gate_ups[level](y))
        skips = [gated[level] for level in range(LEVELS)]
        decoded: dict[int, Tensor] = {}
        y = lowest
        for level in reversed(range(LEVELS)):
            bridge = self.bridges[level](skips)
            y = decoded[level] = self.decoders[level](torch.cat([self.ups[level](y), bridge], dim=1), None)
        levels = [decoded[level] for level in range(LEVELS)]
        attended = [attend(x, image) for attend, x, image in zip(self.attention, levels, images, strict=False)]
        return Carried(encoded=encoded, decoded=levels, attended=attended)


class Level(nn.Module):
    """The blocks of one level. x: (b, in, h, w), signal: None or (b, out, h, w) -> (b, out, h, w)."""

    def __init__(self, in_channels: int, channels: int, side: int, groups: int, *, cross: bool = False) -> None:
        super().__init__()
        self.merge = nn.Conv2d(in_channels, channels, 1)
        self.blocks = nn.Sequential()
        for _ in range(groups):
            self.blocks.append(MultiAxisBlock(channels, side))
            self.blocks.append(ConvAttentionBlock(channels))
        self.cross = SignalGating(channels, channels, side) if cross else None

    def forward(self, x: Tensor, signal: Tensor | None) -> Tensor:
        y = self.merge(x)
        y = y + self.blocks(y)
        if self.cross is not None:
            y = self.cross(y, signal)
        out: Tensor = y
        return out


class Bottleneck(nn.Module):
    """The blocks of the lowest resolution. x: (b, c, h, w) -> the same."""

    def __init__(self, channels: int, side: int, groups: int) -> None:
        super().__init__()
        self.merge = nn.Conv2d(channels, channels, 1)
        self.blocks = nn.Sequential()
        for _ in range(groups):
            self.blocks.append(MultiAxisBlock(channels, side))
            self.blocks.append(MlpAttentionBlock(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.merge(x)
        out: Tensor = self.blocks(y) + y
        return out


class ConvAttentionBlock(nn.Module):
    """The residual channel attention block. x: (b, c, h, w) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = LayerNorm2d(channels)
        self.conv1 = _conv3(channels, channels)
        self.conv2 = _conv3(channels, channels)
        self.attention = ChannelAttention(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.leaky_relu(self.conv1(self.norm(x)), SLOPE))
        out: Tensor = x + self.attention(y)
        return out


class MlpAttentionBlock(nn.Module):
    """Its form at the lowest resolution, with a channel MLP for the convolutions. x: (b, c, h, w) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=LAYER_NORM_EPS)
        self.mlp1 = nn.Linear(channels, channels)
        self.mlp2 = nn.Linear(channels, channels)
        self.attention = ChannelAttention(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.mlp2(gelu(self.mlp1(self.norm(x.permute(0, 2, 3, 1)))))
        out: Tensor = x + self.attention(y.permute(0, 3, 1, 2))
        return out


class ChannelAttention(nn.Module):
    """Each channel scaled by what all of them are on average. x: (b, c, h, w) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = GlobalPool2d()
        self.squeeze = nn.Conv2d(channels, channels // REDUCTION, 1)
        self.excite = nn.Conv2d(channels // REDUCTION, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale(x)

    def scale(self, x: Tensor) -> Tensor:
        """What it scales the channels by, (b, c, 1, 1)."""
        return torch.sigmoid(self.excite(F.relu(self.squeeze(self.pool(x)))))


class SupervisedAttention(nn.Module):
    """Features weighted by the image that they give (Zamir et al., MPRNet, CVPR 2021).

    x: (b, c, h, w), image: (b, 3, h, w) -> (b, c, h, w).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.features = _conv3(channels, channels)
        self.image = _conv3(channels, 3)
        self.weights = _conv3(3, channels)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        restored = self.image(x) + image
        out: Tensor = x + self.features(x) * torch.sigmoid(self.weights(restored))
        return out


class Gather(nn.Module):
    """All levels at one level's size, each with its channels. features: by level -> (b, 3 * c, h, w)."""

    def __init__(self, channels: Sequence[int], level: int, *, lowest_first: bool = False) -> None:
        super().__init__()
        self.level = level
        self.lowest_first = lowest_first
        self.convs = nn.ModuleList(nn.Conv2d(c, channels[level], 1) for c in channels)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        parts = []
        for level, (conv, x) in enumerate(zip(self.convs, features, strict=True)):
            if level < self.level:
                parts.append(conv(shrink(x, 1 << (self.level - level))))
            elif level > self.level:
                # Both are linear and the weights of the interpolation sum to 1: the smaller map goes first.
                factor = float(1 << (level - self.level))
                parts.append(F.interpolate(conv(x), scale_factor=factor, mode="bilinear", align_corners=False))
            else:
                parts.append(conv(x))
        return torch.cat(parts[::-1] if self.lowest_first else parts, dim=1)


def shrink(x: Tensor, factor: int) -> Tensor:
    """Bilinear with antialiasing: a triangle of ``factor`` pixels to both sides, cut off at the border.

    x: (b, c, h, w) -> (b, c, h / factor, w / factor).
    """
    ramp = (torch.arange(factor, dtype=x.dtype, device=x.device) + 0.5) / factor
    kernel = torch.cat([ramp, ramp.flip(0)])
    for dim in (2, 3):
        shape = [1, 1, 1, 1]
        shape[dim] = 2 * factor
        stride = (factor, 1) if dim == 2 else (1, factor)
        padding = (factor // 2, 0) if dim == 2 else (0, factor // 2)
        weight = kernel.view(shape).expand(x.shape[1], 1, *shape[2:])
        size = [1, 1, 1, 1]
        size[dim] = x.shape[dim]
        # Outside of the image there is nothing: at the border the rest of the triangle weighs as much as a whole one.
        total = F.conv2d(x.new_ones(size), kernel.view(shape), stride=stride, padding=padding)
        x = F.conv2d(x, weight, stride=stride, padding=padding, groups=x.shape[1]) / total
    return x


def _conv3(in_channels: int, channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, 3, padding=1)


def _up(in_channels: int, channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(in_channels, channels, 2, stride=2)
