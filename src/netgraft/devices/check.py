"""Whether a device works: a tiny network, run and compared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from netgraft.devices.catalog import find_device, open_device
from netgraft.devices.compiler import Compiler
from netgraft.devices.device import Unsupported
from netgraft.devices.measure import MeasureProtocol, time_networks
from netgraft.devices.parity import disagreement, torch_output
from netgraft.errors import DeviceError
from netgraft.nets.nafnet import NafBlock, start_residuals


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCheck:
    """What came of running a tiny network on a device."""

    name: str
    latency_ms: float | None
    """Median of one NAF block, (1, 8, 32, 32); None if it did not run, or where nothing can be timed."""
    max_abs_error: float | None
    """Largest difference from torch; None if it did not run."""
    reason: str
    """Why it did not run, or what is wrong with its output; empty if nothing."""
    placement: str = ""
    """What the compiler tells, of a device that does nothing but compile."""


def check_device(name: str, threads: int = 1) -> DeviceCheck:
    """Run a tiny network on a device; takes a few seconds. A device that is missing or fails is a row too.

    Where nothing can be timed the network is compiled and no more.

    Raises:
        ConfigError: there is no such device.
    """
    block, x = _tiny_network()
    try:
        compiler = find_device(name).compiler
        return _timed(name, threads, block, x) if compiler is None else _placed(name, compiler(), block, x)
    except DeviceError as error:
        return _failed(name, str(error))


def _timed(name: str, threads: int, block: nn.Module, x: torch.Tensor) -> DeviceCheck:
    device = open_device(name, threads)
    runnable = device.compile(block, x)
    if isinstance(runnable, Unsupported):
        return _failed(name, runnable.reason)
    protocol = MeasureProtocol(samples=10, min_sample_ms=1.0)
    latency = time_networks(device, {name: runnable}, {name: x.numpy()}, protocol)[name]
    if isinstance(latency, Unsupported):
        return _failed(name, latency.reason)
    y = runnable.run(x.numpy())
    runnable.close()
    reference = torch_output(block, x)
    wrong = disagreement(y, reference, device.description.precision)
    if wrong is not None:
        return _failed(name, wrong)
    off = float(np.abs(y - reference).max())
    return DeviceCheck(name=name, latency_ms=latency.median_ms, max_abs_error=off, reason="")


def _placed(name: str, compiler: Compiler, block: nn.Module, x: torch.Tensor) -> DeviceCheck:
    placement = compiler.compile(block, x)
    if isinstance(placement, Unsupported):
        return _failed(name, placement.reason)
    return DeviceCheck(name=name, latency_ms=None, max_abs_error=None, reason="", placement=str(placement))


def _failed(name: str, reason: str) -> DeviceCheck:
    return DeviceCheck(name=name, latency_ms=None, max_abs_error=None, reason=reason)


def _tiny_network() -> tuple[nn.Module, torch.Tensor]:
    """A NAF block with random weights that all matter, and an input for it."""
    block = NafBlock(8).eval()
    start_residuals(block, 0.5)
    generator = torch.Generator().manual_seed(0)
    for param in block.parameters():
        if param.ndim > 1 and param.shape[0] > 1:
            nn.init.normal_(param, std=0.2, generator=generator)
    return block, torch.randn(1, 8, 32, 32, generator=generator)
