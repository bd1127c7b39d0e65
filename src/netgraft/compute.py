"""Where PyTorch computes: the processor, or a GPU that it names."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from netgraft.errors import ConfigError, first_line

M = TypeVar("M", bound=nn.Module)
CPU = "cpu"


def check_compute(name: str) -> str:
    """The name of a device that this PyTorch can compute on, e.g. ``cuda:1``.

    Raises:
        ConfigError: there is none of this name.
    """
    try:
        # A device without values, as "meta" is, fails here as well.
        float(torch.ones(1, device=name))
    # Which class says so depends on the device: not built in, no driver, no such card.
    except Exception as error:
        raise ConfigError(
            f"compute {name!r}: PyTorch cannot use it here ({first_line(error)}); cpu always works"
        ) from error
    return name


def moved(module: M, compute: str) -> M:
    """A copy of the module there, or the module itself on the processor, where it is already."""
    return module if compute == CPU else copy.deepcopy(module).to(compute)
