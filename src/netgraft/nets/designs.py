"""What a network is built from, without its weights: an architecture and its hyper-parameters, or a user's factory."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from netgraft.errors import CheckpointError, ConfigError, first_line
from netgraft.names import imported
from netgraft.nets.maxim import Maxim, MaximShape
from netgraft.nets.nafnet import NafNet, NafNetShape, localize
from netgraft.nets.trace import Call, trace

NAFNET, MAXIM = "NAFNet", "MAXIM"

PROBE = 128
"""Side, in pixels, of the image that shows what a user's network gives, and what its sides must be multiples of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """What a network is built from."""

    architecture: str
    """``NAFNet`` or ``MAXIM``, or the ``package.module:factory`` of a user's own."""
    shape: NafNetShape | MaximShape | None = None
    """Its hyper-parameters; None of a user's own."""
    tlc: tuple[int, int] | None = None
    """Training size (h, w) in pixels of a NAFNet's local statistics; None for global ones."""

    def build(self) -> nn.Module:
        """A network of this design with weights that mean nothing, in eval mode.

        Raises:
            ConfigError: the factory cannot be called, or makes no network.
            CheckpointError: what it makes does not restore images.
        """
        if isinstance(self.shape, NafNetShape):
            network = NafNet(self.shape)
            if self.tlc is not None:
                localize(network, self.tlc)
            return network.eval()
        return (Maxim(self.shape) if isinstance(self.shape, MaximShape) else made_by(self.architecture)).eval()

    @property
    def description(self) -> str:
        """In words, e.g. ``NAFNet, width 16``."""
        if isinstance(self.shape, MaximShape):
            return f"{MAXIM}-{self.shape.stages}, width {self.shape.width}"
        return self.architecture if self.shape is None else f"{NAFNET}, width {self.shape.width}"

    @property
    def statistics(self) -> str:
        """What its attention averages over, in words: ``global``, or ``local (TLC 256x256)``."""
        if self.shape is None:
            return "its own"
        return "global" if self.tlc is None else f"local (TLC {self.tlc[0]}x{self.tlc[1]})"

    def as_dict(self) -> dict[str, Any]:
        """Its hyper-parameters as plain data; equal for networks whose blocks take equally long."""
        return {"architecture": self.architecture} if self.shape is None else dataclasses.asdict(self.shape)


def made_by(reference: str) -> nn.Module:
    """What a user's ``package.module:factory`` makes; it pads and crops itself from then on, where its maps need it.

    Raises:
        ConfigError: it cannot be called, or makes no network.
        CheckpointError: what it makes does not restore images.
    """
    factory = imported("the model", reference)
    try:
        network = factory()
    # A user's own code may fail in any way.
    except Exception as error:
        raise ConfigError(f"the model {reference!r} cannot be made: {first_line(error)}") from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"the model {reference!r} makes a {type(network).__name__}; it must make an nn.Module")
    network.eval()
    for part in network.modules():
        # What a block takes and gives is kept, and must not change when the pass goes on.
        if getattr(part, "inplace", False) is True:
            part.inplace = False  # type: ignore[assignment]
    calls = trace(network, (PROBE, PROBE))
    given = calls[""][0].output
    if given != (1, 3, PROBE, PROBE):
        raise CheckpointError(
            f"the model {reference!r} gives {given or 'something else than one tensor'} for an image of "
            f"(1, 3, {PROBE}, {PROBE}); it must give one image of the same size"
        )
    return network if hasattr(network, "size_multiple") else _padding(network, calls)


def _padding(network: nn.Module, calls: Mapping[str, Sequence[Call]]) -> nn.Module:
    """The network itself, of a class that pads what it takes to the coarsest of its maps, and crops what it gives.

    calls: of a pass over :data:`PROBE` pixels squared.
    """
    strides = [1]
    larger = trace(network, (2 * PROBE, 3 * PROBE))
    for path, made in calls.items():
        for call, other in zip(made, larger[path], strict=False):
            shape = call.output
            # What follows the image, and nothing of a size of its own.
            if shape and len(shape) == 4 and other.output == (*shape[:2], 2 * shape[2], 3 * shape[3]):
                strides.append(PROBE // shape[3])
    network.size_multiple = max(strides)  # type: ignore[assignment]
    if network.size_multiple != 1:
        own = type(network)
        # A class of its own, in place of a module around it: the paths of its modules stay as its author knows them.
        network.__class__ = type(own.__name__, (_Padding, own), {})
    return network


class _Padding:
    """Pads images to multiples of ``size_multiple`` by their last row and column, and crops what comes back."""

    size_multiple: int

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        pad_h, pad_w = -h % self.size_multiple, -w % self.size_multiple
        padded = functional.pad(x, (0, pad_w, 0, pad_h), mode="replicate") if pad_h or pad_w else x
        y: Tensor = super().forward(padded)  # type: ignore[misc]
        return y[..., :h, :w] if pad_h or pad_w else y


def structure(module: nn.Module) -> str:
    """A digest of the names and shapes of a network's weights."""
    shapes = [(name, tuple(tensor.shape)) for name, tensor in module.state_dict().items()]
    return hashlib.sha256(repr(shapes).encode()).hexdigest()
