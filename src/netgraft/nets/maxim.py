"""MAXIM (Tu et al., "MAXIM: Multi-Axis MLP for Image Processing", CVPR 2022): stages of U-Nets of gated MLPs.

Each stage is a U-Net of three levels. Its blocks mix pixels along two axes at once: half of the channels over a grid
of cells, one pixel from each, which reaches across the whole image; half within blocks of neighboring pixels. Levels
exchange features by cross gating, and a stage hands features to the next through supervised attention.

Blocks take and give (b, c, h, w); inside, they compute on (b, tokens, rest, c), so that a mixing over tokens is one
large matrix product for all blocks or all cells of the image. In channels_last memory the change costs nothing.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netgraft.errors import ConfigError
from netgraft.nets.nafnet import LAYER_NORM_EPS, GlobalPool2d, LayerNorm2d

LEVELS = 3
"""Resolutions of a stage; the channels double from one to the next."""
HIGH_LEVELS = 2
"""Levels, from full resolution down, that mix over the larger number of tokens."""
REDUCTION = 4
"""Channels over those inside channel attention."""
SLOPE = 0.2
"""Of the leaky ReLU."""

Axis = Literal["grid", "block"]


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
        if _only_runs():
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


class MultiAxisBlock(nn.Module):
    """The multi-axis gated MLP block: half of the channels mix over the grid, half within blocks.

    x: (b, c, h, w), sides that ``side`` divides -> the same.
    """

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.norm = nn.LayerNorm(channels, eps=LAYER_NORM_EPS)
        self.project_in = nn.Linear(channels, 2 * channels)
        self.grid = GatedMlp(channels, side)
        self.block = GatedMlp(channels, side)
        self.project_out = nn.Linear(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        nhwc = x.permute(0, 2, 3, 1)
        # Halves of channels that meet again in a linear layer: a sum of two branches.
        grid = along(nhwc, self.side, "grid", lambda tokens: self._branch(tokens, self.grid, 0))
        block = along(nhwc, self.side, "block", lambda tokens: self._branch(tokens, self.block, 1))
        return x + (grid + block).permute(0, 3, 1, 2)

    def _branch(self, tokens: Tensor, gated: nn.Module, half: int) -> Tensor:
        value = gated(gelu(_to_half(self.project_in, self.norm(tokens), half)))
        return _from_half(self.project_out, value, half)


class GatedMlp(nn.Module):
    """A gated MLP along one axis (Liu et al., "Pay Attention to MLPs", NeurIPS 2021). tokens: (b, n, rest, c)."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=LAYER_NORM_EPS)
        self.project_in = nn.Linear(channels, 2 * channels)
        self.gate_norm = nn.LayerNorm(channels, eps=LAYER_NORM_EPS)
        self.mix = TokenMixing(side * side)
        self.project_out = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        normed = self.norm(tokens)
        value, gate = (gelu(_to_half(self.project_in, normed, half)) for half in (0, 1))
        out: Tensor = tokens + self.project_out(value * self.mix(self.gate_norm(gate), shift=1.0))
        return out


class TokenMixing(nn.Linear):
    """A linear layer over tokens. x: (b, n, rest, c) -> the same, plus ``shift``."""

    def __init__(self, tokens: int) -> None:
        super().__init__(tokens, tokens)

    def forward(self, x: Tensor, shift: float = 0.0) -> Tensor:
        # One product for everything that is mixed alike, without a transposition before or after.
        columns = x.flatten(2)
        weight = self.weight.expand(columns.shape[0], -1, -1)
        return torch.baddbmm((self.bias + shift)[:, None], weight, columns).view_as(x)


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


class CrossGating(nn.Module):
    """Two signals that gate each other. x: (b, in, h, w), y: (b, c, h, w) -> both (b, c, h, w)."""

    def __init__(self, in_channels: int, channels: int, side: int) -> None:
        super().__init__()
        self.x_in = nn.Conv2d(in_channels, channels, 1)
        self.y_in = nn.Conv2d(channels, channels, 1)
        self.gating = MutualGating(channels, side)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        # Side by side in one tensor, so that another block can stand here.
        gated_x, gated_y = self.gating(torch.cat([self.x_in(x), self.y_in(y)], dim=1)).chunk(2, dim=1)
        return gated_x, gated_y


class MutualGating(nn.Module):
    """The gating itself, of two signals side by side. both: (b, 2 c, h, w) -> the same."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.x_gate: nn.Module = AxisGate(channels, side)
        self.y_gate: nn.Module = AxisGate(channels, side)
        self.x_out = nn.Linear(channels, channels)
        self.y_out = nn.Linear(channels, channels)

    def forward(self, both: Tensor) -> Tensor:
        return torch.cat(self.gated(*both.chunk(2, dim=1)), dim=1)

    def gated(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Each signal, (b, c, h, w), gated by the other; the first has the second added."""
        x_value, x_gate = self.x_gate(x)
        y_value, y_gate = self.y_gate(y)
        gated_y = y + self.y_out(y_value * x_gate).permute(0, 3, 1, 2)
        gated_x = x + self.x_out(x_value * y_gate).permute(0, 3, 1, 2) + gated_y
        return gated_x, gated_y


