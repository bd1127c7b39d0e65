"""A student as one file that needs no run folder: its weights, and in their header what they are the weights of.

The file is data: the network is built from netgraft's own operators by the names in it, nothing in it is executed, and
whatever does not fit becomes one error that names the file.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn

from netgraft.assemble import Assignment
from netgraft.errors import CheckpointError, ConfigError
from netgraft.names import lookup
from netgraft.nets.blocks import deploy
from netgraft.nets.checkpoint import read_metadata, read_weights, save_weights
from netgraft.nets.designs import NAFNET, Design
from netgraft.nets.load import MOST_LEVELS
from netgraft.nets.maxim import MaximShape
from netgraft.nets.nafnet import NafNetShape
from netgraft.operators import OPERATORS, in_single, options_for
from netgraft.sites import KEEP, Site, find_sites

HEADER = "netgraft_student"
"""The entry of the file's header that says what its weights are of."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Student:
    """A refitted network, and what is known about it without its run."""

    module: nn.Module
    """In eval mode: (b, 3, h, w), RGB in [0, 1] -> the same; in training form, unless it was trained in 8 bits."""
    design: Design
    """Of the teacher."""
    assignment: Assignment
    """Operator name by site path."""
    size: tuple[int, int]
    """Height and width that it was profiled and exported at, in pixels."""
    device: str
    """The device that it was refitted to."""
    threads: int
    """Threads that it ran on there."""
    teacher: str
    """Path of the teacher's checkpoint, or ``embedded``."""


class _NafNet(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    width: int = Field(ge=1)
    encoder_blocks: list[Annotated[int, Field(ge=0)]] = Field(max_length=MOST_LEVELS)
    middle_blocks: int = Field(ge=0)
    decoder_blocks: list[Annotated[int, Field(ge=0)]] = Field(max_length=MOST_LEVELS)
    image_channels: int = Field(3, ge=3, le=3)

    @model_validator(mode="after")
    def _paired(self) -> Self:
        if len(self.encoder_blocks) != len(self.decoder_blocks):
            raise ValueError("as many levels up as down are needed")
        return self

    @property
    def blocks(self) -> int:
        """How many it builds."""
        return sum(self.encoder_blocks) + self.middle_blocks + sum(self.decoder_blocks)

    def shape(self) -> NafNetShape:
        """What it builds."""
        return NafNetShape(
            width=self.width,
            encoder_blocks=tuple(self.encoder_blocks),
            middle_blocks=self.middle_blocks,
            decoder_blocks=tuple(self.decoder_blocks),
        )


class _Maxim(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    width: int = Field(ge=1)
    stages: int = Field(ge=1)
    groups: int = Field(ge=1)
    bottlenecks: int = Field(ge=0)
    high_side: int = Field(ge=1, le=64)
    low_side: int = Field(ge=1, le=64)

    @property
    def blocks(self) -> int:
        """How many it builds, at least."""
        return self.stages * (self.groups + self.bottlenecks)

    def shape(self) -> MaximShape:
        """What it builds."""
        return MaximShape(**self.model_dump())


class _Header(BaseModel):
    """What the header says, checked."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: int = Field(ge=1, le=1)
    architecture: str = NAFNET
    shape: _NafNet | _Maxim | None
    tlc: list[int] | None = Field(min_length=2, max_length=2)
    assignment: dict[str, str]
    size: list[int] = Field(min_length=2, max_length=2)
    device: str
    threads: int = Field(ge=1)
    teacher: str


def save_student(student: Student, path: Path) -> None:
    """Write a student as ``.safetensors``, all of the file or nothing of it.

    Raises:
        CheckpointError: another suffix, or a file that cannot be written.
    """
    header: dict[str, Any] = {
        "version": 1,
        "architecture": student.design.architecture,
        "shape": None if student.design.shape is None else dataclasses.asdict(student.design.shape),
        "tlc": student.design.tlc,
        "assignment": {site: name for site, name in student.assignment.items() if name != KEEP},
        "size": student.size,
        "device": student.device,
        "threads": student.threads,
        "teacher": student.teacher,
    }
    save_weights(student.module, path, half=False, metadata={HEADER: json.dumps(header)})


def load_student(path: Path, *, factory: str | None = None) -> Student:
    """Read what :func:`save_student` wrote.

    factory: ``package.module:factory`` of a teacher of one's own, which is imported and called; the file may name no
    other.

    Raises:
        CheckpointError: the file cannot be read, holds no student, or one whose weights do not fit it.
        ConfigError: the factory makes no network.
    """
    weights = read_weights(path)
    header = _header(path)
    # Each block has weights: more of them than there are tensors is damage, which would take long to build.
    if header.shape is not None and header.shape.blocks > len(weights):
        raise CheckpointError(
            f"{path}: damaged: its header names {header.shape.blocks} blocks for {len(weights)} tensors"
        )
    if header.shape is None and header.architecture != factory:
        raise CheckpointError(
            f"{path}: its network is made by {header.architecture}, and what a file names is not run unasked: name "
            "the run folder that it comes from"
        )
    tlc = None if header.tlc is None else (header.tlc[0], header.tlc[1])
    size = header.size[0], header.size[1]
    if min(*size, *(tlc or (1, 1))) < 1:
        raise CheckpointError(f"{path}: damaged: its header names the sizes {header.size} and {header.tlc}")
    shape = None if header.shape is None else header.shape.shape()
    design = Design(architecture=header.architecture, shape=shape, tlc=tlc)
    # Without memory: the weights of the file take the places of these, and what would not fit is never made.
    with torch.device("meta"):
        network = _built(path, design, size, header.assignment)
        if not _fits(network, weights):
            # One that was trained in 8 bits has the deployed form.
            network = deploy(network)
    if not _fits(network, weights):
        raise CheckpointError(f"{path}: damaged: its weights are not those of the operators that its header names")
    network.load_state_dict(weights, assign=True)
    return Student(
        module=network.eval().requires_grad_(True),
        design=design,
        assignment=header.assignment,
        size=size,
        device=header.device,
        threads=header.threads,
        teacher=header.teacher,
    )


def _header(path: Path) -> _Header:
    text = read_metadata(path).get(HEADER)
    if text is None:
        raise CheckpointError(
            f"{path}: holds no student of netgraft; name a run folder or its export/student.safetensors"
        )
    try:
        return _Header.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"{path}: damaged, or of a newer netgraft: {where}: {first['msg']}") from None


def _built(path: Path, design: Design, size: tuple[int, int], assignment: Mapping[str, str]) -> nn.Module:
    network = design.build()
    try:
        sites = {site.path: site for site in find_sites(network, size, named=tuple(assignment))}
        blocks = {
            place: _block(network, lookup("site", place, sites), in_single(name)) for place, name in assignment.items()
        }
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}; one with operators of your own is opened by its run folder") from None
    for place, block in blocks.items():
        network.set_submodule(place, block)
    return network


def _block(network: nn.Module, site: Site, name: str) -> nn.Module:
    block = network.get_submodule(site.path)
    if name == KEEP:
        return block
    fitting = {one: OPERATORS[one] for one in options_for(site, OPERATORS)[1:]}
    return lookup(f"operator for {site.path}", name, fitting).module_at(site, block)


def _fits(network: nn.Module, weights: Mapping[str, Tensor]) -> bool:
    expected = network.state_dict()
    return expected.keys() == weights.keys() and all(
        weights[name].shape == tensor.shape for name, tensor in expected.items()
    )
