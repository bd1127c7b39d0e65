"""The devices that netgraft knows, by name, and what this machine has of them.

A name is ``backend[:hardware][:precision]``, with what goes without saying left out: this machine's processor,
single precision, or the 8 bits of an NPU that has no other. So ``openvino``, ``openvino:int8``,
``onnxruntime:cuda``, ``ethos-u:u85-2048``. Names are looked up whole, here and nowhere else. Other packages may
bring devices of their own (:mod:`netgraft.devices.plugins`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from types import MappingProxyType

from netgraft.devices.device import Device
from netgraft.devices.ethos_u import EthosUDevice
from netgraft.devices.fake import FakeDevice
from netgraft.devices.int8_device import Int8Device
from netgraft.devices.litert import LitertDevice
from netgraft.devices.onnx_int8 import quantize_onnx
from netgraft.devices.onnxruntime import OnnxRuntimeDevice, lacking_provider
from netgraft.devices.openvino import OpenVinoDevice, lacking_precision
from netgraft.devices.openvino_int8 import import_nncf, quantize_with_nncf
from netgraft.devices.plugins import load_plugin, open_plugin, origin, plugin_entries
from netgraft.devices.tflite import INSTALL as LITERT
from netgraft.devices.vela import INSTALL as VELA
from netgraft.devices.vela import NPUS
from netgraft.errors import DeviceError
from netgraft.names import lookup

log = logging.getLogger(__name__)

_OPENVINO = "pip install 'netgraft[openvino]'"


def _nothing_lacking() -> str:
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceKind:
    """A device that netgraft can open."""

    name: str
    """What the user calls it: ``backend[:hardware][:precision]``."""
    open: Callable[[int], Device]
    """Makes the device, given the threads that one network may use."""
    modules: tuple[str, ...]
    """The Python modules that it needs, by the names that they are imported under."""
    install: str
    """How to get what it needs."""
    note: str
    """What it is, in a line."""
    lacking: Callable[[], str] = _nothing_lacking
    """What this machine lacks although the modules are there; empty if nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRow:
    """A device as this machine has it."""

    name: str
    available: bool
    """Whether what it needs is here."""
    version: str
    """The modules that it needs, as far as they are installed, with their versions."""
    lacking: str
    """What is missing; empty if it is available."""
    install: str
    """How to get that; empty if it needs nothing."""
    note: str


def _onnxruntime_int8(threads: int) -> Device:
    # The fast forms are fast in single precision only: in 8 bits the plain ones take .8 to .9 of their time.
    return Int8Device(OnnxRuntimeDevice(threads, fast_forms=False), quantize_onnx)


def _openvino_int8(threads: int) -> Device:
    # Opened now, so that a missing quantizer is noticed before the first network.
    import_nncf()
    return Int8Device(OpenVinoDevice(threads), quantize_with_nncf)


def _ethos_u(name: str) -> DeviceKind:
    return DeviceKind(
        name=f"ethos-u:{name}",
        # What runs on the NPU does not depend on this machine's threads.
        open=lambda threads: EthosUDevice(name),
        modules=("ethosu", "ai_edge_litert", "litert_torch", "ai_edge_quantizer"),
        install=VELA,
        note="Arm NPU, int8: its compiler's estimate, nothing measured; a run's qualities stay those of fp32",
    )


def _provider(name: str, provider: str, install: str, what: str) -> DeviceKind:
    """ONNX Runtime with another execution provider than its own for the processor."""
    return DeviceKind(
        name=f"onnxruntime:{name}",
        open=partial(OnnxRuntimeDevice, provider=provider),
        modules=("onnxruntime",),
        install=install,
        note=f"ONNX Runtime, {what}, fp32; what it cannot run falls back to the processor",
        lacking=partial(lacking_provider, provider),
    )