class SignalGating(MutualGating):
    """Cross gating of which the first signal alone goes on. x: (b, in, h, w), y: (b, c, h, w) -> (b, c, h, w)."""

    def __init__(self, in_channels: int, channels: int, side: int) -> None:
        super().__init__(channels, side)
        self.x_in = nn.Conv2d(in_channels, channels, 1)
        self.y_in = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return self.gated(self.x_in(x), self.y_in(y))[0]


class AxisGate(nn.Module):
    """What a signal offers to be gated, and what it gates the other with. x: (b, c, h, w) -> both (b, h, w, c)."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.norm = nn.LayerNorm(channels, eps=LAYER_NORM_EPS)
        self.project = nn.Linear(channels, channels)
        self.gate_norm = nn.LayerNorm(channels, eps=LAYER_NORM_EPS)
        self.project_in = nn.Linear(channels, 2 * channels)
        self.mix_grid = TokenMixing(side * side)
        self.mix_block = TokenMixing(side * side)
        self.project_out = nn.Linear(2 * channels, channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value = gelu(self.project(self.norm(x.permute(0, 2, 3, 1))))
        grid = along(value, self.side, "grid", lambda tokens: self._branch(tokens, self.mix_grid, 0))
        block = along(value, self.side, "block", lambda tokens: self._branch(tokens, self.mix_block, 1))
        return value, grid + block

    def _branch(self, tokens: Tensor, mix: nn.Module, half: int) -> Tensor:
        mixed = mix(gelu(_to_half(self.project_in, self.gate_norm(tokens), half)))
        return _from_half(self.project_out, mixed, half)


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


def along(x: Tensor, side: int, axis: Axis, mixing: Callable[[Tensor], Tensor]) -> Tensor:
    """``mixing`` applied to all pixels that belong together, as tokens. x: (b, h, w, c) -> the same.

    ``grid`` mixes the pixels at the same place of side x side cells of the image, ``block`` those of a block of
    side x side. mixing: (b, side * side, rest, c) -> the same; it treats what stands along ``rest`` alike.
    """
    places = _places(x, side, axis)
    b, rows, _, _, columns, c = places.shape
    if _only_runs():
        # A row at a time stays in the cache, and goes from the image and back without further copies.
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        target = _places(out, side, axis)
        for row in range(rows):
            mixed = mixing(places[:, row].reshape(b, side * side, columns, c))
            target[:, row] = mixed.view(b, side, side, columns, c)
        return out
    tokens = places.permute(0, 2, 3, 1, 4, 5).reshape(b, side * side, rows * columns, c)
    mixed = mixing(tokens).reshape(b, side, side, rows, columns, c)
    order = (0, 1, 3, 2, 4, 5) if axis == "grid" else (0, 3, 1, 4, 2, 5)
    return mixed.permute(order).reshape(x.shape)


def _places(x: Tensor, side: int, axis: Axis) -> Tensor:
    """A view of x, (b, h, w, c), as (b, rows, side, side, columns, c); the two sides are what is mixed."""
    b, h, w, c = x.shape
    if axis == "grid":
        return x.reshape(b, side, h // side, side, w // side, c).transpose(1, 2)
    return x.reshape(b, h // side, side, w // side, side, c).transpose(3, 4)


def gelu(x: Tensor) -> Tensor:
    """The approximation by tanh, in which these networks were trained."""
    if not _only_runs():
        return F.gelu(x, approximate="tanh")
    # The same in passes that vectorize: PyTorch's own takes two to three times as long on a processor.
    scale = 2 * math.sqrt(2 / math.pi)
    return torch.addcmul(x.new_full((), scale), x, x, value=0.044715 * scale).mul_(x).sigmoid_().mul_(x)


def _only_runs() -> bool:
    """Whether neither gradients nor a graph is wanted, so that the faster of two equal forms may be taken."""
    return not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _to_half(layer: nn.Linear, x: Tensor, half: int) -> Tensor:
    """The first or second half of the channels that ``layer`` gives."""
    return F.linear(x, layer.weight.chunk(2)[half], layer.bias.chunk(2)[half])


def _from_half(layer: nn.Linear, x: Tensor, half: int) -> Tensor:
    """What ``layer`` gives for the first or second half of its channels; the two add up, with one bias."""
    return F.linear(x, layer.weight.chunk(2, dim=1)[half], layer.bias if half == 0 else None)


def _conv3(in_channels: int, channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, 3, padding=1)


def _up(in_channels: int, channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(in_channels, channels, 2, stride=2)
