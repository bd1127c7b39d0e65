"""Loading a pretrained network: hyper-parameters are inferred from the weights, never asked for.

A NAFNet, a MAXIM, or what a user's own factory makes.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from netgraft.errors import CheckpointError, ConfigError
from netgraft.nets.checkpoint import check_fit, few, read_metadata, read_weights
from netgraft.nets.designs import MAXIM, NAFNET, Design, made_by
from netgraft.nets.macs import count_macs
from netgraft.nets.maxim import Maxim
from netgraft.nets.maxim_checkpoint import ARCHITECTURE, TASK, load_maxim
from netgraft.nets.nafnet import NafNet, NafNetShape, localize

EMBEDDED = "nafnet_w16_shake.safetensors"
"""The network that comes with the package."""

MOST_LEVELS = 10
"""A U-Net deeper than this would need images of thousands of pixels; such names are damage, not a network."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Teacher:
    """A pretrained network, ready to run, and what is known about it."""

    module: nn.Module
    """The network in eval mode: (b, 3, h, w), RGB in [0, 1] -> the same."""
    tlc: tuple[int, int] | None = None
    """Training size (h, w) in pixels of a NAFNet's local statistics; None for global statistics."""
    factory: str | None = None
    """``package.module:factory`` that made the network; None for one that netgraft has a definition of."""
    source: str
    """Path of the checkpoint, or ``embedded``."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Text entries of the checkpoint's header, if it has one."""

    @property
    def design(self) -> Design:
        """What the network is built from."""
        if isinstance(self.module, NafNet):
            return Design(architecture=NAFNET, shape=self.module.shape, tlc=self.tlc)
        if isinstance(self.module, Maxim):
            return Design(architecture=MAXIM, shape=self.module.shape)
        return Design(architecture=self.factory or type(self.module).__name__)

    @property
    def description(self) -> str:
        """In words, e.g. ``NAFNet, width 16`` or ``MAXIM-3, width 32, for deblurring``."""
        task = self.metadata.get(TASK)
        return self.design.description + (f", for {task}" if task else "")

    @property
    def params(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self.module.parameters())

    @property
    def size_multiple(self) -> int:
        """Images are padded to multiples of this inside the network."""
        return int(getattr(self.module, "size_multiple", 1))

    def macs(self, h: int, w: int) -> int:
        """Multiply-accumulates of convolutions and linear layers on one h x w image, padding included."""
        return count_macs(self.module, (h, w))


def load_teacher(
    path: str | Path | None = None, *, tlc: tuple[int, int] | None = None, factory: str | None = None
) -> Teacher:
    """Load a NAFNet from an official ``.pth`` or a ``.safetensors`` file, or a MAXIM that ``netgraft import`` wrote; by
    default the embedded network.

    tlc: (h, w) in pixels of the crops that a NAFNet was trained on, for the variant with local statistics (Chu et
    al., ECCV 2022) that the published scores use; None for the plain network. factory: ``package.module:factory`` of a
    network of one's own, which is imported and called; it keeps the weights that it is made with, or takes those of
    ``path``.

    Raises:
        CheckpointError: the file cannot be read or fits no such network.
        ConfigError: tlc is not two positive numbers, or not for this network; or the factory makes none.
    """
    if tlc is not None and not (len(tlc) == 2 and all(isinstance(s, int) and s > 0 for s in tlc)):
        raise ConfigError(f"tlc must be two positive whole numbers (height, width) in pixels, not {tlc!r}")
    if factory is not None:
        if tlc is not None:
            raise ConfigError(f"{factory}: local statistics (tlc) are for NAFNets")
        return _made(factory, None if path is None else Path(path))
    if path is None:
        resource = importlib.resources.files("netgraft.nets").joinpath("weights", EMBEDDED)
        with importlib.resources.as_file(resource) as file:
            if not file.exists():
                raise CheckpointError(
                    f"this installation lacks the embedded network {EMBEDDED}; name a checkpoint instead"
                )
            return _load(file, "embedded", tlc)
    path = Path(path)
    if path.is_file() and read_metadata(path).get(ARCHITECTURE) == MAXIM:
        if tlc is not None:
            raise ConfigError(f"{path}: local statistics (tlc) are for NAFNets, this is a MAXIM")
        return Teacher(module=load_maxim(path).module, source=str(path), metadata=read_metadata(path))
    return _load(path, str(path), tlc)


def _made(factory: str, path: Path | None) -> Teacher:
    """What a factory makes, with the weights of a file where one is named."""
    network = made_by(factory)
    if path is not None:
        weights, expected = read_weights(path), network.state_dict()
        check_fit(weights, expected, factory, str(path))
        network.load_state_dict({name: tensor.to(expected[name].dtype) for name, tensor in weights.items()})
    network.requires_grad_(True)
    return Teacher(module=network, factory=factory, source=factory if path is None else str(path))


def _load(file: Path, source: str, tlc: tuple[int, int] | None) -> Teacher:
    weights = read_weights(file)
    shape = infer_shape(weights, source)
    with torch.device("meta"):
        net = NafNet(shape)
    check_fit(weights, net.state_dict(), f"a NAFNet of width {shape.width}", source)
    net.load_state_dict(weights, assign=True)
    if tlc is not None:
        localize(net, tlc)
    net.requires_grad_(True)
    return Teacher(module=net.eval(), tlc=tlc, source=source, metadata=read_metadata(file))


def infer_shape(weights: Mapping[str, Tensor], source: str = "weights") -> NafNetShape:
    """The hyper-parameters of the NAFNet that ``weights`` belong to.

    Raises:
        CheckpointError: they do not look like a NAFNet for RGB images.
    """
    intro = weights.get("intro.weight")
    if intro is None or intro.ndim != 4:
        raise CheckpointError(f"{source}: not a NAFNet: there is no convolution intro.weight, but {few(list(weights))}")
    if intro.shape[0] < 1 or intro.shape[1] != 3:
        raise CheckpointError(f"{source}: intro.weight is {tuple(intro.shape)}, but RGB images need (width, 3, 3, 3)")
    levels = _count(weights, "downs.")
    if levels != _count(weights, "ups.") or levels > MOST_LEVELS:
        raise CheckpointError(
            f"{source}: not a NAFNet: {levels} downs and {_count(weights, 'ups.')} ups, "
            f"but they come in pairs, at most {MOST_LEVELS}"
        )
    return NafNetShape(
        width=intro.shape[0],
        encoder_blocks=tuple(_count(weights, f"encoders.{level}.") for level in range(levels)),
        middle_blocks=_count(weights, "middle_blks."),
        decoder_blocks=tuple(_count(weights, f"decoders.{level}.") for level in range(levels)),
    )


def _count(names: Iterable[str], prefix: str) -> int:
    """How many different parts follow ``prefix`` in dotted names; their own names are checked afterwards."""
    return len({name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)})
