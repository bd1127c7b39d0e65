"""Opening a checkpoint of whatever architecture netgraft has a definition of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from netgraft.errors import ConfigError
from netgraft.nets.checkpoint import read_metadata
from netgraft.nets.load import Teacher, load_teacher
from netgraft.nets.maxim_checkpoint import ARCHITECTURE, MAXIM, load_maxim


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Network:
    """A pretrained network, ready to run."""

    module: nn.Module
    """In eval mode: (b, 3, h, w), RGB in [0, 1] -> the same."""
    architecture: str
    """In words, e.g. ``NAFNet, width 16``."""
    statistics: str
    """``global``, or ``local (TLC 256x256)``."""
    source: str
    """Path of the checkpoint, or ``embedded``."""


def open_network(path: Path | None = None, *, tlc: tuple[int, int] | None = None) -> Network:
    """The network of a checkpoint, by what its header says, otherwise a NAFNet; by default the embedded one.

    tlc: (h, w) in pixels of the training crops, for a NAFNet with local statistics.

    Raises:
        CheckpointError: the file cannot be read, or fits no architecture.
        ConfigError: ``tlc`` is asked of a network without it.
    """
    if path is not None and path.is_file() and read_metadata(path).get(ARCHITECTURE) == MAXIM:
        if tlc is not None:
            raise ConfigError(f"{path}: --tlc is for NAFNets, this is a MAXIM")
        maxim = load_maxim(path)
        return Network(module=maxim.module, architecture=maxim.description, statistics="global", source=str(path))
    return network_of(load_teacher(path, tlc=tlc))


def network_of(teacher: Teacher) -> Network:
    """A NAFNet that is loaded."""
    return Network(
        module=teacher.module,
        architecture=f"NAFNet, width {teacher.shape.width}",
        statistics=statistics_of(teacher.tlc),
        source=teacher.source,
    )


def statistics_of(tlc: tuple[int, int] | None) -> str:
    """What a NAFNet's attention averages over, in words."""
    return "global" if tlc is None else f"local (TLC {tlc[0]}x{tlc[1]})"
