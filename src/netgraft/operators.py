"""The operator pool: which block fits which site, how it starts from the teacher, and how it learns.

An operator of one's own is one more :class:`Operator` in the mapping that is handed to the functions that take
one, or a ``"package.module:NAME"`` line in the config.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from torch import nn

from netgraft.errors import ConfigError
from netgraft.names import imported, lookup
from netgraft.nets.blocks import (
    ConvBlock,
    ConvPairBlock,
    FittedAffine,
    HalfResolution,
    InvertedResidual,
    PartialConv,
    ReluConvBlock,
    ReluNafBlock,
    ResizeConv,
    StaticNafBlock,
    strided_from,
    transposed_from,
)
from netgraft.nets.maxim import ConvAttentionBlock
from netgraft.nets.maxim_axes import Axis, MultiAxisBlock, MutualGating
from netgraft.nets.maxim_blocks import AddedSignals, FrozenAttentionBlock, OneAxisBlock, one_axis_gating
from netgraft.nets.nafnet import NafBlock, start_residuals
from netgraft.nets.quantized import QuantizedBlock
from netgraft.nets.sited import AddedInputs, FirstInput, JoinedInputs
from netgraft.sites import KEEP, Site, SiteKind

INT8 = "@int8"
"""What the names of options in 8 bits end with."""

NAF = "NafBlock"
MUTUAL_GATING = "MutualGating"
PIXEL_SHUFFLE = "Sequential(Conv2d 1x1 without bias, PixelShuffle)"
NEW_RESIDUALS = 0.1
"""Residual scales that new NAF blocks start with."""

Learning = Literal["exact", "fit", "distill", "quantize"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """A kind of block that may stand at a site."""

    name: str
    """What configs, tables and reports call it."""
    kind: SiteKind
    """The kind of site that it fits."""
    start: Callable[[nn.Module, Site], nn.Module]
    """Makes a new module from the teacher's block (left untouched) and its site."""
    learning: Learning
    """``exact``: equals the teacher's block as it is; ``fit``: closed form; ``distill``: feature distillation;
    ``quantize``: made from the trained replacement of the same name in single precision."""
    from_teacher: bool
    """Whether it starts from the teacher's weights, close enough to it to learn at a tenth of the rate."""
    description: str
    """One line for tables."""
    fits: Callable[[Site], bool] = lambda _: True
    """Which sites of its kind it fits; by default all of them."""
    several_inputs: bool = False
    """Whether its module is called with all inputs of its site; by default with the first alone."""

    def module_at(self, site: Site, block: nn.Module) -> nn.Module:
        """A new module for a site, which is called as the teacher's block there."""
        module = self.start(block, site)
        return FirstInput(module) if site.more_channels and not self.several_inputs else module


def _static(norm: bool, attention: bool) -> Callable[[nn.Module, Site], nn.Module]:
    def start(block: nn.Module, _: Site) -> nn.Module:
        assert isinstance(block, NafBlock)
        return StaticNafBlock(block, norm=norm, attention=attention)

    return start


def _relu(block: nn.Module, _: Site) -> nn.Module:
    assert isinstance(block, NafBlock)
    return ReluNafBlock(block)


def _transposed(block: nn.Module, _: Site) -> nn.Module:
    assert isinstance(block, nn.Sequential)
    return transposed_from(block)


def _resize(block: nn.Module, _: Site) -> nn.Module:
    assert isinstance(block, nn.Sequential)
    return ResizeConv(block)


def _strided(block: nn.Module, _: Site) -> nn.Module:
    assert isinstance(block, nn.Conv2d)
    return strided_from(block)


def _new_naf(depth: int, *, frozen: bool = False) -> Callable[[nn.Module, Site], nn.Module]:
    """So many new NAF blocks in a row."""

    def start(_: nn.Module, site: Site) -> nn.Module:
        blocks = [NafBlock(site.in_channels) for _ in range(depth)]
        for block in blocks:
            # Not at zero, where a short distillation would spend its first steps on leaving it.
            start_residuals(block, NEW_RESIDUALS)
        row = [StaticNafBlock(block, norm=True, attention=True) for block in blocks] if frozen else blocks
        return nn.Sequential(*row)

    return start


