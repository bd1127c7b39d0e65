"""What stands in place of MAXIM's blocks and starts from their weights."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netgraft.nets.blocks import StaticAttention
from netgraft.nets.maxim import SLOPE, Axis, ChannelAttention, ConvAttentionBlock, MultiAxisBlock, along, gelu


class OneAxisBlock(nn.Module):
    """A multi-axis block of which one branch is left. x: (b, c, h, w), sides that ``side`` divides -> the same."""

    def __init__(self, block: MultiAxisBlock, axis: Axis) -> None:
        super().__init__()
        half = 0 if axis == "grid" else 1
        self.axis = axis
        self.side = block.side
        self.norm = copy.deepcopy(block.norm)
        self.project_in = _linear(block.project_in.weight.chunk(2)[half], block.project_in.bias.chunk(2)[half])
        self.gated = copy.deepcopy(block.grid if axis == "grid" else block.block)
        self.project_out = _linear(block.project_out.weight.chunk(2, dim=1)[half], block.project_out.bias)

    def forward(self, x: Tensor) -> Tensor:
        def branch(tokens: Tensor) -> Tensor:
            y: Tensor = self.project_out(self.gated(gelu(self.project_in(self.norm(tokens)))))
            return y

        return x + along(x.permute(0, 2, 3, 1), self.side, self.axis, branch).permute(0, 3, 1, 2)


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


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = nn.Parameter(weight.detach().clone()), nn.Parameter(bias.detach().clone())
    return layer
