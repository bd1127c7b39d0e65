"""Devices elsewhere: their names say where, ``remote:ADDRESS[/DEVICE]`` and ``adb[:SERIAL][/DEVICE]``.

ADDRESS is what ``ssh`` takes, an alias of ``~/.ssh/config`` too; DEVICE is the device's name there, without saying
``onnxruntime`` over SSH and ``litert`` on a phone. So ``remote:pi@raspberrypi.local``,
``remote:jetson/onnxruntime:cuda``, ``adb``, ``adb:R5CX12345/litert:int8``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from netgraft.devices.device import Device
from netgraft.devices.far.android import AndroidDevice
from netgraft.devices.far.remote import RemoteDevice, RemoteInt8Device
from netgraft.devices.onnx.int8 import quantize_onnx
from netgraft.errors import ConfigError, DeviceError
from netgraft.names import lookup

HOST = "remote:HOST"
"""What stands for all machines over SSH in a list."""
NAME_ONE = "name a machine, e.g. remote:pi@raspberrypi.local"

Open = Callable[[str, int], Device]
"""From an address and the threads that one network may use."""


def _remote_int8(host: str, threads: int) -> Device:
    # As onnxruntime:int8 on this machine.
    return RemoteInt8Device(RemoteDevice(host, threads, fast_forms=False), quantize_onnx)


def _provider(provider: str) -> Open:
    return lambda host, threads: RemoteDevice(host, threads, provider)


OVER_SSH: Mapping[str, Open] = MappingProxyType(
    {
        "onnxruntime": RemoteDevice,
        "onnxruntime:int8": _remote_int8,
        "onnxruntime:xnnpack": _provider("XnnpackExecutionProvider"),
        "onnxruntime:nnapi": _provider("NnapiExecutionProvider"),
        "onnxruntime:coreml": _provider("CoreMLExecutionProvider"),
        "onnxruntime:cuda": _provider("CUDAExecutionProvider"),
        "onnxruntime:tensorrt": _provider("TensorrtExecutionProvider"),
    }
)
"""Devices of another machine, by their names there."""
ON_PHONES: Mapping[str, Open] = MappingProxyType(
    {
        "litert": AndroidDevice,
        "litert:int8": partial(AndroidDevice, precision="int8"),
        "litert:gpu": partial(AndroidDevice, gpu=True),
    }
)
"""Devices of a phone, by their names there."""


def opener(name: str) -> Callable[[int], Device] | None:
    """Makes the device of this name, given the threads, if it is one elsewhere.

    Raises:
        ConfigError: the name does not say where, or there is no such device there.
    """
    place, _, device = name.partition("/")
    kind, _, address = place.partition(":")
    if kind == "remote":
        if not address or address.startswith("-"):
            raise ConfigError(f"{name!r} names no machine: write remote:ADDRESS, with what ssh takes")
        make = lookup(f"device on {address}", device or "onnxruntime", OVER_SSH)
        return _unnamed if name == HOST else partial(make, address)
    if kind == "adb":
        return partial(lookup("device on a phone", device or "litert", ON_PHONES), address)
    return None


def lacking_machine() -> str:
    """Why no machine can be reached over SSH just so."""
    return "ssh is missing: install OpenSSH's client" if shutil.which("ssh") is None else NAME_ONE


def _unnamed(threads: int) -> Device:
    raise DeviceError(f"HOST stands for any machine: {NAME_ONE}")
