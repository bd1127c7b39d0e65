"""Networks as ncnn's two files: the layers in text (.param) and the weights (.bin), by its converter pnnx.

pnnx reads what torch traces. A trace follows one branch of a network that decides by its data, and would be wrong on
other inputs; hence what is traced is what ``torch.export`` made of it, which refuses such a network.

A scale and an offset per channel become a depthwise 1x1 convolution: alone, as a block is when it is timed, pnnx gives
them four dimensions, and ncnn the result five.
"""

from __future__ import annotations

import copy
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from netgraft.devices.quiet import quiet
from netgraft.errors import DeviceError, ExportError, first_line
from netgraft.nets.blocks import FittedAffine

INSTALL = "pip install 'netgraft[ncnn]'"
TIMEOUT_S = 600
"""A converter that has not finished by then hangs."""


class NcnnFiles(NamedTuple):
    """A network as ncnn takes it."""

    param: bytes
    """Its layers."""
    weights: bytes


def ncnn_files(module: nn.Module, example: Tensor) -> NcnnFiles:
    """The files of ``module`` for inputs like ``example`` (1, c, h, w), in single precision.

    Raises:
        ExportError: the converter rejects the module.
        DeviceError: the converter is not installed, or hangs.
    """
    affine: dict[int, object] = {
        id(part): _depthwise(part) for part in module.modules() if isinstance(part, FittedAffine)
    }
    # As if copied already: the copy takes these in place of what they stand for.
    frozen = copy.deepcopy(module, affine).eval().requires_grad_(False)
    with tempfile.TemporaryDirectory() as name, quiet():
        folder = Path(name)
        try:
            program = torch.export.export(frozen, (example,))
            # It runs for the one shape only, so that there is nothing to guard.
            traced = torch.jit.trace(program.module(check_guards=False), example, check_trace=False)  # type: ignore[no-untyped-call]
            traced.save(str(folder / "network.pt"))
        except Exception as error:
            # The exporter lets whatever comes up in the network's own code through.
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise ExportError(f"cannot express {type(module).__name__} in ncnn: {reason}") from error
        return _converted(folder, example)


def _depthwise(affine: FittedAffine) -> nn.Conv2d:
    """The convolution that computes the same."""
    channels = affine.scale.numel()
    conv = nn.Conv2d(channels, channels, 1, groups=channels, device="meta")
    conv.weight = nn.Parameter(affine.scale.detach().view(-1, 1, 1, 1).clone())
    conv.bias = nn.Parameter(affine.offset.detach().flatten().clone())
    return conv


def _converted(folder: Path, example: Tensor) -> NcnnFiles:
    """The files that pnnx makes of ``network.pt``."""
    shape = ",".join(map(str, example.shape))
    command = [_converter(), "network.pt", f"inputshape=[{shape}]f32", "fp16=0"]
    try:
        outcome = subprocess.run(command, cwd=folder, capture_output=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"ncnn's converter did not finish within {TIMEOUT_S} seconds") from error
    try:
        return NcnnFiles(*((folder / f"network.ncnn.{ending}").read_bytes() for ending in ("param", "bin")))
    except OSError as error:
        said = outcome.stderr.decode(errors="replace").strip().splitlines()
        complaint = said[-1] if said else f"it ended with exit code {outcome.returncode}"
        raise ExportError(f"ncnn's converter rejects the network: {complaint}") from error


def _converter() -> str:
    try:
        import pnnx
    except ImportError as error:
        raise DeviceError(f"ncnn's converter is missing ({error}): {INSTALL}") from error
    return str(pnnx.EXEC_PATH)
