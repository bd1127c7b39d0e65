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
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from netgraft.assemble import Assignment
from netgraft.errors import CheckpointError, ConfigError
from netgraft.names import lookup
from netgraft.nets.blocks import deploy
from netgraft.nets.checkpoint import read_metadata, read_weights, save_weights
from netgraft.nets.load import MOST_LEVELS
from netgraft.nets.nafnet import NafNet, NafNetShape, localize
from netgraft.operators import OPERATORS, in_single
from netgraft.sites import KEEP, Site, find_sites

HEADER = "netgraft_student"
"""The entry of the file's header that says what its weights are of."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Student:
    """A refitted network, and what is known about it without its run."""

    module: nn.Module
    """In eval mode: (b, 3, h, w), RGB in [0, 1] -> the same; in training form, unless it was trained in 8 bits."""
    shape: NafNetShape
    """Of the teacher."""
    tlc: tuple[int, int] | None
    """Training size (h, w) in pixels of its local statistics; None for global ones."""
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


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    width: int = Field(ge=1)
    encoder_blocks: list[int] = Field(max_length=MOST_LEVELS)
    middle_blocks: int = Field(ge=0)
    decoder_blocks: list[int] = Field(max_length=MOST_LEVELS)
    image_channels: int = Field(3, ge=3, le=3)


class _Header(BaseModel):
    """What the header says, checked."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: int = Field(ge=1, le=1)
    shape: _Shape
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
        "shape": dataclasses.asdict(student.shape),
        "tlc": student.tlc,
        "assignment": {site: name for site, name in student.assignment.items() if name != KEEP},
        "size": student.size,
        "device": student.device,
        "threads": student.threads,
        "teacher": student.teacher,
    }
    save_weights(student.module, path, half=False, metadata={HEADER: json.dumps(header)})


def load_student(path: Path) -> Student:
    """Read what :func:`save_student` wrote.

    Raises:
        CheckpointError: the file cannot be read, holds no student, or one whose weights do not fit it.
    """
    weights = read_weights(path)
    header = _header(path)
    shape = NafNetShape(
        width=header.shape.width,
        encoder_blocks=tuple(header.shape.encoder_blocks),
        middle_blocks=header.shape.middle_blocks,
        decoder_blocks=tuple(header.shape.decoder_blocks),
    )
    blocks = (*shape.encoder_blocks, shape.middle_blocks, *shape.decoder_blocks)
    # Each block has weights: more of them than there are tensors is damage, which would take long to build.
    if min(blocks) < 0 or sum(blocks) > len(weights) or len(shape.encoder_blocks) != len(shape.decoder_blocks):
        raise CheckpointError(f"{path}: damaged: its header names {sum(blocks)} blocks for {len(weights)} tensors")
    tlc = None if header.tlc is None else (header.tlc[0], header.tlc[1])
    size = header.size[0], header.size[1]
    if min(*size, *(tlc or (1, 1))) < 1:
        raise CheckpointError(f"{path}: damaged: its header names the sizes {header.size} and {header.tlc}")
    # Without memory: the weights of the file take the places of these, and what would not fit is never made.
    with torch.device("meta"):
        network = _built(path, shape, tlc, size, header.assignment)
        if not _fits(network, weights):
            # One that was trained in 8 bits has the deployed form.
            network = deploy(network)
    if not _fits(network, weights):
        raise CheckpointError(f"{path}: damaged: its weights are not those of the operators that its header names")
    network.load_state_dict(weights, assign=True)
    return Student(
        module=network.eval().requires_grad_(True),
        shape=shape,
        tlc=tlc,
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


def _built(
    path: Path, shape: NafNetShape, tlc: tuple[int, int] | None, size: tuple[int, int], assignment: Mapping[str, str]
) -> nn.Module:
    network = NafNet(shape)
    if tlc is not None:
        localize(network, tlc)
    sites = {site.path: site for site in find_sites(network, size)}
    try:
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
    fitting = {one: operator for one, operator in OPERATORS.items() if operator.kind == site.kind}
    return lookup(f"operator for {site.path}", name, fitting).start(block, site)


def _fits(network: nn.Module, weights: Mapping[str, Tensor]) -> bool:
    expected = network.state_dict()
    return expected.keys() == weights.keys() and all(
        weights[name].shape == tensor.shape for name, tensor in expected.items()
    )
