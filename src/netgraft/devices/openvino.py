"""OpenVINO on this machine's processor, in single precision."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from netgraft.devices.device import Array, DeviceDescription, Runnable
from netgraft.devices.onnx_device import OnnxDevice, check_ends, first_line
from netgraft.devices.onnx_graph import INPUT
from netgraft.errors import DeviceError

TELEMETRY = "openvino_telemetry"


class OpenVinoRunnable:
    """A compiled network with the one request that runs it."""

    def __init__(self, request: Any) -> None:
        self._request = request

    def run(self, x: Array) -> Array:
        if self._request is None:
            raise DeviceError("this network was closed: load or compile it again")
        try:
            self._request.infer({INPUT: x}, share_inputs=True)
            # A copy: the request writes its next result to the same place.
            y: Array = self._request.get_output_tensor().data.copy()
        except RuntimeError as error:
            raise DeviceError(f"OpenVINO failed: {_reason(error)}") from error
        return y

    def close(self) -> None:
        self._request = None


class OpenVinoDevice(OnnxDevice):
    """OpenVINO's processor plugin in single precision, one network at a time.

    threads: threads that one network may use. Takes the same files as ONNX Runtime.

    Raises:
        DeviceError: OpenVINO is not installed, or ``threads`` is not positive.
    """

    def __init__(self, threads: int = 1, *, fast_forms: bool = True) -> None:
        self._openvino = _import_runtime()
        super().__init__(threads, fast_forms=fast_forms)
        self._core = self._openvino.Core()
        self._options = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            # On a processor with bfloat16 it would take that, and compute something else than was asked for.
            "INFERENCE_PRECISION_HINT": "f32",
            # A pinned thread waits whenever another process has its core.
            "ENABLE_CPU_PINNING": False,
        }

    @property
    def description(self) -> DeviceDescription:
        return self._described("openvino CPU", self._openvino.get_version())

    def open(self, content: bytes) -> Runnable:
        try:
            compiled = self._core.compile_model(self._core.read_model(content), "CPU", self._options)
            check_ends([port.any_name for port in (*compiled.inputs, *compiled.outputs)])
            return OpenVinoRunnable(compiled.create_infer_request())
        except RuntimeError as error:
            raise DeviceError(f"OpenVINO refuses the network: {_reason(error)}") from error


def _import_runtime() -> ModuleType:
    """OpenVINO, without its telemetry: the import alone would report itself to the vendor."""
    missing = object()
    before = sys.modules.get(TELEMETRY, missing)
    # OpenVINO takes an empty stand-in where this package cannot be imported.
    sys.modules[TELEMETRY] = None  # type: ignore[assignment]
    try:
        import openvino
    except ImportError as error:
        raise DeviceError(f"OpenVINO is missing ({error}): pip install 'netgraft[openvino]'") from error
    finally:
        if before is missing:
            del sys.modules[TELEMETRY]
        else:
            sys.modules[TELEMETRY] = before  # type: ignore[assignment]
    return openvino


def _reason(error: Exception) -> str:
    """What is wrong, without the places in OpenVINO's sources where it was noticed."""
    lines = [line for line in str(error).splitlines() if line.strip() and " at src/" not in line]
    told = [line for line in lines if not line.startswith("Exception from")]
    return told[0] if told else first_line(error)
