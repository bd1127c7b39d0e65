"""Loading a pretrained network: hyper-parameters are inferred from the weights, never asked for."""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from netgraft.errors import CheckpointError, ConfigError
from netgraft.nets.checkpoint import read_metadata, read_weights
from netgraft.nets.macs import count_macs
from netgraft.nets.nafnet import NafNet, NafNetShape, localize

EMBEDDED = "nafnet_w16_shake.safetensors"
"""The network that comes with the package."""

MOST_LEVELS = 10
"""A U-Net deeper than this would need images of thousands of pixels; such names are damage, not a network."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Teacher:
    """A pretrained network, ready to run, and what is known about it."""

    module: NafNet
    """The network in eval mode: (b, 3, h, w), RGB in [0, 1] -> the same."""
    tlc: tuple[int, int] | None = None
    """Training size (h, w) in pixels of the local statistics; None for global statistics."""
    source: str
    """Path of the checkpoint, or ``embedded``."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Text entries of the checkpoint's header, if it has one."""

    @property
    def shape(self) -> NafNetShape:
        """Width and block counts."""
        return self.module.shape

    @property
    def params(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self.module.parameters())

    @property
    def size_multiple(self) -> int:
        """Images are padded to multiples of this inside the network."""
        return self.module.size_multiple

    def macs(self, h: int, w: int) -> int:
        """Multiply-accumulates of convolutions and linear layers on one h x w image, padding included."""
        return count_macs(self.module, (h, w), self.shape.image_channels)


def load_teacher(path: str | Path | None = None, *, tlc: tuple[int, int] | None = None) -> Teacher:
    """Load a NAFNet from an official ``.pth`` or a ``.safetensors`` file; by default the embedded network.

    tlc: (h, w) in pixels of the crops that it was trained on, for the variant with local statistics (Chu et
    al., ECCV 2022) that the published scores use; None for the plain network.

    Raises:
        CheckpointError: the file cannot be read or does not fit a NAFNet.
        ConfigError: tlc is not two positive numbers.
    """
    if tlc is not None and not (len(tlc) == 2 and all(isinstance(s, int) and s > 0 for s in tlc)):
        raise ConfigError(f"tlc must be two positive whole numbers (height, width) in pixels, not {tlc!r}")
    if path is None:
        resource = importlib.resources.files("netgraft.nets").joinpath("weights", EMBEDDED)
        with importlib.resources.as_file(resource) as file:
            if not file.exists():
                raise CheckpointError(
                    f"this installation lacks the embedded network {EMBEDDED}; name a checkpoint instead"
                )
            return _load(file, "embedded", tlc)
    return _load(Path(path), str(path), tlc)


def _load(file: Path, source: str, tlc: tuple[int, int] | None) -> Teacher:
    weights = read_weights(file)
    shape = infer_shape(weights, source)
    with torch.device("meta"):
        net = NafNet(shape)
    _check_fit(weights, net.state_dict(), source)
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
        raise CheckpointError(
            f"{source}: not a NAFNet: there is no convolution intro.weight, but {_few(list(weights))}"
        )
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


def _check_fit(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str) -> None:
    missing = [name for name in expected if name not in weights]
    unexpected = [name for name in weights if name not in expected]
    if missing or unexpected:
        both = (("missing", missing), ("unexpected", unexpected))
        parts = [f"{kind}: {_few(names)}" for kind, names in both if names]
        raise CheckpointError(f"{source}: not the weights of a NAFNet; {'; '.join(parts)}")
    for name, tensor in expected.items():
        if weights[name].shape != tensor.shape:
            raise CheckpointError(
                f"{source}: {name} is {tuple(weights[name].shape)}, but a NAFNet of width "
                f"{expected['intro.weight'].shape[0]} has {tuple(tensor.shape)} there"
            )


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
