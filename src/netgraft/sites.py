"""The places of a network where a block may be replaced.

A site is a module that takes one tensor and gives one: a NAF block, or a convolution that changes the resolution
between two levels. Sites come in the order in which data flows through them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from netgraft.errors import CheckpointError, ConfigError
from netgraft.names import unknown
from netgraft.nets.macs import macs_per_module
from netgraft.nets.nafnet import NafBlock, NafNet

SiteKind = Literal["block", "down", "up"]

KEEP = "keep"
"""The option that leaves the teacher's block where it is; option 0 of every site."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One place where a block may be replaced."""

    path: str
    """Dotted module path, e.g. ``encoders.3.17``."""
    kind: SiteKind
    """``block`` keeps the shape; ``down`` halves the resolution, ``up`` doubles it."""
    stride: int
    """Input pixels of the network per pixel of the site's input, along one axis."""
    out_stride: int
    """The same for the site's output."""
    in_channels: int
    """Channels of the site's input."""
    out_channels: int
    """Channels of the site's output."""
    macs: int
    """Multiply-accumulates of the teacher's block at the size that was asked for."""
    macs_share: float
    """Share of the whole network's multiply-accumulates, 0 to 1."""
    params: int
    """Parameters of the teacher's block."""

    @property
    def shape_key(self) -> str:
        """Equal for sites whose blocks take and give the same shapes; they share latency measurements."""
        return f"{self.kind}:{self.in_channels}@{self.stride}"

    def example(self, size: tuple[int, int]) -> Tensor:
        """A seeded random input of this site, (1, in_channels, h, w), for a network input of ``size`` pixels."""
        h, w = (side // self.stride for side in size)
        return torch.randn(1, self.in_channels, h, w, generator=torch.Generator().manual_seed(0))


def find_sites(module: nn.Module, size: tuple[int, int] = (256, 256)) -> tuple[Site, ...]:
    """Every site of ``module`` in data-flow order; ``size`` (h, w) in pixels sets what the MACs are counted at.

    Raises:
        CheckpointError: the network has no sites that netgraft knows.
    """
    if not isinstance(module, NafNet):
        raise CheckpointError(
            f"no sites in a {type(module).__name__}: netgraft refits NAFNets; load one with load_teacher()"
        )
    macs = macs_per_module(module, size)
    total = sum(macs.values())

    def site(path: str, kind: SiteKind, stride: int, out_stride: int, channels: tuple[int, int]) -> Site:
        own = sum(count for name, count in macs.items() if name == path or name.startswith(f"{path}."))
        params = sum(p.numel() for p in module.get_submodule(path).parameters())
        return Site(
            path=path,
            kind=kind,
            stride=stride,
            out_stride=out_stride,
            in_channels=channels[0],
            out_channels=channels[1],
            macs=own,
            macs_share=own / total,
            params=params,
        )

    def blocks(group: str, stage: Iterable[nn.Module], stride: int, channels: int) -> list[Site]:
        return [
            site(f"{group}.{i}", "block", stride, stride, (channels, channels))
            for i, block in enumerate(stage)
            if isinstance(block, NafBlock)
        ]

    # What was replaced already is no site any more, so that a student can be looked at too.
    found: list[Site] = []
    channels, stride = module.shape.width, 1
    for level, stage in enumerate(module.encoders):
        found += blocks(f"encoders.{level}", stage, stride, channels)  # type: ignore[arg-type]
        down = module.downs[level]
        if isinstance(down, nn.Conv2d) and down.kernel_size == (2, 2):
            found.append(site(f"downs.{level}", "down", stride, 2 * stride, (channels, 2 * channels)))
        channels, stride = 2 * channels, 2 * stride
    found += blocks("middle_blks", module.middle_blks, stride, channels)
    for level, stage in enumerate(module.decoders):
        if isinstance(module.ups[level], nn.Sequential):
            found.append(site(f"ups.{level}", "up", stride, stride // 2, (channels, channels // 2)))
        channels, stride = channels // 2, stride // 2
        found += blocks(f"decoders.{level}", stage, stride, channels)  # type: ignore[arg-type]
    return tuple(found)


def select_sites(sites: Sequence[Site], paths: Sequence[str]) -> tuple[Site, ...]:
    """The sites with these paths, in data-flow order.

    Raises:
        ConfigError: a path names no site.
    """
    table = {site.path: site for site in sites}
    for path in paths:
        if path not in table:
            raise ConfigError(unknown("site", path, table))
    return tuple(site for site in sites if site.path in set(paths))


def paper_sites(sites: Sequence[Site]) -> tuple[Site, ...]:
    """The blocks of the stages that hold a single block: the space of arXiv 2601.11685 for NAFNet (1,1,1,28).

    Eight one-block stages take part; the long 4th encoder, which is the most salient stage, is protected.
    """
    blocks = [site for site in sites if site.kind == "block"]
    stage_of = {site.path: site.path.rpartition(".")[0] for site in blocks}
    counts = {stage: list(stage_of.values()).count(stage) for stage in stage_of.values()}
    return tuple(site for site in blocks if counts[stage_of[site.path]] == 1)
