"""ONNX runtimes in 8 bits: every network is quantized before the runtime opens it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor, nn

from netgraft.devices.device import Array, Clock, Device, DeviceDescription, Runnable, Unsupported
from netgraft.devices.onnx.device import OnnxDevice, checked
from netgraft.devices.onnx.graph import onnx_bytes
from netgraft.errors import DeviceError

Quantize = Callable[[bytes, Array], bytes]
"""From an ONNX file and its calibration inputs (n, c, h, w) to the file in 8 bits.

Raises:
    ExportError: the quantizer rejects the network.
"""


class Int8Device:
    """A device in 8 bits: weights and activations are quantized after training.

    device: opens the quantized files; its ``fast_forms`` decide in which form they are exported. It loads no
    files: those that netgraft exports are in single precision, and their calibration inputs are not in them.
    """

    def __init__(self, device: OnnxDevice, quantize: Quantize) -> None:
        self.device = device
        self.quantize = quantize

    @property
    def description(self) -> DeviceDescription:
        return dataclasses.replace(self.device.description, precision="int8")

    @property
    def clock(self) -> Clock:
        return self.device.clock

    def compile(self, module: nn.Module, example: Tensor, calibration: Tensor | None = None) -> Runnable | Unsupported:
        """See :class:`Device`. A network in which quantization leaves nothing of the signal is refused as well.

        Raises:
            DeviceError: the calibration inputs are none of this network's.
        """
        inputs = calibration_inputs(example, calibration)
        return checked(lambda: self.device.open(self._file(module, example, inputs)), module, example, "int8")

    def file(self, module: nn.Module, example: Tensor, calibration: Tensor | None = None) -> bytes:
        """The content of the quantized ONNX file that :meth:`compile` opens.

        Raises:
            ExportError: the exporter or the quantizer rejects the module.
            DeviceError: the calibration inputs are none of this network's.
        """
        return self._file(module, example, calibration_inputs(example, calibration))

    @property
    def single(self) -> Device:
        """See :class:`ReducedDevice`."""
        return self.device

    def form(self, module: nn.Module, example: Tensor, calibration: Tensor) -> Mapping[str, bytes]:
        """See :class:`FormDevice`."""
        files = self.device.own_files(self.file(module, example, calibration))
        return {f"int8.{ending}": content for ending, content in files.items()}

    def load_form(self, path: Path) -> Runnable:
        """See :class:`FormDevice`."""
        return self.device.load(path)

    def per_op_ms(self, module: nn.Module, example: Tensor, calibration: Tensor | None = None) -> dict[str, float]:
        """Where the time of one run goes, see :meth:`OnnxDevice.profile`.

        Raises:
            ExportError: the exporter or the quantizer rejects the module.
            DeviceError: the runtime refuses it.
        """
        return self.device.profile(self.file(module, example, calibration), example.numpy())

    def _file(self, module: nn.Module, example: Tensor, inputs: Tensor) -> bytes:
        return self.quantize(onnx_bytes(module, example, fast_forms=self.device.fast_forms), inputs.numpy())


def calibration_inputs(example: Tensor, calibration: Tensor | None) -> Tensor:
    """(n, c, h, w), those that were given, or the example (1, c, h, w).

    Raises:
        DeviceError: they are none of a network for such an example.
    """
    inputs = example if calibration is None else calibration
    if len(inputs) == 0 or inputs.shape[1:] != example.shape[1:]:
        raise DeviceError(f"calibration inputs {tuple(inputs.shape)} do not fit a network for {tuple(example.shape)}")
    return inputs
