"""LiteRT (TensorFlow Lite) on this machine's processor, through XNNPACK: the runtime of Android applications."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from netgraft.devices.alone import ALONE
from netgraft.devices.device import (
    Array,
    Clock,
    Device,
    DeviceDescription,
    Runnable,
    Unsupported,
    host_cores,
    host_hardware,
    host_system,
    read_network,
)
from netgraft.devices.int8_device import calibration_inputs
from netgraft.devices.measure import SystemClock
from netgraft.devices.onnx.device import checked
from netgraft.devices.quiet import quiet
from netgraft.devices.tflite.convert import INSTALL, quantize_tflite, tflite_bytes
from netgraft.errors import DeviceError, first_line


class TfliteRunnable:
    """A TFLite file in an interpreter, with inputs and outputs (1, c, h, w) in float32 whatever the file has.

    Raises:
        DeviceError: LiteRT is not installed, or refuses the file.
    """

    def __init__(self, content: bytes, threads: int) -> None:
        try:
            self._interpreter: Any = open_interpreter(content, threads)
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise DeviceError(f"LiteRT refuses the network: {first_line(error)}") from error
        self._input, self._output = self._interpreter.get_input_details()[0], self._interpreter.get_output_details()[0]

    def run(self, x: Array) -> Array:
        if self._interpreter is None:
            raise DeviceError("this network was closed: compile it again")
        try:
            self._interpreter.set_tensor(self._input["index"], _quantized(x.transpose(0, 2, 3, 1), self._input))
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise DeviceError(f"LiteRT failed: {first_line(error)}") from error
        y = _restored(self._interpreter.get_tensor(self._output["index"]), self._output)
        return np.ascontiguousarray(y.transpose(0, 3, 1, 2))

    def close(self) -> None:
        self._interpreter = None


class LitertDevice:
    """LiteRT with XNNPACK, one network at a time.

    threads: threads that one network may use. precision: ``fp32`` or ``int8``.

    Raises:
        DeviceError: LiteRT is not installed, or ``threads`` is not positive.
    """

    def __init__(self, threads: int = 1, precision: str = "fp32") -> None:
        if threads < 1:
            raise DeviceError(f"a network cannot run on {threads} threads: use 1 or more")
        _import_interpreter()
        self.threads = threads
        self.precision = precision

    @property
    def description(self) -> DeviceDescription:
        return DeviceDescription(
            backend="litert XNNPACK",
            backend_version=metadata.version("ai-edge-litert"),
            hardware=host_hardware(),
            cores=host_cores(),
            precision=self.precision,
            threads=self.threads,
            system=host_system(),
        )

    @property
    def clock(self) -> Clock:
        return SystemClock()

    def compile(self, module: nn.Module, example: Tensor, calibration: Tensor | None = None) -> Runnable | Unsupported:
        """See :class:`Device`. A network that computes something else than in torch is refused as well.

        Raises:
            DeviceError: the calibration inputs are none of this network's.
        """
        inputs = calibration_inputs(example, calibration)
        return checked(
            lambda: TfliteRunnable(self._file(module, example, inputs), self.threads), module, example, self.precision
        )

    @property
    def single(self) -> Device:
        """See :class:`ReducedDevice`."""
        return self if self.precision == "fp32" else LitertDevice(self.threads)

    def form(self, module: nn.Module, example: Tensor, calibration: Tensor) -> Mapping[str, bytes]:
        """See :class:`FormDevice`."""
        ending = "tflite" if self.precision == "fp32" else f"{self.precision}.tflite"
        return {ending: self._file(module, example, calibration_inputs(example, calibration))}

    def load_form(self, path: Path) -> Runnable:
        """See :class:`FormDevice`."""
        return TfliteRunnable(read_network(path), self.threads)

    def _file(self, module: nn.Module, example: Tensor, inputs: Tensor) -> bytes:
        content = tflite_bytes(module, example)
        return quantize_tflite(content, inputs.numpy()) if self.precision == "int8" else content


def open_interpreter(content: bytes, threads: int = 1) -> Any:
    """LiteRT's interpreter over a file's content.

    Raises:
        DeviceError: LiteRT is not installed.
    """
    return _import_interpreter()(model_content=content, num_threads=threads)


def _import_interpreter() -> Any:
    try:
        with ALONE, quiet():
            from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise DeviceError(f"LiteRT is missing ({error}): {INSTALL}") from error
    return Interpreter


def _quantized(values: Array, tensor: Any) -> Any:
    """Floats as the numbers that a tensor of the file holds."""
    scale, zero = tensor["quantization"]
    if tensor["dtype"] == np.float32:
        return np.ascontiguousarray(values)
    limits = np.iinfo(tensor["dtype"])
    return np.clip(np.round(values / scale) + zero, limits.min, limits.max).astype(tensor["dtype"])


def _restored(values: Any, tensor: Any) -> Array:
    """The numbers that a tensor of the file holds as floats."""
    scale, zero = tensor["quantization"]
    if tensor["dtype"] == np.float32:
        return np.asarray(values, np.float32)
    y: Array = np.float32(scale) * (values.astype(np.float32) - np.float32(zero))
    return y