def _first_half(block: nn.Module, _: Site) -> nn.Module:
    assert isinstance(block, nn.Sequential)
    return copy.deepcopy(block[: len(block) // 2])


def _one_axis(axis: Axis) -> Callable[[nn.Module, Site], nn.Module]:
    def start(block: nn.Module, _: Site) -> nn.Module:
        if isinstance(block, MutualGating):
            return one_axis_gating(block, axis)
        assert isinstance(block, MultiAxisBlock)
        return OneAxisBlock(block, axis)

    return start


def _frozen_attention(block: nn.Module, _: Site) -> nn.Module:
    assert isinstance(block, ConvAttentionBlock)
    return FrozenAttentionBlock(block)


def _stands(*blocks: str) -> Callable[[Site], bool]:
    """Where one of these stands."""
    return lambda site: site.block in blocks


def _of_other_networks(site: Site) -> bool:
    """Where no NAF block stands already."""
    return site.block != NAF


def _takes_several(site: Site) -> bool:
    """Where several inputs come together, or two signals side by side."""
    return bool(site.more_channels) or site.block == MUTUAL_GATING


def _added(_: nn.Module, site: Site) -> nn.Module:
    if site.block == MUTUAL_GATING:
        return AddedSignals(site.in_channels // 2)
    return AddedInputs((site.in_channels, *site.more_channels))


def _pool(*operators: Operator) -> Mapping[str, Operator]:
    return MappingProxyType({operator.name: operator for operator in operators})


OPERATORS: Mapping[str, Operator] = _pool(
    Operator(
        name="drop",
        kind="block",
        start=lambda _, site: FittedAffine(site.in_channels),
        learning="fit",
        from_teacher=False,
        description="no block: a scale and an offset per channel",
    ),
    Operator(
        name="naf_static",
        kind="block",
        fits=_stands(NAF),
        start=_static(norm=True, attention=True),
        learning="distill",
        from_teacher=True,
        description="NAF block with norms and attention frozen and folded",
    ),
    Operator(
        name="naf_no_attention",
        kind="block",
        fits=_stands(NAF),
        start=_static(norm=False, attention=True),
        learning="distill",
        from_teacher=True,
        description="NAF block with attention frozen and folded",
    ),
    Operator(
        name="naf_no_norm",
        kind="block",
        fits=_stands(NAF),
        start=_static(norm=True, attention=False),
        learning="distill",
        from_teacher=True,
        description="NAF block with norms frozen and folded",
    ),
    Operator(
        name="naf_relu",
        kind="block",
        fits=_stands(NAF),
        start=_relu,
        learning="distill",
        from_teacher=True,
        description="NAF block with norms and attention frozen and folded, and ReLUs as gates",
    ),
    Operator(
        name="conv3_res",
        kind="block",
        start=lambda _, site: ConvBlock(site.in_channels, residual=True),
        learning="distill",
        from_teacher=False,
        description="dense 3x3 convolution, leaky ReLU, residual",
    ),
    Operator(
        name="conv3",
        kind="block",
        start=lambda _, site: ConvBlock(site.in_channels, residual=False),
        learning="distill",
        from_teacher=False,
        description="dense 3x3 convolution, leaky ReLU",
    ),
    Operator(
        name="conv3_relu",
        kind="block",
        start=lambda _, site: ReluConvBlock(site.in_channels),
        learning="distill",
        from_teacher=False,
        description="dense 3x3 convolution, ReLU, pointwise, residual",
    ),
    Operator(
        name="inverted_residual",
        kind="block",
        start=lambda _, site: InvertedResidual(site.in_channels),
        learning="distill",
        from_teacher=False,
        description="expand, depthwise 3x3, project, with ReLU6",
    ),
    Operator(
        name="partial_conv",
        kind="block",
        start=lambda _, site: PartialConv(site.in_channels),
        learning="distill",
        from_teacher=False,
        description="dense 3x3 over a quarter of the channels, then a pointwise MLP",
    ),
    Operator(
        name="half_res",
        kind="block",
        start=lambda _, site: HalfResolution(site.in_channels),
        learning="distill",
        from_teacher=False,
        description="gated depthwise block at half the resolution",
    ),
    Operator(
        name="conv3_pair",
        kind="block",
        fits=_of_other_networks,
        start=lambda _, site: ConvPairBlock(site.in_channels),
        learning="distill",
        from_teacher=False,
        description="two dense 3x3 convolutions, leaky ReLU between, residual",
    ),
    Operator(
        name="naf",
        kind="block",
        fits=_of_other_networks,
        start=_new_naf(1),
        learning="distill",
        from_teacher=False,
        description="a new NAF block",
    ),
    Operator(
        name="naf_x2",
        kind="block",
        fits=_of_other_networks,
        start=_new_naf(2),
        learning="distill",
        from_teacher=False,
        description="two new NAF blocks",
    ),
    Operator(
        name="naf_frozen",
        kind="block",
        fits=_of_other_networks,
        start=_new_naf(1, frozen=True),
        learning="distill",
        from_teacher=False,
        description="a new NAF block with norms and attention frozen and folded",
    ),
    Operator(
        name="first_half",
        kind="block",
        fits=lambda site: site.depth > 1,
        start=_first_half,
        learning="distill",
        from_teacher=True,
        description="the first half of the blocks in a row",
    ),
    Operator(
        name="grid_axis",
        kind="block",
        fits=_stands("MultiAxisBlock", MUTUAL_GATING),
        start=_one_axis("grid"),
        learning="distill",
        from_teacher=True,
        description="multi-axis block or cross gating with its grid branch alone",
    ),
    Operator(
        name="block_axis",
        kind="block",
        fits=_stands("MultiAxisBlock", MUTUAL_GATING),
        start=_one_axis("block"),
        learning="distill",
        from_teacher=True,
        description="multi-axis block or cross gating with its block branch alone",
    ),
    Operator(
        name="attention_frozen",
        kind="block",
        fits=_stands("ConvAttentionBlock"),
        start=_frozen_attention,
        learning="distill",
        from_teacher=True,
        description="channel attention block with its attention frozen and folded",
    ),
    Operator(
        name="add",
        kind="block",
        fits=_takes_several,
        several_inputs=True,
        start=_added,
        learning="fit",
        from_teacher=False,
        description="the sum of the inputs, or of two signals, scaled by channel",
    ),
    Operator(
        name="concat",
        kind="block",
        fits=_takes_several,
        several_inputs=True,
        start=lambda _, site: JoinedInputs((site.in_channels, *site.more_channels), site.out_channels),
        learning="fit",
        from_teacher=False,
        description="the inputs side by side, and a 1x1 convolution",
    ),
    Operator(
        name="strided3",
        kind="down",
        fits=_stands("Conv2d 2x2"),
        start=_strided,
        learning="exact",
        from_teacher=True,
        description="strided 3x3 convolution",
    ),
    Operator(
        name="transposed",
        kind="up",
        fits=_stands(PIXEL_SHUFFLE),
        start=_transposed,
        learning="exact",
        from_teacher=True,
        description="transposed 2x2 convolution, exactly the 1x1 and PixelShuffle",
    ),
    Operator(
        name="resize",
        kind="up",
        fits=_stands(PIXEL_SHUFFLE),
        start=_resize,
        learning="distill",
        from_teacher=False,
        description="nearest upsampling, 3x3 convolution",
    ),
)
"""Every operator that netgraft brings, by name; ``keep`` is implied."""


def operator_pool(names: Sequence[str]) -> Mapping[str, Operator]:
    """The operators of a config, by name: built-in ones, or ``package.module:NAME`` for a user's own.

    Raises:
        ConfigError: an unknown name, a reference that does not lead to an Operator, or a name that is taken.
    """
    chosen = [_imported(name) if ":" in name else lookup("operator", name, OPERATORS) for name in names if name != KEEP]
    taken: dict[str, Operator] = {}
    for operator in chosen:
        if operator.name == KEEP or taken.setdefault(operator.name, operator) is not operator:
            raise ConfigError(f"an operator of the name {operator.name!r} exists already: name yours differently")
    return _pool(*chosen)


def _imported(reference: str) -> Operator:
    found = imported("operator", reference)
    if not isinstance(found, Operator):
        raise ConfigError(f"operator {reference!r} is a {type(found).__name__}; it must be a netgraft Operator")
    return found


def with_int8(pool: Mapping[str, Operator]) -> Mapping[str, Operator]:
    """The pool and, behind it, each of its operators that convolves in 8 bits, the teacher's blocks among them."""
    kinds = dict.fromkeys(operator.kind for operator in pool.values())
    kept = (
        Operator(
            name=f"{KEEP}{INT8}" if kind == "block" else f"{KEEP}_{kind}{INT8}",
            kind=kind,
            fits=lambda site: not site.more_channels,
            start=lambda block, _: QuantizedBlock(copy.deepcopy(block)),
            learning="quantize",
            from_teacher=True,
            description="the teacher's block in 8 bits" if kind == "block" else f"the teacher's {kind} in 8 bits",
        )
        for kind in kinds
    )
    return _pool(*pool.values(), *kept, *(_in_int8(one) for one in pool.values() if one.learning != "fit"))


def _in_int8(operator: Operator) -> Operator:
    return dataclasses.replace(
        operator,
        name=f"{operator.name}{INT8}",
        fits=lambda site: operator.fits(site) and not site.more_channels,
        start=lambda block, site: QuantizedBlock(operator.start(block, site)),
        learning="quantize",
        description=f"{operator.description}, in 8 bits",
    )


def in_int8(name: str) -> bool:
    """Whether an option is in 8 bits."""
    return name.endswith(INT8)


def in_single(name: str) -> str:
    """The option that computes the same in single precision."""
    base = name.removesuffix(INT8)
    return KEEP if base != name and base.startswith(f"{KEEP}_") else base


def options_for(site: Site, pool: Mapping[str, Operator]) -> tuple[str, ...]:
    """Names of the options of a site, ``keep`` first, in the order of the pool."""
    return (KEEP, *(name for name, operator in pool.items() if operator.kind == site.kind and operator.fits(site)))
