"""What a network takes where it is deployed: multiply-accumulates, parameters, bytes of weights."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

from torch import nn

from netgraft.nets.blocks import deploy
from netgraft.nets.macs import count_macs
from netgraft.nets.quantized import QuantizedConv, shipped

FLOAT_BYTES = 4
"""Of one number in fp32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Counts of a network, or of one of its blocks, in its deployed form; those of the blocks add up."""

    macs: int
    """Multiply-accumulates of convolutions and linear layers, batch 1, at a stated size."""
    params: int
    """Parameters."""
    size_bytes: int
    """Its parameters and buffers in fp32, 4 bytes each, or 1 byte each where weights are in 8 bits; a file adds some kB
    for its graph."""

    @classmethod
    def of(cls, module: nn.Module, size: tuple[int, int], channels: int = 3) -> Footprint:
        """What ``module`` takes on one input of (1, channels, h, w), ``size`` being (h, w)."""
        deployed, rounded = shipped(module), deploy(module)
        in_8_bits = sum(part.conv.weight.numel() for part in rounded.modules() if isinstance(part, QuantizedConv))
        numbers = sum(t.numel() for t in chain(deployed.parameters(), deployed.buffers()))
        return cls(
            macs=count_macs(deployed, size, channels),
            params=sum(p.numel() for p in deployed.parameters()),
            size_bytes=FLOAT_BYTES * (numbers - in_8_bits) + in_8_bits,
        )
