"""A network as a user might bring it: skips, PixelShuffle, chunk, blocks of several inputs, layers in plain rows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Gated(nn.Module):
    """A block that splits its channels, of which there are several alike."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spread = nn.Conv2d(channels, 2 * channels, 3, padding=1)
        self.gather = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.spread(x).chunk(2, dim=1)
        out: Tensor = x + self.gather(first * torch.sigmoid(second))
        return out


class Merge(nn.Module):
    """A block of two inputs: what comes up, and the skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(2 * channels, channels, 3, padding=1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        out: Tensor = x + self.mix(torch.cat([x, skip], dim=1))
        return out


class Mean(nn.Module):
    """What it gives has one size for all images."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.squeeze(F.adaptive_avg_pool2d(x, 4))
        return out


class Twice(nn.Module):
    """Runs one convolution two times."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shared = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.shared(F.relu(self.shared(x)))
        return out


class Restorer(nn.Module):
    """Two levels. x: (b, 3, h, w), even sides -> the same."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.intro = nn.Conv2d(3, channels, 3, padding=1)
        self.upper = nn.Sequential(Gated(channels), Gated(channels))
        self.down = nn.Conv2d(channels, 2 * channels, 2, stride=2)
        self.lower = nn.ModuleList(Gated(2 * channels) for _ in range(3))
        self.context = Mean(2 * channels)
        self.up = nn.Sequential(nn.Conv2d(2 * channels, 4 * channels, 1, bias=False), nn.PixelShuffle(2))
        self.merge = Merge(channels)
        self.tail = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True))
        self.twice = Twice(channels)
        self.ending = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.upper(self.intro(x))
        y = self.down(skip)
        for block in self.lower:
            y = block(y)
        y = y * torch.sigmoid(self.context(y).mean((2, 3), keepdim=True))
        y = self.twice(self.tail(self.merge(self.up(y), skip)))
        restored: Tensor = x + 0.1 * self.ending(y)
        return restored


def restorer() -> nn.Module:
    """The factory."""
    torch.manual_seed(0)
    return Restorer()


def number() -> int:
    """Makes no network."""
    return 3


def failing() -> nn.Module:
    """Makes nothing."""
    raise RuntimeError("no weights here")


def shrinking() -> nn.Module:
    """Makes a network that gives a smaller image."""
    return nn.Conv2d(3, 3, 3)


def of_one_channel() -> nn.Module:
    """Makes a network that takes no RGB image."""
    return nn.Conv2d(1, 1, 3, padding=1)
