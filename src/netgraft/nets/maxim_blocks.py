"""What stands in place of MAXIM's blocks and starts from their weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netgraft.nets.blocks import StaticAttention
from netgraft.nets.maxim import SLOPE, ChannelAttention, ConvAttentionBlock
from netgraft.nets.maxim_axes import Axis, AxisGate, MultiAxisBlock, MutualGating, along, gelu
from netgraft.nets.sited import AddedInputs, Fitted


class OneAxisBlock(nn.Module):
    """A multi-axis block of which one branch is left. x: (b, c, h, w), sides that ``side`` divides -> the same."""

    def __init__(self, block: MultiAxisBlock, axis: Axis) -> None:
        super().__init__()
        self.axis = axis
        self.side = block.side
        self.norm = copy.deepcopy(block.norm)
        self.gated = copy.deepcopy(block.grid if axis == "grid" else block.block)
        self.project_in, self.project_out = _halves(block.project_in, block.project_out, axis)

    def forward(self, x: Tensor) -> Tensor:
        def branch(tokens: Tensor) -> Tensor:
            y: Tensor = self.project_out(self.gated(gelu(self.project_in(self.norm(tokens)))))
            return y

        return x + along(x.permute(0, 2, 3, 1), self.side, self.axis, branch).permute(0, 3, 1, 2)


class OneAxisGate(nn.Module):
    """A gate of cross gating that mixes along one axis. x: (b, c, h, w) -> value and gate, both (b, h, w, c)."""

    def __init__(self, gate: AxisGate, axis: Axis) -> None:
        super().__init__()
        self.axis = axis
        self.side = gate.side
        self.norm, self.project = copy.deepcopy(gate.norm), copy.deepcopy(gate.project)
        self.gate_norm = copy.deepcopy(gate.gate_norm)
        self.mix = copy.deepcopy(gate.mix_grid if axis == "grid" else gate.mix_block)
        self.project_in, self.project_out = _halves(gate.project_in, gate.project_out, axis)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        def branch(tokens: Tensor) -> Tensor:
            y: Tensor = self.project_out(self.mix(gelu(self.project_in(self.gate_norm(tokens)))))
            return y

        value = gelu(self.project(self.norm(x.permute(0, 2, 3, 1))))
        return value, along(value, self.side, self.axis, branch)


def one_axis_gating(block: MutualGating, axis: Axis) -> MutualGating:
    """Cross gating of which either signal mixes along one axis."""
    module = copy.deepcopy(block)
    for name in ("x_gate", "y_gate"):
        gate = block.get_submodule(name)
        assert isinstance(gate, AxisGate)
        module.register_module(name, OneAxisGate(gate, axis))
    return module


class AddedSignals(Fitted):
    """Two signals side by side, each of them a sum of both, scaled by channel. both: (b, 2 c, h, w) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.x, self.y = AddedInputs([channels, channels]), AddedInputs([channels, channels])

    def fit(self, inputs: Sequence[Tensor], y: Tensor) -> None:
        """Least squares by channel."""
        signals = inputs[0].chunk(2, dim=1)
        for added, target in zip((self.x, self.y), y.chunk(2, dim=1), strict=True):
            added.fit(signals, target)

    def forward(self, both: Tensor) -> Tensor:
        signals = both.chunk(2, dim=1)
        return torch.cat([self.x(*signals), self.y(*signals)], dim=1)


class FrozenAttentionBlock(nn.Module):
    """A residual channel attention block whose attention is frozen to its mean over the calibration images.

    x: (b, c, h, w) -> the same.
    """

    def __init__(self, block: ConvAttentionBlock) -> None:
        super().__init__()
        self.norm = copy.deepcopy(block.norm)
        self.conv1 = copy.deepcopy(block.conv1)
        self.conv2 = copy.deepcopy(block.conv2)
        self.attention: nn.Module = StaticAttention(_Scale(block.attention), block.conv2.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.leaky_relu(self.conv1(self.norm(x)), SLOPE))
        out: Tensor = x + y * self.attention(y)
        return out

    @torch.no_grad()
    def deploy(self) -> nn.Module:
        return _FoldedAttentionBlock(self)


class _FoldedAttentionBlock(nn.Module):
    """The same for inference: the attention's constants are in the second convolution."""

    def __init__(self, block: FrozenAttentionBlock) -> None:
        super().__init__()
        assert isinstance(block.attention, StaticAttention)
        assert block.conv2.bias is not None
        scale = block.attention.scale.flatten()
        self.norm, self.conv1 = copy.deepcopy(block.norm), copy.deepcopy(block.conv1)
        self.conv2 = copy.deepcopy(block.conv2)
        self.conv2.weight = nn.Parameter(block.conv2.weight * scale[:, None, None, None])
        self.conv2.bias = nn.Parameter(block.conv2.bias * scale)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv2(F.leaky_relu(self.conv1(self.norm(x)), SLOPE))
        return out


class _Scale(nn.Module):
    """What a channel attention scales its input by. x: (b, c, h, w) -> (b, c, 1, 1)."""

    def __init__(self, attention: ChannelAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        return self.attention.scale(x)


def _halves(project_in: nn.Linear, project_out: nn.Linear, axis: Axis) -> tuple[nn.Linear, nn.Linear]:
    """What one axis has of two layers between which channels are halved, the first half for the grid."""
    half = 0 if axis == "grid" else 1
    enter = _linear(project_in.weight.chunk(2)[half], project_in.bias.chunk(2)[half])
    return enter, _linear(project_out.weight.chunk(2, dim=1)[half], project_out.bias)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = nn.Parameter(weight.detach().clone()), nn.Parameter(bias.detach().clone())
    return layer
