"""The devices that netgraft knows, what this machine has of them, and whether they work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from types import MappingProxyType

import numpy as np
import torch
from torch import nn

from netgraft.devices.device import Device, Unsupported
from netgraft.devices.fake import FakeDevice
from netgraft.devices.measure import MeasureProtocol, measure
from netgraft.devices.onnxruntime import OnnxRuntimeDevice
from netgraft.devices.openvino import OpenVinoDevice
from netgraft.errors import DeviceError
from netgraft.names import lookup
from netgraft.nets.nafnet import NafBlock, start_residuals


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceKind:
    """A device that netgraft can open."""

    name: str
    """What the user calls it."""
    open: Callable[[int], Device]
    """Makes the device, given the threads that one network may use."""
    package: str | None
    """The distribution that it needs; None if it needs none."""
    install: str
    """How to get that."""
    note: str
    """What it is, in a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRow:
    """A device as this machine has it."""

    name: str
    available: bool
    """Whether what it needs is installed."""
    version: str
    """Version of what it needs; empty if it is missing or needs nothing."""
    install: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCheck:
    """What came of running a tiny network on a device."""

    name: str
    latency_ms: float | None
    """Median of one NAF block, (1, 8, 32, 32); None if it did not run."""
    max_abs_error: float | None
    """Largest difference from torch; None if it did not run."""
    reason: str
    """Why it did not run; empty if it did."""


DEVICES: Mapping[str, DeviceKind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            DeviceKind(
                name="onnxruntime",
                open=OnnxRuntimeDevice,
                package="onnxruntime",
                install="pip install onnxruntime",
                note="ONNX Runtime on this machine's processor, single precision",
            ),
            DeviceKind(
                name="openvino",
                open=OpenVinoDevice,
                package="openvino",
                install="pip install 'netgraft[openvino]'",
                note="OpenVINO on this machine's processor, single precision",
            ),
            DeviceKind(
                name="fake",
                open=lambda threads: FakeDevice(),
                package=None,
                install="",
                note="made-up costs from the multiply-accumulates, for tests and dry runs; measures nothing",
            ),
        )
    }
)


def open_device(name: str, threads: int = 1) -> Device:
    """The device of this name, with ``threads`` threads for a network.

    Raises:
        ConfigError: there is no such device.
        DeviceError: what it needs is missing.
    """
    return lookup("device", name, DEVICES).open(threads)


def describe_devices() -> tuple[DeviceRow, ...]:
    """Every known device, with what this machine has of it."""
    rows = []
    for kind in DEVICES.values():
        version = "" if kind.package is None else _installed(kind.package)
        rows.append(
            DeviceRow(
                name=kind.name,
                available=kind.package is None or version != "",
                version=version,
                install=kind.install,
                note=kind.note,
            )
        )
    return tuple(rows)


def check_device(name: str, threads: int = 1) -> DeviceCheck:
    """Run a tiny network on a device; takes a few seconds. A device that is missing or fails is a row too.

    Raises:
        ConfigError: there is no such device.
    """
    block, x = _tiny_network()
    kind = lookup("device", name, DEVICES)
    try:
        device = kind.open(threads)
        runnable = device.compile(block, x)
        if isinstance(runnable, Unsupported):
            return DeviceCheck(name=name, latency_ms=None, max_abs_error=None, reason=runnable.reason)
        protocol = MeasureProtocol(samples=10, min_sample_ms=1.0)
        latency = measure({name: runnable}, {name: x.numpy()}, protocol, device.clock)[name]
        y = runnable.run(x.numpy())
        runnable.close()
    except DeviceError as error:
        return DeviceCheck(name=name, latency_ms=None, max_abs_error=None, reason=str(error))
    with torch.no_grad():
        off = float(np.abs(y - block(x).numpy()).max())
    return DeviceCheck(name=name, latency_ms=latency.median_ms, max_abs_error=off, reason="")


def _tiny_network() -> tuple[nn.Module, torch.Tensor]:
    """A NAF block with random weights that all matter, and an input for it."""
    block = NafBlock(8).eval()
    start_residuals(block, 0.5)
    generator = torch.Generator().manual_seed(0)
    for param in block.parameters():
        if param.ndim > 1 and param.shape[0] > 1:
            nn.init.normal_(param, std=0.2, generator=generator)
    return block, torch.randn(1, 8, 32, 32, generator=generator)


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
