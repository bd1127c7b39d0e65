"""What a block is at its site: with how many inputs it is called, and whether it is fitted to what passes there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Fitted(nn.Module):
    """A block without a training: what it holds is fitted in closed form."""

    def fit(self, inputs: Sequence[Tensor], y: Tensor) -> None:
        """Fit what it gives for ``inputs``, (b, c, h, w) each, to ``y``, in place."""
        raise NotImplementedError


class AddedInputs(Fitted):
    """The sum of all inputs, each scaled by channel, and an offset. inputs: (b, c, h, w) each -> the same.

    Inputs of other channels than the first are left out.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.read = [number for number, count in enumerate(channels) if count == channels[0]]
        self.scales = nn.Parameter(torch.ones(len(self.read), channels[0], 1, 1))
        self.offset = nn.Parameter(torch.zeros(1, channels[0], 1, 1))

    @torch.no_grad()
    def fit(self, inputs: Sequence[Tensor], y: Tensor) -> None:
        """Least squares by channel."""
        # (c, n, inputs) and (c, n, 1), around their means.
        x = torch.stack([inputs[number].movedim(1, 0).flatten(1) for number in self.read], dim=2).double()
        target = y.movedim(1, 0).flatten(1).double()[..., None]
        x_mean, target_mean = x.mean(1, keepdim=True), target.mean(1, keepdim=True)
        x, target = x - x_mean, target - target_mean
        covariance = x.mT @ x
        idle = 1e-6 * covariance.diagonal(dim1=1, dim2=2).mean(1) + 1e-12
        scales = torch.linalg.solve(covariance + torch.diag_embed(idle[:, None].expand(-1, x.shape[2])), x.mT @ target)
        self.scales.copy_(scales[..., 0].T[..., None, None])
        self.offset.copy_((target_mean - x_mean @ scales).view(1, -1, 1, 1))

    def forward(self, *inputs: Tensor) -> Tensor:
        y: Tensor = self.offset
        for number, scale in zip(self.read, self.scales, strict=True):
            y = y + inputs[number] * scale
        return y


class JoinedInputs(Fitted):
    """All inputs side by side, and a 1x1 convolution. inputs: (b, channels of each, h, w) -> (b, out, h, w)."""

    def __init__(self, channels: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(sum(channels), out_channels, 1)

    def fit(self, inputs: Sequence[Tensor], y: Tensor) -> None:
        """Least squares."""
        fit_pointwise(self.conv, torch.cat(list(inputs), dim=1), y)

    def forward(self, *inputs: Tensor) -> Tensor:
        y: Tensor = self.conv(torch.cat(inputs, dim=1))
        return y


class FirstInput(nn.Module):
    """A block that reads the first of its inputs alone. x: (b, c, h, w), and others -> what ``block`` gives for x."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, *_: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return y


class Joined(nn.Module):
    """A block of several inputs, all in one tensor. x: (b, sum of channels, h, w) -> what ``block`` gives.

    channels: of each input.
    """

    INNER = "block"
    """What its weights' names begin with."""

    def __init__(self, block: nn.Module, channels: Sequence[int]) -> None:
        super().__init__()
        self.block = block
        self.channels = tuple(channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(*torch.split(x, list(self.channels), dim=1))
        return y


@torch.no_grad()
def fit_pointwise(conv: nn.Conv2d, x: Tensor, y: Tensor, *, ridge: float = 1e-4) -> None:
    """Fit a 1x1 convolution, in place, by least squares, so that x (b, c, h, w) becomes y (b, out, h, w).

    ridge: what is added to the diagonal of the inputs' covariance, as a share of its mean: channels may be idle.
    """
    assert conv.bias is not None
    inputs, targets = (t.movedim(1, -1).flatten(0, -2).double() for t in (x, y))
    mean_in, mean_out = inputs.mean(0), targets.mean(0)
    inputs, targets = inputs - mean_in, targets - mean_out
    covariance = inputs.T @ inputs
    covariance.diagonal().add_(ridge * covariance.diagonal().mean() + 1e-12)
    weight = torch.linalg.solve(covariance, inputs.T @ targets).T
    conv.weight.copy_(weight[:, :, None, None])
    conv.bias.copy_(mean_out - weight @ mean_in)
