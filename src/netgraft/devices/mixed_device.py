"""ONNX runtimes in two precisions: some blocks of a network in 8 bits, the others in single precision."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import onnx
from torch import Tensor, nn

from netgraft.devices.device import Array, Clock, Device, DeviceDescription, Runnable, Unsupported
from netgraft.devices.onnx.device import OnnxDevice, checked
from netgraft.errors import ExportError

MIXED = "mixed"
"""The precision of such a device."""

QuantizeNodes = Callable[[bytes, Array, Collection[str]], bytes]
"""From an ONNX file, its calibration inputs (n, c, h, w) and names of its nodes to the file with these in 8 bits.

Raises:
    ExportError: the quantizer rejects the network.
"""


class MixedDevice(OnnxDevice):
    """A device that computes chosen blocks in 8 bits.

    device: opens the files; its ``fast_forms`` decide in which form they are exported. Without chosen blocks a network
    is computed as ``device`` does.
    """

    precision = MIXED

    def __init__(self, device: OnnxDevice, quantize: QuantizeNodes) -> None:
        super().__init__(device.threads, fast_forms=device.fast_forms)
        self.device = device
        self.quantize = quantize

    @property
    def description(self) -> DeviceDescription:
        return dataclasses.replace(self.device.description, precision=self.precision)

    @property
    def clock(self) -> Clock:
        return self.device.clock

    @property
    def single(self) -> Device:
        """See :class:`ReducedDevice`."""
        return self.device

    def open(self, content: bytes) -> Runnable:
        return self.device.open(content)

    def profile(self, content: bytes, x: Array) -> dict[str, float]:
        return self.device.profile(content, x)

    def own_files(self, content: bytes) -> Mapping[str, bytes]:
        return self.device.own_files(content)

    def load(self, path: Path) -> Runnable:
        return self.device.load(path)

    def compile_mixed(
        self, content: bytes, paths: Collection[str], module: nn.Module, example: Tensor, calibration: Tensor
    ) -> Runnable | Unsupported:
        """:meth:`compile_graph` with what :meth:`mixed` gives; a network whose signal is lost is refused as well."""
        precision = "int8" if paths else self.device.precision
        return checked(lambda: self.open(self.mixed(content, paths, calibration)), module, example, precision)

    def mixed(self, content: bytes, paths: Collection[str], calibration: Tensor) -> bytes:
        """A file of :class:`~netgraft.devices.onnx.parts.OnnxParts` with its blocks at ``paths`` in 8 bits, or all of a
        block's own file if ``paths`` names the empty one.

        calibration: (n, c, h, w), inputs that the network will meet.

        Raises:
            ExportError: the quantizer rejects the network.
        """
        starts = tuple(f"{path}." if path else "" for path in paths)
        if not starts:
            return content
        nodes = {node.name for node in onnx.load_from_string(content).graph.node if node.name.startswith(starts)}
        if not nodes:
            raise ExportError(f"the graph has no nodes of {', '.join(paths)}")
        return self.quantize(content, calibration.numpy(), nodes)