DEVICES: Mapping[str, DeviceKind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            DeviceKind(
                name="onnxruntime",
                open=OnnxRuntimeDevice,
                modules=("onnxruntime",),
                install="pip install onnxruntime",
                note="ONNX Runtime, this processor, fp32",
            ),
            DeviceKind(
                name="onnxruntime:int8",
                open=_onnxruntime_int8,
                modules=("onnxruntime",),
                install="pip install onnxruntime",
                note="ONNX Runtime, this processor; a run's qualities stay those of fp32",
            ),
            _provider("xnnpack", "XnnpackExecutionProvider", "a build of ONNX Runtime with XNNPACK", "XNNPACK"),
            _provider("nnapi", "NnapiExecutionProvider", "ONNX Runtime for Android", "Android's NNAPI"),
            _provider("coreml", "CoreMLExecutionProvider", "ONNX Runtime for macOS", "Apple's Core ML"),
            _provider("cuda", "CUDAExecutionProvider", "pip install onnxruntime-gpu", "CUDA"),
            _provider("tensorrt", "TensorrtExecutionProvider", "pip install onnxruntime-gpu", "TensorRT"),
            _provider("directml", "DmlExecutionProvider", "pip install onnxruntime-directml", "DirectML"),
            DeviceKind(
                name="openvino",
                open=OpenVinoDevice,
                modules=("openvino",),
                install=_OPENVINO,
                note="OpenVINO, this processor, fp32",
            ),
            DeviceKind(
                name="openvino:bf16",
                open=partial(OpenVinoDevice, precision="bf16"),
                modules=("openvino",),
                install=_OPENVINO,
                note="OpenVINO, this processor; a run's qualities stay those of fp32",
                lacking=partial(lacking_precision, "bf16"),
            ),
            DeviceKind(
                name="openvino:int8",
                open=_openvino_int8,
                modules=("openvino", "nncf"),
                install=_OPENVINO,
                note="OpenVINO, this processor; a run's qualities stay those of fp32",
            ),
            DeviceKind(
                name="litert",
                open=LitertDevice,
                modules=("ai_edge_litert", "litert_torch"),
                install=LITERT,
                note="LiteRT with XNNPACK, this processor, fp32",
            ),
            DeviceKind(
                name="litert:int8",
                open=partial(LitertDevice, precision="int8"),
                modules=("ai_edge_litert", "litert_torch", "ai_edge_quantizer"),
                install=LITERT,
                note="LiteRT with XNNPACK, this processor; a run's qualities stay those of fp32",
            ),
            *(_ethos_u(name) for name in NPUS),
            DeviceKind(
                name="fake",
                open=lambda threads: FakeDevice(),
                modules=(),
                install="",
                note="made-up costs from the MACs, for tests and dry runs; measures nothing",
            ),
        )
    }
)


def known_devices() -> Mapping[str, DeviceKind]:
    """Every device by name: netgraft's own, and those that installed packages bring."""
    known = dict(DEVICES)
    for entry in plugin_entries():
        if entry.name in known:
            log.warning("%s is left out: %s brings it, but there is one already", entry.name, origin(entry))
        else:
            known[entry.name] = _plugin(entry)
    return MappingProxyType(known)


def _plugin(entry: EntryPoint) -> DeviceKind:
    def lacking() -> str:
        try:
            load_plugin(entry)
        except DeviceError as error:
            return str(error)
        return ""

    return DeviceKind(
        name=entry.name,
        open=partial(open_plugin, entry),
        modules=(),
        install=f"pip install --upgrade {entry.dist.name}" if entry.dist else "",
        note=f"from {origin(entry)}",
        lacking=lacking,
    )


def open_device(name: str, threads: int = 1) -> Device:
    """The device of this name, with ``threads`` threads for a network.

    Raises:
        ConfigError: there is no such device.
        DeviceError: what it needs is missing.
    """
    return lookup("device", name, known_devices()).open(threads)


def describe_devices() -> tuple[DeviceRow, ...]:
    """Every known device, with what this machine has of it."""
    distributions = metadata.packages_distributions()
    return tuple(_row(kind, distributions) for kind in known_devices().values())


def _row(kind: DeviceKind, distributions: Mapping[str, list[str]]) -> DeviceRow:
    """distributions: for each module the distributions that it comes from."""
    missing = [module for module in kind.modules if find_spec(module) is None]
    # A module may come from one of several distributions: onnxruntime from onnxruntime-gpu, for one.
    found = [(module, distributions.get(module, [])) for module in kind.modules if module not in missing]
    lacking = f"{' and '.join(missing)} not installed" if missing else kind.lacking()
    return DeviceRow(
        name=kind.name,
        available=not lacking,
        version=", ".join(f"{module} {metadata.version(names[0])}" for module, names in found if names),
        lacking=lacking,
        install=kind.install,
        note=kind.note,
    )
