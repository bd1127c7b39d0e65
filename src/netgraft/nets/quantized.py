"""Blocks and networks that compute as 8-bit runtimes do, in floating point and with gradients.

Weights are signed and symmetric with a scale per output channel; the inputs of convolutions are unsigned with one scale
and zero point a tensor, from the smallest and largest value that calibration brought: what ONNX Runtime's and NNCF's
quantizers do with convolutions. Gradients pass through the rounding as if it were not there (the straight-through
estimator of Bengio et al., arXiv 1308.3432), so that a network learns to live with it (Jacob et al., arXiv 1712.05877).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from netgraft.nets.blocks import Calibrated, StaticNorm, deploy

LEVELS, LARGEST = 255, 127
"""Of unsigned activations, and of signed weights."""
SMALLEST_SCALE = 1e-8
CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


class Rounding(nn.Module):
    """Activations in 8 bits, in the range that :func:`observe` saw. x: any shape -> the same."""

    low: Tensor
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.observing = False
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.observing:
            # Zero must be a level, since convolutions pad with it.
            low, high = torch.aminmax(x.detach().float())
            self.low.copy_(torch.minimum(self.low, low))
            self.high.copy_(torch.maximum(self.high, high))
        scale = ((self.high - self.low) / LEVELS).clamp_min(SMALLEST_SCALE)
        zero = (-self.low / scale).round().to(torch.int32)
        return torch.fake_quantize_per_tensor_affine(x.float(), scale, zero, 0, LEVELS)


class QuantizedConv(nn.Module):
    """A convolution, plain or transposed, whose weights and inputs are rounded. x: (b, c, h, w) -> as it gives."""

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
        super().__init__()
        self.rounding = Rounding()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        y = torch.func.functional_call(self.conv, {"weight": self._weight()}, (self.rounding(x),))
        assert isinstance(y, Tensor), "it is a convolution"
        return y

    def _weight(self) -> Tensor:
        weight = self.conv.weight.float()
        # Output channels are the second dimension of a transposed convolution's weights.
        axis = 1 if isinstance(self.conv, nn.ConvTranspose2d) else 0
        others = [dim for dim in range(weight.ndim) if dim != axis]
        scale = (weight.detach().abs().amax(others) / LARGEST).clamp_min(SMALLEST_SCALE)
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, axis, -LARGEST, LARGEST)


class QuantizedBlock(Calibrated):
    """A block in 8 bits. x: (b, c, h, w) -> what the block gives, (b, c', h', w').

    Its input is rounded as a whole, since a residual takes it as well as a convolution.
    block: in training form; its deployed form is what is rounded, since folding changes weights and ranges. While
    ``calibrating`` is set, a pass takes the deployed form, and the ranges of its inputs, anew from ``block``, which may
    be calibrated in the same pass.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block.requires_grad_(False)
        self.rounded = _rounded(block)

    def forward(self, x: Tensor) -> Tensor:
        if self.calibrating:
            if any(part.calibrating for part in self.block.modules() if isinstance(part, Calibrated)):
                self.block(x)
            self.rounded.load_state_dict(_rounded(self.block).state_dict())
            return observe(self.rounded, x)
        y: Tensor = self.rounded(x)
        return y

    def deploy(self) -> nn.Module:
        """The deployed block with its rounding; :func:`unquantized` takes that away, for runtimes that do it."""
        return copy.deepcopy(self.rounded)


FOLLOWING: tuple[type[Calibrated], ...] = (StaticNorm, QuantizedBlock)
"""What is calibrated anew in every student, on what the blocks before it really give; other constants are learned."""


def _rounded(block: nn.Module) -> nn.Sequential:
    return nn.Sequential(Rounding(), quantized(deploy(block)))


def shipped(module: nn.Module) -> nn.Module:
    """A copy of ``module``, deployed and without rounding: what is exported, for runtimes that round themselves."""
    return unquantized(deploy(module))


def has_rounding(module: nn.Module) -> bool:
    """Whether a part of ``module`` rounds."""
    return any(isinstance(part, Rounding) for part in module.modules())


def quantized_network(module: nn.Module, images: Tensor) -> nn.Module:
    """A copy of a network, deployed, with all of its convolutions in 8 bits; their ranges are those of ``images``
    (n, 3, h, w). It can be trained: :func:`shipped` then gives the weights that have learned to be rounded."""
    network = quantized(deploy(module))
    observe(network, images)
    return network


def quantized(module: nn.Module) -> nn.Module:
    """``module``, changed in place, with all of its convolutions in 8 bits."""
    if isinstance(module, CONVOLUTIONS):
        return QuantizedConv(module)
    for name, child in module.named_children():
        if not isinstance(child, QuantizedConv):
            setattr(module, name, quantized(child))
    return module


def unquantized(module: nn.Module) -> nn.Module:
    """``module``, changed in place, without any rounding."""
    if isinstance(module, QuantizedConv):
        return module.conv
    if isinstance(module, nn.Sequential) and len(module) == 2 and isinstance(module[0], Rounding):
        return unquantized(module[1])
    for name, child in module.named_children():
        setattr(module, name, unquantized(child))
    return module


@torch.no_grad()
def observe(module: nn.Module, x: Tensor) -> Tensor:
    """Let all roundings of ``module`` take their ranges anew from a pass of ``x`` (b, c, h, w); gives what it gives."""
    roundings = [part for part in module.modules() if isinstance(part, Rounding)]
    for rounding in roundings:
        rounding.low.zero_()
        rounding.high.zero_()
        rounding.observing = True
    try:
        y: Tensor = module(x)
    finally:
        for rounding in roundings:
            rounding.observing = False
    return y
