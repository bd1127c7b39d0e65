"""How MAXIM mixes pixels: gated MLPs and cross gating, along the axis of a grid and along that of blocks.

A grid mixes the pixels at the same place of its cells, which reach across the whole image; a block mixes neighbors.
All take and give (b, c, h, w); inside, they compute on (b, tokens, rest, c), so that a mixing over tokens is one large
matrix product for all blocks or all cells. In channels_last memory the change costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netgraft.nets.nafnet import LAYER_NORM_EPS

Axis = Literal["grid", "block"]


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


def along(x: Tensor, side: int, axis: Axis, mixing: Callable[[Tensor], Tensor]) -> Tensor:
    """``mixing`` applied to all pixels that belong together, as tokens. x: (b, h, w, c) -> the same.

    ``grid`` mixes the pixels at the same place of side x side cells of the image, ``block`` those of a block of
    side x side. mixing: (b, side * side, rest, c) -> the same; it treats what stands along ``rest`` alike.
    """
    places = _places(x, side, axis)
    b, rows, _, _, columns, c = places.shape
    if only_runs():
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
    if not only_runs():
        return F.gelu(x, approximate="tanh")
    # The same in passes that vectorize: PyTorch's own takes two to three times as long on a processor.
    scale = 2 * math.sqrt(2 / math.pi)
    return torch.addcmul(x.new_full((), scale), x, x, value=0.044715 * scale).mul_(x).sigmoid_().mul_(x)


def only_runs() -> bool:
    """Whether neither gradients nor a graph is wanted, so that the faster of two equal forms may be taken."""
    return not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _to_half(layer: nn.Linear, x: Tensor, half: int) -> Tensor:
    """The first or second half of the channels that ``layer`` gives."""
    return F.linear(x, layer.weight.chunk(2)[half], layer.bias.chunk(2)[half])


def _from_half(layer: nn.Linear, x: Tensor, half: int) -> Tensor:
    """What ``layer`` gives for the first or second half of its channels; the two add up, with one bias."""
    return F.linear(x, layer.weight.chunk(2, dim=1)[half], layer.bias if half == 0 else None)
