"""ONNX Runtime: the device that is always there, and the reference for what an exported network computes."""

from __future__ import annotations

import copy
import json
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from netgraft.devices.device import (
    Array,
    Clock,
    DeviceDescription,
    Runnable,
    Unsupported,
    host_cores,
    host_hardware,
    host_system,
)
from netgraft.devices.measure import SystemClock
from netgraft.devices.onnx_graph import INPUT, OUTPUT, onnx_bytes
from netgraft.errors import DeviceError, ExportError

PARITY = 1e-3
"""A compiled network may differ from the module by this share of its largest output before it is refused."""
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
            raise DeviceError(f"ONNX Runtime failed: {_line(error)}") from error
        return y

    def close(self) -> None:
        self._session = None


class OnnxRuntimeDevice:
    """ONNX Runtime in single precision, with all its graph optimizations, one network at a time.

    threads: threads that one operator may use. ``fast_forms`` exports layer norms and gates in the forms that
    this runtime runs fastest (:mod:`netgraft.devices.onnx_forms`); off, they stay what the exporter makes of
    them.

    Raises:
        DeviceError: the runtime is not installed, has no such provider, or ``threads`` is not positive.
    """

    def __init__(self, threads: int = 1, provider: str = "CPUExecutionProvider", *, fast_forms: bool = True) -> None:
        self._ort = _import_runtime()
        if threads < 1:
            raise DeviceError(f"a network cannot run on {threads} threads: use 1 or more")
        if provider not in self._ort.get_available_providers():
            choices = ", ".join(self._ort.get_available_providers())
            raise DeviceError(f"this build of ONNX Runtime has no {provider}: it has {choices}")
        self.threads = threads
        self.provider = provider
        self.fast_forms = fast_forms
        self._errors = _runtime_errors()

    @property
    def clock(self) -> Clock:
        return SystemClock()

    @property
    def description(self) -> DeviceDescription:
        return DeviceDescription(
            backend=f"onnxruntime {self.provider.removesuffix('ExecutionProvider')}",
            backend_version=self._ort.__version__,
            hardware=host_hardware(),
            cores=host_cores(),
            precision="fp32",
            threads=self.threads,
            system=host_system(),
        )

    def compile(self, module: nn.Module, example: Tensor) -> Runnable | Unsupported:
        """See :class:`Device`. A network that computes something else than in torch is refused as well."""
        try:
            content = onnx_bytes(module, example, fast_forms=self.fast_forms)
            runnable = OnnxRuntimeRunnable(self._session(content, self._options()), self._errors)
            restored = runnable.run(example.numpy())
        except (ExportError, DeviceError) as error:
            return Unsupported(str(error))
        reason = _disagreement(restored, _reference(module, example))
        return runnable if reason is None else Unsupported(reason)

    def load(self, path: Path) -> Runnable:
        """See :class:`FileDevice`."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DeviceError(f"cannot read {path}: {error.strerror or error}") from error
        try:
            session = self._session(content, self._options())
        except DeviceError as error:
            raise DeviceError(f"{path}: {error}") from error
        ends = [value.name for value in (*session.get_inputs(), *session.get_outputs())]
        if ends != [INPUT, OUTPUT]:
            raise DeviceError(
                f"{path} goes from and to {', '.join(ends)}: "
                f"a file made by netgraft has one input {INPUT!r} and one output {OUTPUT!r}"
            )
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
            raise DeviceError(f"ONNX Runtime refuses the network: {_line(error)}") from error


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


def _reference(module: nn.Module, example: Tensor) -> Array:
    """What torch computes, in evaluation mode."""
    with torch.no_grad():
        reference: Array = copy.deepcopy(module).eval()(example).numpy()
    return reference


def _disagreement(restored: Array, reference: Array) -> str | None:
    """Why the two outputs cannot be of the same network; None if they can."""
    if restored.shape != reference.shape:
        return f"gives {restored.shape} where torch gives {reference.shape}"
    off = float(np.abs(restored - reference).max(initial=0.0))
    largest = float(np.abs(reference).max(initial=0.0))
    # Written so that NaN counts as disagreement.
    if not off <= PARITY * max(largest, 1e-6):
        return f"differs from torch by up to {off:.3g}, where outputs reach {largest:.3g}"
    return None


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


def _line(error: Exception) -> str:
    """The first line of the runtime's message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
