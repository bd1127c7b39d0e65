"""OpenVINO on this machine's processor."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from netgraft.devices.device import Array, Device, DeviceDescription, Runnable, read_network
from netgraft.devices.onnx.device import OnnxDevice, check_ends
from netgraft.devices.onnx.graph import INPUT, OUTPUT
from netgraft.errors import DeviceError, ExportError, first_line

TELEMETRY = "openvino_telemetry"
PROFILE_RUNS, PROFILE_WARMUP = 12, 4
HINTS: Mapping[str, str] = MappingProxyType({"fp32": "f32", "bf16": "bf16"})
"""OpenVINO's names for precisions."""


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
    """OpenVINO's processor plugin, one network at a time.

    threads: threads that one network may use. precision: ``fp32`` or ``bf16``, for files of single precision; what
    a quantized file holds in 8 bits is computed so, and the rest in this precision. Takes the same files as ONNX
    Runtime.

    Raises:
        DeviceError: OpenVINO is not installed, the processor does not compute in this precision, or ``threads``
            is not positive.
    """

    def __init__(self, threads: int = 1, precision: str = "fp32", *, fast_forms: bool = True) -> None:
        self._openvino = import_openvino()
        super().__init__(threads, fast_forms=fast_forms)
        self.precision = precision
        self._core = self._openvino.Core()
        lack = lacking_precision(precision)
        if lack:
            raise DeviceError(lack)
        self._options = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            # Left to itself it takes bfloat16 where the processor has it, whatever was asked for.
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            # A pinned thread waits whenever another process has its core.
            "ENABLE_CPU_PINNING": False,
        }

    @property
    def description(self) -> DeviceDescription:
        return self._described("openvino CPU", self._openvino.get_version())

    @property
    def single(self) -> Device:
        """See :class:`ReducedDevice`."""
        return self if self.precision == "fp32" else OpenVinoDevice(self.threads, fast_forms=self.fast_forms)

    def open(self, content: bytes) -> Runnable:
        return OpenVinoRunnable(self._request(content, self._options))

    def load(self, path: Path) -> Runnable:
        """See :class:`FileDevice`; also takes OpenVINO's own form, the ``.xml`` with the ``.bin`` beside it."""
        if path.suffix != ".xml":
            return super().load(path)
        content, weights = read_network(path), read_network(path.with_suffix(".bin"))
        try:
            return OpenVinoRunnable(self._request(content, self._options, weights))
        except DeviceError as error:
            raise DeviceError(f"{path}: {error}") from error

    def own_files(self, content: bytes) -> Mapping[str, bytes]:
        """See :class:`OnnxDevice`: OpenVINO's own form."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.xml"
            try:
                # Halving what stays in floats is not asked for.
                self._openvino.save_model(self._core.read_model(content), path, compress_to_fp16=False)
            except RuntimeError as error:
                raise ExportError(f"OpenVINO cannot write the network: {_reason(error)}") from error
            return {"xml": path.read_bytes(), "bin": path.with_suffix(".bin").read_bytes()}

    def profile(self, content: bytes, x: Array) -> dict[str, float]:
        """See :class:`OnnxDevice`. For each operator the median over several runs after warm-up."""
        request = self._request(content, {**self._options, "PERF_COUNT": True})
        times: dict[tuple[str, str], list[float]] = defaultdict(list)
        for run in range(PROFILE_RUNS):
            request.infer({INPUT: x}, share_inputs=True)
            if run >= PROFILE_WARMUP:
                for operator in request.get_profiling_info():
                    times[operator.node_type, operator.node_name].append(operator.real_time.total_seconds() * 1e3)
        by_type: dict[str, float] = defaultdict(float)
        for (node_type, _), ms in times.items():
            by_type[node_type] += statistics.median(ms)
        # What was optimized away stays in the list and takes no time.
        return dict(sorted(((kind, ms) for kind, ms in by_type.items() if ms > 0), key=lambda item: -item[1]))

    def _request(self, content: bytes, options: Mapping[str, Any], weights: bytes = b"") -> Any:
        try:
            network = self._core.read_model(content, weights) if weights else self._core.read_model(content)
            compiled = self._core.compile_model(network, "CPU", options)
            # A port takes over the names of operators that were folded into it, as a multiplication by 1 is.
            inputs = [INPUT if INPUT in port.get_names() else port.any_name for port in compiled.inputs]
            outputs = [OUTPUT if OUTPUT in port.get_names() else port.any_name for port in compiled.outputs]
            check_ends([*inputs, *outputs])
            return compiled.create_infer_request()
        except RuntimeError as error:
            raise DeviceError(f"OpenVINO refuses the network: {_reason(error)}") from error


def lacking_precision(precision: str) -> str:
    """What is wrong where this machine's processor does not compute in ``precision``; empty if it does.

    Raises:
        DeviceError: OpenVINO is not installed.
    """
    capabilities = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision.upper() in capabilities:
        return ""
    return f"OpenVINO does not compute in {precision} on this processor: it has {', '.join(sorted(capabilities))}"


def import_openvino() -> ModuleType:
    """OpenVINO, without its telemetry: the import alone would report itself to the vendor.

    Raises:
        DeviceError: it is not installed.
    """
    with without_telemetry():
        try:
            import openvino
        except ImportError as error:
            raise DeviceError(f"OpenVINO is missing ({error}): pip install 'netgraft[openvino]'") from error
    return openvino


@contextmanager
def without_telemetry() -> Iterator[None]:
    """While open, the package that reports to the vendor cannot be imported: who wants it takes a stand-in."""
    missing = object()
    before = sys.modules.get(TELEMETRY, missing)
    sys.modules[TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if before is missing:
            del sys.modules[TELEMETRY]
        else:
            sys.modules[TELEMETRY] = before  # type: ignore[assignment]


def _reason(error: Exception) -> str:
    """What is wrong, without the places in OpenVINO's sources where it was noticed."""
    lines = [line for line in str(error).splitlines() if line.strip() and " at src/" not in line]
    told = [line for line in lines if not line.startswith("Exception from")]
    return told[0] if told else first_line(error)
