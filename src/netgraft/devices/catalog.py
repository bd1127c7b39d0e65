"""The devices that netgraft knows, by name, and what this machine has of them.

A name is ``backend[:hardware][:precision]``, with what goes without saying left out: this machine's processor,
single precision, or the 8 bits of an NPU that has no other. So ``openvino``, ``openvino:int8``,
``onnxruntime:cuda``, ``ethos-u:u85-2048``. Names are looked up whole, here and nowhere else; only phones may also go
by Qualcomm AI Hub's own names, and devices elsewhere say where (:mod:`netgraft.devices.far.places`). Other packages may
bring devices of their own (:mod:`netgraft.devices.plugins`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import metadata
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from types import MappingProxyType

from netgraft.devices.arm.ethos_u import EthosUDevice
from netgraft.devices.arm.vela import INSTALL as VELA
from netgraft.devices.arm.vela import NPUS
from netgraft.devices.compile_only import COMPILE_ONLY, suffix
from netgraft.devices.compiler import Compiler, FormCompiler
from netgraft.devices.device import Device, FormDevice
from netgraft.devices.executorch.device import ExecuTorchDevice
from netgraft.devices.executorch.lower import INSTALL as EXECUTORCH
from netgraft.devices.fake import FakeDevice
from netgraft.devices.far import places
from netgraft.devices.far.adb import INSTALL as ADB
from netgraft.devices.far.adb import lacking_phone
from netgraft.devices.int8_device import Int8Device
from netgraft.devices.kind import DeviceKind, DeviceRow
from netgraft.devices.mixed_device import MixedDevice
from netgraft.devices.ncnn.convert import INSTALL as NCNN
from netgraft.devices.ncnn.device import NcnnDevice
from netgraft.devices.onnx.int8 import quantize_onnx
from netgraft.devices.onnx.runtime import OnnxRuntimeDevice
from netgraft.devices.onnx.session import lacking_provider
from netgraft.devices.openvino.device import OpenVinoDevice, lacking_precision
from netgraft.devices.openvino.int8 import import_nncf, quantize_with_nncf
from netgraft.devices.plugins import load_plugin, open_plugin, origin, plugin_entries
from netgraft.devices.qualcomm.aihub import AiHubDevice
from netgraft.devices.qualcomm.aihub_client import INSTALL as AIHUB
from netgraft.devices.qualcomm.aihub_client import lacking_token
from netgraft.devices.qualcomm.phones import PHONES
from netgraft.devices.tflite.convert import INSTALL as LITERT
from netgraft.devices.tflite.litert import LitertDevice
from netgraft.errors import ConfigError, DeviceError
from netgraft.names import lookup

log = logging.getLogger(__name__)

_OPENVINO = "pip install 'netgraft[openvino]'"


def _onnxruntime_int8(threads: int) -> Device:
    # The fast forms are fast in single precision only: in 8 bits the plain ones take .8 to .9 of their time.
    return Int8Device(OnnxRuntimeDevice(threads, fast_forms=False), quantize_onnx)


def _openvino_int8(threads: int) -> Device:
    # Opened now, so that a missing quantizer is noticed before the first network.
    import_nncf()
    return Int8Device(OpenVinoDevice(threads), quantize_with_nncf)


def _onnxruntime_mixed(threads: int) -> Device:
    return MixedDevice(OnnxRuntimeDevice(threads), quantize_onnx)


def _openvino_mixed(threads: int) -> Device:
    import_nncf()
    return MixedDevice(OpenVinoDevice(threads), quantize_with_nncf)


def _ethos_u(name: str) -> DeviceKind:
    return DeviceKind(
        name=f"ethos-u:{name}",
        # What runs on the NPU does not depend on this machine's threads.
        open=lambda threads: EthosUDevice(name),
        modules=("ethosu", "ai_edge_litert", "litert_torch", "ai_edge_quantizer"),
        install=VELA,
        note="Arm NPU, int8: its compiler's estimate, nothing measured",
    )


def _aihub(phone: str, precision: str) -> DeviceKind:
    hub_name = PHONES[phone].hub_name if phone in PHONES else phone
    return DeviceKind(
        name=f"aihub:{phone}{suffix(precision)}",
        # What runs on the phone does not depend on this machine's threads.
        open=lambda threads: AiHubDevice(phone, precision),
        modules=("qai_hub",),
        install=AIHUB,
        note=f"a real {hub_name} at Qualcomm AI Hub, {precision}; a run's qualities stay those of fp32",
        lacking=lacking_token,
        on_request=True,
    )


def _elsewhere(name: str) -> Callable[[int], Device]:
    opener = places.opener(name)
    assert opener is not None, "it is a name of that kind"
    return opener


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
                note="ONNX Runtime, this processor, int8",
            ),
            DeviceKind(
                name="onnxruntime:mixed",
                open=_onnxruntime_mixed,
                modules=("onnxruntime",),
                install="pip install onnxruntime",
                note="ONNX Runtime, this processor, each block in fp32 or int8",
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
                note="OpenVINO, this processor, bf16",
                lacking=partial(lacking_precision, "bf16"),
            ),
            DeviceKind(
                name="openvino:int8",
                open=_openvino_int8,
                modules=("openvino", "nncf"),
                install=_OPENVINO,
                note="OpenVINO, this processor, int8",
            ),
            DeviceKind(
                name="openvino:mixed",
                open=_openvino_mixed,
                modules=("openvino", "nncf"),
                install=_OPENVINO,
                note="OpenVINO, this processor, each block in fp32 or int8",
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
                note="LiteRT with XNNPACK, this processor, int8",
            ),
            DeviceKind(
                name="executorch",
                open=ExecuTorchDevice,
                modules=("executorch",),
                install=EXECUTORCH,
                note="ExecuTorch with XNNPACK, this processor, fp32",
            ),
            DeviceKind(
                name="executorch:int8",
                open=partial(ExecuTorchDevice, precision="int8"),
                modules=("executorch", "torchao"),
                install=EXECUTORCH,
                note="ExecuTorch with XNNPACK, this processor, int8",
            ),
            DeviceKind(
                name="ncnn",
                open=NcnnDevice,
                modules=("ncnn", "pnnx"),
                install=NCNN,
                note="ncnn, this processor, fp32",
            ),
            *(_ethos_u(name) for name in NPUS),
            *COMPILE_ONLY,
            *(_aihub(phone, precision) for phone in PHONES for precision in ("fp16", "int8")),
            DeviceKind(
                name=places.HOST,
                open=_elsewhere(places.HOST),
                modules=(),
                install=places.NAME_ONE,
                note="ONNX Runtime on another machine over SSH; it needs Python 3.10, NumPy and ONNX Runtime",
                lacking=places.lacking_machine,
                on_request=True,
            ),
            DeviceKind(
                name="adb",
                open=_elsewhere("adb"),
                modules=("ai_edge_litert", "litert_torch"),
                install=f"{LITERT}; {ADB}",
                note="LiteRT's benchmark_model on the only Android phone; adb:SERIAL for one of several",
                lacking=lacking_phone,
                on_request=True,
            ),
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


def find_device(name: str) -> DeviceKind:
    """The device of this name, not opened yet.

    Raises:
        ConfigError: there is none.
    """
    known = known_devices()
    backend, _, phone = name.partition(":")
    # The hub's own names are in capitals, ours are not: a misspelled one of ours is still told.
    if name not in known and backend == "aihub" and phone != phone.lower():
        return _aihub(phone.removesuffix(":int8"), "int8" if phone.endswith(":int8") else "fp16")
    opener = None if name in known else places.opener(name)
    if opener is None:
        return lookup("device", name, known)
    like = known["adb" if name.startswith("adb") else places.HOST]
    return replace(like, name=name, open=opener, lacking=partial(_lacking_there, opener))


def _lacking_there(opener: Callable[[int], Device]) -> str:
    """What keeps a device elsewhere from being opened."""
    try:
        opener(1)
    except DeviceError as error:
        return str(error)
    return ""


def timed_kind(name: str) -> DeviceKind:
    """The same, of a device that gives latencies.

    Raises:
        ConfigError: there is none, or this one gives no latency.
    """
    kind = find_device(name)
    if kind.compiler is not None:
        raise ConfigError(kind.no_latency)
    return kind


def open_device(name: str, threads: int = 1) -> Device:
    """The device of this name, with ``threads`` threads for a network.

    Raises:
        ConfigError: there is no such device, or it gives no latency.
        DeviceError: what it needs is missing.
    """
    return timed_kind(name).open(threads)


def open_compiler(name: str) -> Compiler:
    """What makes files for the device of this name, e.g. ``qnn:s24-ultra`` or ``executorch``.

    Raises:
        ConfigError: there is no such device, or it has no files of its own.
        DeviceError: what it needs is missing.
    """
    known = known_devices()
    compilers = {kind.name: kind.compiler for kind in known.values() if kind.compiler is not None}
    if name in known and name not in compilers:
        device = known[name].open(1)
        if isinstance(device, FormDevice):
            return FormCompiler(device)
    return lookup("compiler", name, compilers)()


def describe_devices(names: Sequence[str] = ()) -> tuple[DeviceRow, ...]:
    """Every known device, or those that are named, with what this machine has of them.

    Raises:
        ConfigError: there is no device of such a name.
    """
    distributions = metadata.packages_distributions()
    kinds = [find_device(name) for name in names] if names else list(known_devices().values())
    return tuple(_row(kind, distributions) for kind in kinds)


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
        on_request=kind.on_request,
    )
