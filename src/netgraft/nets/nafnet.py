"""NAFNet (Chen et al., "Simple Baselines for Image Restoration", ECCV 2022), and its local-statistics variant.

Module and weight names are those of the official checkpoints, so that their state dicts load as they are. The
local variant (TLC: Chu et al., "Improving Image Restoration by Revisiting Global Information Aggregation", ECCV
2022) replaces the global pooling of the channel attention by a sliding window of the size seen in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYER_NORM_EPS = 1e-6
TLC_WINDOW = 1.5
"""Window of the local statistics over the training size; the factor that the official NAFNet uses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NafNetShape:
    """The hyper-parameters of a NAFNet."""

    width: int
    """Channels at full resolution; they double at each level."""
    encoder_blocks: tuple[int, ...]
    """Blocks per encoder level, from full resolution down."""
    middle_blocks: int
    """Blocks at the lowest resolution."""
    decoder_blocks: tuple[int, ...]
    """Blocks per decoder level, from the lowest resolution up."""
    image_channels: int = 3
    """Channels of the image."""


class LayerNorm2d(nn.Module):
    """Layer normalization over the channels of each pixel. x: (b, c, h, w) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        # In channels_last memory both permutes are free and the fused kernel runs over contiguous channels.
        nhwc = x.permute(0, 2, 3, 1)
        y = F.layer_norm(nhwc, self.weight.shape, self.weight, self.bias, LAYER_NORM_EPS)
        return y.permute(0, 3, 1, 2)


class SimpleGate(nn.Module):
    """Product of the two halves of the channels. x: (b, 2c, h, w) -> (b, c, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=1)
        return first * second


class GlobalPool2d(nn.Module):
    """Mean over the whole map. x: (b, c, h, w) -> (b, c, 1, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3), keepdim=True)


class LocalPool2d(nn.Module):
    """Mean over a window around each pixel, replicated outwards where the window leaves the map.

    A window that covers the map gives (b, c, 1, 1), the global mean; otherwise x: (b, c, h, w) -> the same.
    """

    def __init__(self, window: tuple[int, int]) -> None:
        super().__init__()
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        if self.window[0] >= h and self.window[1] >= w:
            return x.mean(dim=(2, 3), keepdim=True)
        window_h, window_w = min(h, self.window[0]), min(w, self.window[1])
        # Two running sums instead of one pooling over a huge window: the cost does not depend on its size.
        pooled = _window_mean(_window_mean(x, window_h, dim=2), window_w, dim=3)
        pad_h, pad_w = h - pooled.shape[2], w - pooled.shape[3]
        return F.pad(pooled, (pad_w // 2, pad_w - pad_w // 2, pad_h // 2, pad_h - pad_h // 2), mode="replicate")


def _window_mean(x: Tensor, window: int, dim: int) -> Tensor:
    """Mean over every full window along one axis; the axis becomes size - window + 1 long."""
    total = F.pad(x.cumsum(dim), (0, 0, 1, 0) if dim == 2 else (1, 0))
    size = x.shape[dim]
    return (total.narrow(dim, window, size - window + 1) - total.narrow(dim, 0, size - window + 1)) / window


class NafBlock(nn.Module):
    """The nonlinear-activation-free block: gated depthwise convolution with channel attention, then a gated MLP.

    x: (b, c, h, w) -> the same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.norm1 = LayerNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, wide, 1)
        self.conv2 = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.sg = SimpleGate()
        self.sca = nn.Sequential(GlobalPool2d(), nn.Conv2d(channels, channels, 1))
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.norm2 = LayerNorm2d(channels)
        self.conv4 = nn.Conv2d(channels, wide, 1)
        self.conv5 = nn.Conv2d(channels, channels, 1)
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        gated = self.sg(self.conv2(self.conv1(self.norm1(x))))
        y = x + self.conv3(gated * self.sca(gated)) * self.beta
        out: Tensor = y + self.conv5(self.sg(self.conv4(self.norm2(y)))) * self.gamma
        return out


class NafNet(nn.Module):
    """A U-Net of NAF blocks that predicts the residual to a clean image.

    x: (b, c, h, w), RGB in [0, 1] -> the same. Any size: the input is padded to :attr:`size_multiple`.
    """

    def __init__(self, shape: NafNetShape) -> None:
        super().__init__()
        self.shape = shape
        channels = shape.width
        self.intro = nn.Conv2d(shape.image_channels, channels, 3, padding=1)
        self.encoders = nn.ModuleList()
        self.downs = nn.ModuleList()
        for count in shape.encoder_blocks:
            self.encoders.append(_stage(channels, count))
            self.downs.append(nn.Conv2d(channels, 2 * channels, 2, stride=2))
            channels *= 2
        self.middle_blks = _stage(channels, shape.middle_blocks)
        self.ups = nn.ModuleList()
        self.decoders = nn.ModuleList()
        for count in shape.decoder_blocks:
            self.ups.append(nn.Sequential(nn.Conv2d(channels, 2 * channels, 1, bias=False), nn.PixelShuffle(2)))
            channels //= 2
            self.decoders.append(_stage(channels, count))
        self.ending = nn.Conv2d(channels, shape.image_channels, 3, padding=1)

    @property
    def size_multiple(self) -> int:
        """Both sides of a feature map stay whole numbers when the image's sides are multiples of this."""
        # A block that halves the resolution on its own needs even maps, which only the lowest level may lack.
        own = max((getattr(block, "size_multiple", 1) for block in self.middle_blks), default=1)
        return int(own) << len(self.downs)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        pad_h, pad_w = -h % self.size_multiple, -w % self.size_multiple
        padded = F.pad(x, (0, pad_w, 0, pad_h)) if pad_h or pad_w else x
        y = self.intro(padded)
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            y = encoder(y)
            skips.append(y)
            y = down(y)
        y = self.middle_blks(y)
        for decoder, up, skip in zip(self.decoders, self.ups, reversed(skips), strict=True):
            y = decoder(up(y) + skip)
        restored: Tensor = self.ending(y) + padded
        return restored[..., :h, :w] if pad_h or pad_w else restored


def _stage(channels: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(*(NafBlock(channels) for _ in range(blocks)))


def start_residuals(module: nn.Module, scale: float) -> None:
    """Set every block's beta and gamma to ``scale``, in place.

    The usual start at zero leaves a deep stage idle for thousands of steps; a small number lets it learn at once.
    """
    for block in module.modules():
        if isinstance(block, NafBlock):
            nn.init.constant_(block.beta, scale)
            nn.init.constant_(block.gamma, scale)


def localize(net: NafNet, train_size: Sequence[int]) -> None:
    """Replace global by local statistics, in place: the network then sees what it saw in training, on any image.

    train_size: (h, w) in pixels of the training crops.
    """
    for path, pool in _pools_with_stride(net):
        attention = net.get_submodule(path.rpartition(".")[0])
        assert isinstance(attention, nn.Sequential)
        window = tuple(size // pool * int(size * TLC_WINDOW) // size if size >= pool else 1 for size in train_size)
        attention[0] = LocalPool2d((window[0], window[1]))


def _pools_with_stride(net: NafNet) -> list[tuple[str, int]]:
    """Module path of every attention's pooling, with the stride of the level that it stands in."""
    found = []
    deepest = len(net.downs)
    for path, module in net.named_modules():
        if not isinstance(module, GlobalPool2d | LocalPool2d):
            continue
        group, level = path.split(".")[:2]
        if group == "encoders":
            power = int(level)
        elif group == "decoders":
            power = deepest - 1 - int(level)
        else:
            power = deepest
        found.append((path, 1 << power))
    return found
