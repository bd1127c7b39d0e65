"""ONNX Runtime: the device that is always there, and the reference for what an exported network computes."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from netgraft.devices.device import Array, DeviceDescription, Runnable
from netgraft.devices.onnx_device import OnnxDevice, check_ends, first_line
from netgraft.devices.onnx_graph import INPUT, OUTPUT, onnx_bytes
from netgraft.errors import DeviceError

PROFILE_RUNS, PROFILE_WARMUP = 12, 4


class OnnxRuntimeRunnable:
    """A network in an ONNX Runtime session."""

    def __init__(self, session: Any, errors: tuple[type[Exception], ...]) -> None:
        self._session = session
        self._errors = errors

    def run(self, x: Array) -> Array:
        if self._session is None:
            raise DeviceError("this network was closed: load or compile it again")
        try:
            y: Array = self._session.run([OUTPUT], {INPUT: x})[0]
        except self._errors as error:
            raise DeviceError(f"ONNX Runtime failed: {first_line(error)}") from error
        return y

    def close(self) -> None:
        self._session = None


class OnnxRuntimeDevice(OnnxDevice):
    """ONNX Runtime in single precision, with all its graph optimizations, one network at a time.

    threads: threads that one operator may use. ``fast_forms`` exports layer norms and gates in the forms that
    this runtime runs fastest (:mod:`netgraft.devices.onnx_forms`); off, they stay what the exporter makes of
    them.

    Raises:
        DeviceError: the runtime is not installed, has no such provider, or ``threads`` is not positive.
    """

    def __init__(self, threads: int = 1, provider: str = "CPUExecutionProvider", *, fast_forms: bool = True) -> None:
        self._ort = _import_runtime()
        super().__init__(threads, fast_forms=fast_forms)
        if provider not in self._ort.get_available_providers():
            choices = ", ".join(self._ort.get_available_providers())
            raise DeviceError(f"this build of ONNX Runtime has no {provider}: it has {choices}")
        self.provider = provider
        self._errors = _runtime_errors()

    @property
    def description(self) -> DeviceDescription:
        return self._described(f"onnxruntime {self.provider.removesuffix('ExecutionProvider')}", self._ort.__version__)

    def open(self, content: bytes) -> Runnable:
        session = self._session(content, self._options())
        check_ends([value.name for value in (*session.get_inputs(), *session.get_outputs())])
        return OnnxRuntimeRunnable(session, self._errors)

    def per_op_ms(self, module: nn.Module, example: Tensor) -> dict[str, float]:
        """Milliseconds of one run by type of operator, the most expensive first, from the profiler.

        For each operator the median over several runs after warm-up; operators are those of the optimized
        graph.

        Raises:
            ExportError: the module cannot be exported.
            DeviceError: the runtime refuses it.
        """
        content = onnx_bytes(module, example, fast_forms=self.fast_forms)
        x = {INPUT: example.numpy()}
        with tempfile.TemporaryDirectory() as folder:
            options = self._options()
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = self._session(content, options)
            for _ in range(PROFILE_RUNS):
                session.run([OUTPUT], x)
            events = json.loads(Path(session.end_profiling()).read_text())
        return _sum_by_type(events)

    def _options(self) -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = self._ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.use_deterministic_compute = True
        options.log_severity_level = 4  # Fatal only: what it refuses arrives as an exception.
        if self.threads > 1:
            # A thread that spins between operators takes the processor from the other networks of the
            # session.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options

    def _session(self, content: bytes, options: Any) -> Any:
        try:
            return self._ort.InferenceSession(content, options, providers=[self.provider])
        except self._errors as error:
            raise DeviceError(f"ONNX Runtime refuses the network: {first_line(error)}") from error


def _import_runtime() -> ModuleType:
    try:
        import onnxruntime
    except ImportError as error:
        raise DeviceError(f"ONNX Runtime is missing ({error}): pip install onnxruntime") from error
    return onnxruntime


def _runtime_errors() -> tuple[type[Exception], ...]:
    """Every exception of ONNX Runtime: they have no common base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = (kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))
    return (*own, RuntimeError, ValueError)


def _sum_by_type(events: list[dict[str, Any]]) -> dict[str, float]:
    """Add up the operators' median times by type; times in the profile are microseconds."""
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["args"]["op_name"], event["name"]].append(event["dur"] / 1e3)
    by_type: dict[str, float] = defaultdict(float)
    for (op_type, _), ms in times.items():
        by_type[op_type] += statistics.median(ms[PROFILE_WARMUP:])
    return dict(sorted(by_type.items(), key=lambda item: -item[1]))
