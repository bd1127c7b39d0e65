"""The places of a network where a block may be replaced.

A site is a module that takes a map of features and gives one: it keeps the map's shape, halves its resolution, or
doubles it. Where such modules stand is seen from a pass through the network, whatever its architecture. Sites come in
the order in which data flows through them, and none lies inside another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import Tensor, nn

from netgraft.errors import CheckpointError, ConfigError
from netgraft.names import unknown
from netgraft.nets.construction import construction, described
from netgraft.nets.macs import macs_per_module
from netgraft.nets.sited import Joined
from netgraft.nets.trace import Call, Shape, trace

SiteKind = Literal["block", "down", "up"]

KEEP = "keep"
"""The option that leaves the teacher's block where it is; option 0 of every site."""

LEAST_SIDE = 64
"""Side, in pixels, of the image that networks are traced with, or the next multiple of what they need."""
REPLACED = ("netgraft.nets.blocks", "netgraft.nets.maxim_blocks", "netgraft.nets.sited")
"""Where the blocks are defined that stand in a teacher's place."""


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
    block: str = ""
    """What stands there: the name of the class, or kernels, e.g. ``NafBlock`` or ``Conv2d 2x2``."""
    depth: int = 1
    """Blocks in a row that it is made of, where each of them could be a site."""
    more_channels: tuple[int, ...] = ()
    """Channels of the further inputs that the block takes, which have the resolution of the first."""
    variant: str = ""
    """Tells apart blocks of one network that differ, but take and give the same shapes; empty where none do."""

    @property
    def shape_key(self) -> str:
        """Equal for sites whose blocks take and give the same shapes; they share latency measurements."""
        return f"{self.kind}:{self.in_channels}@{self.stride}" + (f":{self.variant}" if self.variant else "")

    @property
    def joint_channels(self) -> int:
        """Channels of all its inputs together."""
        return self.in_channels + sum(self.more_channels)

    def example(self, size: tuple[int, int]) -> Tensor:
        """A seeded random input of this site, for a network input of ``size`` pixels: (1, joint_channels, h, w), for
        :meth:`alone` where the block takes several."""
        h, w = (side // self.stride for side in size)
        return torch.randn(1, self.joint_channels, h, w, generator=torch.Generator().manual_seed(0))

    def alone(self, block: nn.Module) -> nn.Module:
        """A block of this site as a network of its own, which takes one tensor: all its inputs along the channels."""
        return Joined(block, (self.in_channels, *self.more_channels)) if self.more_channels else block


def find_sites(module: nn.Module, size: tuple[int, int] = (256, 256), *, named: Sequence[str] = ()) -> tuple[Site, ...]:
    """Every site of ``module`` in data-flow order; ``size`` (h, w) in pixels sets what the MACs are counted at.

    By itself it takes blocks, not what they are made of, nor the stages that are made of blocks. named: paths of
    modules that are sites instead of those inside or around them; ``*`` stands for one part of a path or some of it.

    Raises:
        CheckpointError: the network has no sites, or does not take images of (1, 3, h, w).
        ConfigError: a named module does not exist or cannot be a site, or one lies inside another.
    """
    found = _Survey(module, size)
    chosen = _chosen(found, named)
    sites = list(found.walk("", chosen))
    if not sites:
        raise CheckpointError(
            f"no sites in a {type(module).__name__}: none of its modules takes one tensor (b, c, h, w) and gives one "
            "of the same channels and resolution, or of half or twice the resolution"
        )
    order = {path: number for number, path in enumerate(found.calls)}
    return _told_apart(module, sorted(sites, key=lambda site: order[site.path]))


class _Survey:
    """What every module of a network takes and gives, and which of them may be sites."""

    def __init__(self, module: nn.Module, size: tuple[int, int]) -> None:
        multiple = int(getattr(module, "size_multiple", 1))
        side = -(-LEAST_SIDE // multiple) * multiple
        self.module = module
        self.side = side
        self.calls = trace(module, (side, side))
        # Not alike in both directions: some tensors look like a map at one size.
        self.larger = trace(module, (2 * side, 3 * side))
        self.macs: dict[str, int] = {}
        """Multiply-accumulates of every module and all those inside it."""
        for path, count in macs_per_module(module, size).items():
            for around in (path, *_around(path)):
                self.macs[around] = self.macs.get(around, 0) + count
        self.valid: dict[str, Site] = {}
        self.reasons: dict[str, str] = {}
        for path, part in module.named_modules():
            if path:
                try:
                    self.valid[path] = self._site(path, part)
                except _NoSiteError as error:
                    self.reasons[path] = str(error)
        for path, site in self.valid.items():
            self.valid[path] = replace(site, depth=self._depth(path))

    def walk(self, path: str, chosen: Sequence[str]) -> Iterator[Site]:
        """The sites at or below a module; what is chosen, and else what looks like a block."""
        if path in chosen:
            yield self.valid[path]
            return
        children = [f"{path}.{name}".lstrip(".") for name, _ in self.module.get_submodule(path).named_children()]
        around_chosen = any(one.startswith(f"{path}.") for one in chosen)
        if path in self.valid and not around_chosen and not self._is_made_of_blocks(path):
            if children or not self._is_pointwise(path):
                yield self.valid[path]
            return
        for child in children:
            yield from self.walk(child, chosen)

    def _is_made_of_blocks(self, path: str) -> bool:
        """Whether a module is most of the network, or most of it is blocks in their own right."""
        site = self.valid[path]
        if not any(True for _ in self.module.get_submodule(path).children()):
            return False
        return site.macs_share > 0.5 or self._macs_of_blocks(path) > site.macs / 2

    def _macs_of_blocks(self, path: str) -> int:
        """Multiply-accumulates of the outermost modules inside one that may be sites, or were, and are no single
        layers."""
        total = 0
        for name, child in self.module.get_submodule(path).named_children():
            inner = f"{path}.{name}"
            if type(child).__module__ in REPLACED:
                total += self.macs.get(inner, 0)
            elif inner in self.valid and any(True for _ in child.children()):
                total += self.valid[inner].macs
            else:
                total += self._macs_of_blocks(inner)
        return total

    def _is_pointwise(self, path: str) -> bool:
        """Whether a layer mixes nothing but channels: there is nothing cheaper to put in its place."""
        layer = self.module.get_submodule(path)
        return isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.stride == (1, 1)

    def _site(self, path: str, part: nn.Module) -> Site:
        call, larger = self._call(path, self.calls), self._call(path, self.larger)
        stride, channels = self._map(call.inputs[0], larger.inputs[0], "takes")
        out_stride, out_channels = self._map(call.output, larger.output, "gives")
        more = [self._map(*pair, "also takes") for pair in zip(call.inputs[1:], larger.inputs[1:], strict=True)]
        if any(one != stride for one, _ in more):
            raise _NoSiteError("it takes tensors of several resolutions")
        if type(part).__module__ in REPLACED:
            raise _NoSiteError("it stands in a teacher's place already")
        macs = self.macs.get(path, 0)
        if not macs:
            raise _NoSiteError("it has no convolution or linear layer")
        return Site(
            path=path,
            kind=_kind((stride, channels), (out_stride, out_channels)),
            stride=stride,
            out_stride=out_stride,
            in_channels=channels,
            out_channels=out_channels,
            macs=macs,
            macs_share=macs / self.macs[""],
            params=sum(p.numel() for p in part.parameters()),
            block=described(part),
            more_channels=tuple(count for _, count in more),
        )

    def _depth(self, path: str) -> int:
        part = self.module.get_submodule(path)
        inner = [f"{path}.{name}" for name, _ in part.named_children()]
        row = type(part) is nn.Sequential and all(
            one in self.valid and self.valid[one].kind == "block" for one in inner
        )
        return len(inner) if row and self.valid[path].kind == "block" else 1

    def _call(self, path: str, calls: Mapping[str, Sequence[Call]]) -> Call:
        """The one call of a module in a pass."""
        made = calls.get(path, ())
        if len(made) != 1:
            raise _NoSiteError(f"it is called {len(made)} times in one pass" if made else "it is not called")
        if made[0].by_name:
            raise _NoSiteError(f"it takes {made[0].by_name[0]} by name, and sites take their inputs by position")
        if not made[0].inputs:
            raise _NoSiteError("it takes nothing")
        return made[0]

    def _map(self, shape: Shape | None, larger: Shape | None, verb: str) -> tuple[int, int]:
        """Stride and channels of a map of features, from its shapes for a square image and for a larger one."""
        if shape is None or larger is None:
            raise _NoSiteError(f"it {verb} something else than one tensor")
        side = self.side
        if len(shape) != 4 or shape[0] != 1 or side % max(1, shape[3]) or shape[2] != shape[3]:
            raise _NoSiteError(f"it {verb} {shape} for an image of {side}x{side}: no (b, c, h, w) of its proportions")
        expected = (1, shape[1], 2 * shape[2], 3 * shape[3])
        if larger != expected:
            raise _NoSiteError(
                f"what it {verb} changes with the size of the image: {shape} at {side}x{side}, {larger} at "
                f"{2 * side}x{3 * side}, and {expected} was expected"
            )
        return side // shape[3], shape[1]


def _around(path: str) -> Iterator[str]:
    """Paths of the modules around one, the network's own, which is empty, the last."""
    while path:
        path = path.rpartition(".")[0]
        yield path


class _NoSiteError(Exception):
    """Why a module cannot be a site, in words."""


def _kind(taken: tuple[int, int], given: tuple[int, int]) -> SiteKind:
    """What a block does to (stride, channels)."""
    if taken == given:
        return "block"
    if given[0] == 2 * taken[0]:
        return "down"
    if 2 * given[0] == taken[0]:
        return "up"
    if taken[0] == given[0]:
        raise _NoSiteError(f"it takes {taken[1]} channels and gives {given[1]} at the same resolution")
    raise _NoSiteError(f"it takes every {taken[0]}th pixel and gives every {given[0]}th")


def _chosen(found: _Survey, named: Sequence[str]) -> list[str]:
    """The paths that patterns name."""
    chosen: list[str] = []
    paths = [path for path, _ in found.module.named_modules() if path]
    for pattern in named:
        matching = [path for path in paths if _matches(path, pattern)]
        if not matching:
            raise ConfigError(unknown("site", pattern, found.valid))
        valid = [path for path in matching if path in found.valid]
        if not valid:
            raise ConfigError(f"{matching[0]} cannot be a site: {found.reasons[matching[0]]}")
        chosen += [path for path in valid if path not in chosen]
    for path in chosen:
        around = [other for other in chosen if path.startswith(f"{other}.")]
        if around:
            raise ConfigError(f"the site {path} lies inside of the site {around[0]}: name one of them")
    return chosen


def _matches(path: str, pattern: str) -> bool:
    parts, wanted = path.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _told_apart(module: nn.Module, sites: Sequence[Site]) -> tuple[Site, ...]:
    """The sites, those with a variant of which others with the same shapes are built in another way."""
    built: dict[str, dict[str, list[str]]] = {}
    made = {}
    for site in sites:
        block = module.get_submodule(site.path)
        name, how = type(block).__name__, construction(block, site.macs, (site.out_channels, *site.more_channels))
        made[site.path] = name, how
        ways = built.setdefault(site.shape_key, {}).setdefault(name, [])
        if how not in ways:
            ways.append(how)

    def told(site: Site) -> Site:
        by_class, (name, how) = built[site.shape_key], made[site.path]
        if sum(map(len, by_class.values())) == 1:
            return site
        number = f"-{by_class[name].index(how) + 1}" if len(by_class[name]) > 1 else ""
        return replace(site, variant=name + number)

    return tuple(map(told, sites))


def select_sites(sites: Sequence[Site], paths: Sequence[str]) -> tuple[Site, ...]:
    """The sites with these paths, in data-flow order; ``*`` stands for one part of a path or some of it.

    Raises:
        ConfigError: a path names no site.
    """
    for pattern in paths:
        if not any(_matches(site.path, pattern) for site in sites):
            raise ConfigError(unknown("site", pattern, [site.path for site in sites]))
    return tuple(site for site in sites if any(_matches(site.path, pattern) for pattern in paths))


def paper_sites(sites: Sequence[Site]) -> tuple[Site, ...]:
    """The blocks of the stages that hold a single block: the space of arXiv 2601.11685 for NAFNet (1,1,1,28).

    Eight one-block stages take part; the long 4th encoder, which is the most salient stage, is protected.
    """
    blocks = [site for site in sites if site.kind == "block"]
    stage_of = {site.path: site.path.rpartition(".")[0] for site in blocks}
    counts = {stage: list(stage_of.values()).count(stage) for stage in stage_of.values()}
    return tuple(site for site in blocks if counts[stage_of[site.path]] == 1)
