"""What a device is: one seam between netgraft and the runtimes that it measures and exports for.

A device is a backend with its hardware and precision. It compiles a module for an input shape, or says why it
cannot: a refusal is a value, because the search simply leaves that option out.
"""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    # What this module says is needed on machines without torch too, see :mod:`netgraft.devices.far.worker`.
    from torch import Tensor, nn

from netgraft.errors import DeviceError

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceDescription:
    """Everything that a latency depends on besides the network: two equal descriptions may share a table."""

    backend: str
    """Name of the software, e.g. ``onnxruntime``."""
    backend_version: str
    """Its version."""
    hardware: str
    """Name of the processor that runs the network."""
    cores: int
    """Processors that the operating system offers, however many are used."""
    precision: str
    """Number format of the computation, e.g. ``fp32``."""
    threads: int
    """Threads that one network runs on."""
    system: str
    """Operating system and architecture, e.g. ``Linux x86_64``."""

    def as_dict(self) -> dict[str, str | int]:
        """Plain data, for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class Unsupported:
    """The device does not run this network."""

    reason: str
    """One line for the report."""


class Clock(Protocol):
    """Where times come from: the machine's clocks, or a made-up one in tests."""

    def wall(self) -> float:
        """Seconds on the wall since an arbitrary start; never runs backwards."""
        ...

    def cpu(self) -> float:
        """Seconds of processor time that this process has used, over all its threads."""
        ...


class Runnable(Protocol):
    """A network that is ready to run on a device."""

    def run(self, x: Array) -> Array:
        """Run it once. x: (1, c, h, w) of the shape that it was compiled for.

        Raises:
            DeviceError: the device failed.
        """
        ...

    def close(self) -> None:
        """Give its memory back; it does not run any more."""
        ...


@runtime_checkable
class Estimated(Protocol):
    """A network whose latency is computed and not timed: it is the same in every run, so that none is needed."""

    @property
    def latency_ms(self) -> float:
        """How long one run takes."""
        ...


class Device(Protocol):
    """Compiles networks and knows the clock that times them."""

    @property
    def description(self) -> DeviceDescription:
        """What the latencies will depend on."""
        ...

    @property
    def clock(self) -> Clock:
        """The clock that runs with this device."""
        ...

    def compile(self, module: nn.Module, example: Tensor, calibration: Tensor | None = None) -> Runnable | Unsupported:
        """Make ``module`` ready for inputs like ``example`` (1, c, h, w); the module itself is left as it is.

        calibration: (n, c, h, w), inputs that it will meet, for a device that quantizes: images for a network,
        the features at its site for a block. Without them ``example`` serves, which is enough for a latency but
        not for what the network computes. Other devices have no use for them.

        Raises:
            DeviceError: the device itself is out of order; a network that it refuses is ``Unsupported``.
        """
        ...


@runtime_checkable
class FileDevice(Device, Protocol):
    """A device that also runs networks from the files that netgraft exports."""

    def load(self, path: Path) -> Runnable:
        """Make the network in the file ready.

        Raises:
            DeviceError: the file cannot be read or is refused.
        """
        ...


@runtime_checkable
class FormDevice(Device, Protocol):
    """A device that runs whole networks from files in a form of its own: what ships for it."""

    def form(self, module: nn.Module, example: Tensor, calibration: Tensor) -> Mapping[str, bytes]:
        """The files of a deployed network for inputs like ``example`` (1, c, h, w), by the ending of their names, e.g.
        ``int8.onnx``; the first is the one that :meth:`load_form` takes, what others there are stands beside it.

        calibration: (n, c, h, w), images that it will meet, for a device that quantizes.

        Raises:
            ExportError: the network cannot be brought into this form.
            DeviceError: the device is out of order, or the calibration inputs are none of this network's.
        """
        ...

    def load_form(self, path: Path) -> Runnable:
        """Make the network in such a file ready.

        Raises:
            DeviceError: the file cannot be read or is refused.
        """
        ...


@runtime_checkable
class ReducedDevice(Device, Protocol):
    """A device of fewer bits whose hardware and runtime also compute in single precision."""

    @property
    def single(self) -> Device:
        """The same in single precision, with the same clock or one of the same kind: both may share a session."""
        ...


HERE = "this machine"
"""The place of devices that run in this process, or whose networks are compiled by it for minutes."""


@runtime_checkable
class PlacedDevice(Device, Protocol):
    """A device that is not here: other devices may be timed at the same time, except those of the same place."""

    @property
    def place(self) -> str:
        """The machine that it is, or is in."""
        ...


def place_of(device: Device) -> str:
    """The machine that a device occupies while it is timed."""
    return device.place if isinstance(device, PlacedDevice) else HERE


def read_network(path: Path) -> bytes:
    """The content of a network's file.

    Raises:
        DeviceError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DeviceError(f"cannot read {path}: {error.strerror or error}") from error


def host_hardware() -> str:
    """Name of this machine's processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    board = Path("/proc/device-tree/model")
    if board.is_file():
        # Arm boards: their processors have no name there.
        return board.read_text(errors="replace").rstrip("\0\n")
    return platform.processor() or platform.machine()


def host_cores() -> int:
    """Processors that the operating system offers."""
    return os.cpu_count() or 1


def host_system() -> str:
    """Operating system and architecture of this machine."""
    return f"{platform.system()} {platform.machine()}"
