"""ONNX Runtime's sessions as netgraft opens them, on this machine or, without torch, on another one."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any

from netgraft.devices.device import Array
from netgraft.errors import DeviceError, first_line

CPU = "CPUExecutionProvider"
PROFILE_RUNS, PROFILE_WARMUP = 12, 4


class OnnxRuntimeRunnable:
    """A network in an ONNX Runtime session.

    content: of the ONNX file, with one input and one output. provider: who runs it, by ONNX Runtime's name; what it
    cannot run falls back to the CPU. profile: where the times of its operators go, as the start of a path.

    Raises:
        DeviceError: the runtime refuses it, or cannot start the provider.
    """

    def __init__(self, content: bytes, provider: str = CPU, threads: int = 1, profile: str = "") -> None:
        self._errors = runtime_errors()
        runtime = import_runtime()
        options = _options(runtime, threads)
        if profile:
            options.enable_profiling = True
            options.profile_file_prefix = profile
        try:
            self._session: Any = runtime.InferenceSession(content, options, providers=[provider])
        except self._errors as error:
            raise DeviceError(f"ONNX Runtime refuses the network: {first_line(error)}") from error
        # A provider whose libraries are missing is left out with no more than a warning.
        if provider not in self._session.get_providers():
            raise DeviceError(f"ONNX Runtime cannot start {provider} on this machine, and would use its CPU")
        self.ends = [value.name for value in (*self._session.get_inputs(), *self._session.get_outputs())]
        """Its inputs and outputs, by name."""

    def run(self, x: Array) -> Array:
        if self._session is None:
            raise DeviceError("this network was closed: load or compile it again")
        try:
            y: Array = self._session.run([self.ends[-1]], {self.ends[0]: x})[0]
        except self._errors as error:
            raise DeviceError(f"ONNX Runtime failed: {first_line(error)}") from error
        return y

    def close(self) -> None:
        self._session = None

    def end_profile(self) -> list[dict[str, Any]]:
        """What was seen of its operators."""
        events: list[dict[str, Any]] = json.loads(Path(self._session.end_profiling()).read_text())
        return events


def profile(content: bytes, x: Array, provider: str = CPU, threads: int = 1) -> dict[str, float]:
    """Milliseconds of one run by type of operator, the most expensive first.

    For each operator the median over several runs after warm-up.

    Raises:
        DeviceError: the runtime refuses the network.
    """
    with tempfile.TemporaryDirectory() as folder:
        runnable = OnnxRuntimeRunnable(content, provider, threads, str(Path(folder) / "profile"))
        for _ in range(PROFILE_RUNS):
            runnable.run(x)
        return _sum_by_type(runnable.end_profile())


def lacking_provider(provider: str) -> str:
    """What is wrong where this build of ONNX Runtime has no such provider; empty if it has.

    Raises:
        DeviceError: the runtime is not installed.
    """
    available = import_runtime().get_available_providers()
    return (
        "" if provider in available else f"this build of ONNX Runtime has no {provider}: it has {', '.join(available)}"
    )


def import_runtime() -> ModuleType:
    """ONNX Runtime.

    Raises:
        DeviceError: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise DeviceError(f"ONNX Runtime is missing ({error}): pip install onnxruntime") from error
    return onnxruntime


def runtime_errors() -> tuple[type[Exception], ...]:
    """Every exception of ONNX Runtime: they have no common base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = (kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))
    return (*own, RuntimeError, ValueError)


def _options(runtime: ModuleType, threads: int) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.use_deterministic_compute = True
    options.log_severity_level = 4  # Fatal only: what it refuses arrives as an exception.
    if threads > 1:
        # A thread that spins between operators takes the processor from the other networks of the
        # session.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


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
