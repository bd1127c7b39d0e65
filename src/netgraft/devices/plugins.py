"""Devices from other packages.

A package names a class under the entry point group ``netgraft.devices``; the entry point's name is the device's,
``backend[:hardware][:precision]``. The class takes the threads that one network may use and makes a
:class:`~netgraft.devices.device.Device`. Nothing of such a package is imported before its device is opened, or
``netgraft devices`` asks whether it could be. ``examples/torch_device`` is such a package.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

from netgraft.devices.device import Device
from netgraft.errors import DeviceError

GROUP = "netgraft.devices"
PARTS = ("description", "clock", "compile")
"""What a device has, see :class:`Device`."""


def plugin_entries() -> tuple[EntryPoint, ...]:
    """The devices that installed packages bring."""
    return tuple(entry_points(group=GROUP))


def open_plugin(entry: EntryPoint, threads: int) -> Device:
    """The device of an entry point.

    Raises:
        DeviceError: the class cannot be imported, refuses, or makes something that is no device.
    """
    device = load_plugin(entry)(threads)
    absent = [part for part in PARTS if not hasattr(device, part)]
    if absent:
        raise DeviceError(f"{origin(entry)}: {entry.value} makes no device: it has no {', '.join(absent)}")
    return device


def load_plugin(entry: EntryPoint) -> Callable[[int], Device]:
    """The class of an entry point.

    Raises:
        DeviceError: it cannot be imported.
    """
    try:
        made: Callable[[int], Device] = entry.load()
    except (ImportError, AttributeError, SyntaxError) as error:
        raise DeviceError(f"{origin(entry)}: {entry.value} cannot be imported: {error}") from error
    if not callable(made):
        raise DeviceError(f"{origin(entry)}: {entry.value} is no class")
    return made


def origin(entry: EntryPoint) -> str:
    """The package, with its version, that an entry point is from."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown package"
