"""ONNX Runtime: the device that is always there, and the reference for what an exported network computes."""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any

from netgraft.devices.device import Array, DeviceDescription, Runnable
from netgraft.devices.onnx_device import OnnxDevice, check_ends, first_line
from netgraft.devices.onnx_graph import INPUT, OUTPUT
from netgraft.errors import DeviceError

CPU = "CPUExecutionProvider"
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

    threads: threads that one operator may use. provider: who runs the network, by ONNX Runtime's name for it; what
    it cannot run falls back to the CPU. ``fast_forms`` exports layer norms and gates in the forms that
    this runtime runs fastest (:mod:`netgraft.devices.onnx_forms`); off, they stay what the exporter makes of
    them.

    Raises:
        DeviceError: the runtime is not installed, has no such provider, or ``threads`` is not positive.
    """

    def __init__(self, threads: int = 1, provider: str = CPU, *, fast_forms: bool = True) -> None:
        self._ort = _import_runtime()
        super().__init__(threads, fast_forms=fast_forms)
        lack = lacking_provider(provider)
        if lack:
            raise DeviceError(lack)
        self.provider = provider
        self._errors = runtime_errors()

    @property
    def description(self) -> DeviceDescription:
        described = self._described(f"onnxruntime {self._short_provider}", self._ort.__version__)
        if self.provider == CPU:
            return described
        # ONNX Runtime does not tell what a provider runs on: the machine stands for it.
        return dataclasses.replace(described, hardware=f"{self._short_provider} on {described.hardware}")

    def open(self, content: bytes) -> Runnable:
        session = self._session(content, self._options())
        check_ends([value.name for value in (*session.get_inputs(), *session.get_outputs())])
        return OnnxRuntimeRunnable(session, self._errors)

    def profile(self, content: bytes, x: Array) -> dict[str, float]:
        """See :class:`OnnxDevice`. For each operator the median over several runs after warm-up."""
        with tempfile.TemporaryDirectory() as folder:
            options = self._options()
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = self._session(content, options)
            for _ in range(PROFILE_RUNS):
                session.run([OUTPUT], {INPUT: x})
            events = json.loads(Path(session.end_profiling()).read_text())
        return _sum_by_type(events)

    @property
    def _short_provider(self) -> str:
        return self.provider.removesuffix("ExecutionProvider")

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
            session = self._ort.InferenceSession(content, options, providers=[self.provider])
        except self._errors as error:
            raise DeviceError(f"ONNX Runtime refuses the network: {first_line(error)}") from error
        # A provider whose libraries are missing is left out with no more than a warning.
        if self.provider not in session.get_providers():
            raise DeviceError(f"ONNX Runtime cannot start {self.provider} on this machine, and would use its CPU")
        return session


def lacking_provider(provider: str) -> str:
    """What is wrong where this build of ONNX Runtime has no such provider; empty if it has.

    Raises:
        DeviceError: the runtime is not installed.
    """
    available = _import_runtime().get_available_providers()
    return (
        "" if provider in available else f"this build of ONNX Runtime has no {provider}: it has {', '.join(available)}"
    )


def _import_runtime() -> ModuleType:
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
