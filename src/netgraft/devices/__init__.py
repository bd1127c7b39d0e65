"""Runtimes behind one Protocol, and the timing loop that they share."""

from netgraft.devices.catalog import (
    DEVICES,
    describe_devices,
    find_device,
    known_devices,
    open_compiler,
    open_device,
    timed_kind,
)
from netgraft.devices.check import DeviceCheck, check_device
from netgraft.devices.compiler import Compilation, Compiled, Compiler, GraphCompiler
from netgraft.devices.device import (
    HERE,
    Clock,
    Device,
    DeviceDescription,
    FileDevice,
    FormDevice,
    PlacedDevice,
    ReducedDevice,
    Runnable,
    Unsupported,
    place_of,
)
from netgraft.devices.fake import FakeClock, FakeDevice
from netgraft.devices.far.remote import RemoteDevice
from netgraft.devices.int8_device import Int8Device
from netgraft.devices.kind import DeviceKind, DeviceRow
from netgraft.devices.measure import (
    DRIFT_PERCENT,
    Latency,
    MeasureProtocol,
    QueueDevice,
    SystemClock,
    TimingDevice,
    drift_percent,
    measure,
    measure_modules,
    time_networks,
)
from netgraft.devices.mixed_device import MIXED, MixedDevice
from netgraft.devices.onnx.device import OnnxDevice
from netgraft.devices.onnx.graph import onnx_bytes, to_onnx
from netgraft.devices.onnx.int8 import quantize_onnx
from netgraft.devices.onnx.parts import OnnxParts
from netgraft.devices.onnx.runtime import OnnxRuntimeDevice
from netgraft.devices.openvino.device import OpenVinoDevice
from netgraft.devices.parity import disagreement, torch_output
from netgraft.devices.qualcomm.aihub import AiHubDevice
from netgraft.devices.qualcomm.qnn import Placement, QnnCompiler

__all__ = [
    "DEVICES",
    "DRIFT_PERCENT",
    "HERE",
    "MIXED",
    "AiHubDevice",
    "Clock",
    "Compilation",
    "Compiled",
    "Compiler",
    "Device",
    "DeviceCheck",
    "DeviceDescription",
    "DeviceKind",
    "DeviceRow",
    "FakeClock",
    "FakeDevice",
    "FileDevice",
    "FormDevice",
    "GraphCompiler",
    "Int8Device",
    "Latency",
    "MeasureProtocol",
    "MixedDevice",
    "OnnxDevice",
    "OnnxParts",
    "OnnxRuntimeDevice",
    "OpenVinoDevice",
    "PlacedDevice",
    "Placement",
    "QnnCompiler",
    "QueueDevice",
    "ReducedDevice",
    "RemoteDevice",
    "Runnable",
    "SystemClock",
    "TimingDevice",
    "Unsupported",
    "check_device",
    "describe_devices",
    "disagreement",
    "drift_percent",
    "find_device",
    "known_devices",
    "measure",
    "measure_modules",
    "onnx_bytes",
    "open_compiler",
    "open_device",
    "place_of",
    "quantize_onnx",
    "time_networks",
    "timed_kind",
    "to_onnx",
    "torch_output",
]
