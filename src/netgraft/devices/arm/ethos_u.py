"""Arm Ethos-U NPUs, without one: latencies are estimates of Arm's compiler, and nothing here is measured.

The numbers that a network gives are those of its 8-bit TFLite file, computed by LiteRT on this machine. Its clock
moves by the estimate whenever the network runs; a timing session takes the estimate itself and runs nothing.
"""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from netgraft.devices.arm import host_core
from netgraft.devices.arm.host_core import Fallback, find_fallbacks
from netgraft.devices.arm.vela import INSTALL, NPUS, Compiled, compile_for
from netgraft.devices.device import Array, Clock, DeviceDescription, Runnable, Unsupported, read_network
from netgraft.devices.fake import FakeClock
from netgraft.devices.int8_device import calibration_inputs
from netgraft.devices.onnx.device import checked
from netgraft.devices.tflite.convert import quantize_tflite, tflite_bytes
from netgraft.devices.tflite.litert import TfliteRunnable, open_interpreter
from netgraft.errors import DeviceError, ExportError
from netgraft.names import lookup

log = logging.getLogger(__name__)

REMEMBERED = 64
"""Networks of which a device keeps file and estimate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a network will cost on an NPU, by its compiler's estimate."""

    latency_ms: float
    """One run: the NPU's part, and the fallbacks' by the rule of :mod:`netgraft.devices.arm.host_core`."""
    npu_ms: float
    """The NPU's part."""
    fallback_ms: float
    """What the host's processor needs for the operators that the NPU does not know."""
    fallbacks: tuple[Fallback, ...]
    """Those operators."""
    cycles: Mapping[str, int]
    """Estimated cycles of the NPU by operator, the most expensive first."""

    @property
    def fallback_counts(self) -> dict[str, int]:
        """How often each type of operator falls back, the most frequent first."""
        return dict(Counter(fallback.operator for fallback in self.fallbacks).most_common())


class EstimatedRunnable:
    """Runs on this machine, and moves a clock by what the run is estimated to take elsewhere."""

    def __init__(self, runnable: Runnable, estimate: Estimate, clock: FakeClock) -> None:
        self.estimate = estimate
        self._runnable = runnable
        self._clock = clock

    @property
    def latency_ms(self) -> float:
        """See :class:`Estimated`."""
        return self.estimate.latency_ms

    def run(self, x: Array) -> Array:
        y = self._runnable.run(x)
        self._clock.advance(self.estimate.latency_ms)
        return y

    def close(self) -> None:
        self._runnable.close()


def _fingerprint(module: nn.Module, example: Tensor, inputs: Tensor) -> bytes | None:
    """Equal only for what compiles to the same file: the modules with all that they hold, weights included.

    None for a module that cannot be pickled, such as one of a class inside a function.
    """
    content = io.BytesIO()
    try:
        torch.save((module, tuple(example.shape), inputs), content)
    except (AttributeError, TypeError, pickle.PicklingError):
        return None
    return hashlib.sha256(content.getbuffer()).digest()


class EthosUDevice:
    """An Ethos-U NPU in 8 bits, e.g. ``u85-2048``, as its compiler sees it.

    Raises:
        ConfigError: there is no NPU of this name.
        DeviceError: the compiler, or what makes its files, is not installed.
    """

    def __init__(self, name: str) -> None:
        self.npu = lookup("Ethos-U", name, NPUS)
        for module in ("ethosu", "ai_edge_litert", "litert_torch"):
            if find_spec(module) is None:
                raise DeviceError(f"{module} is missing: {INSTALL}")
        self._clock = FakeClock()
        self._estimates: dict[bytes, Estimate] = {}
        """By the file's digest."""
        self._files: OrderedDict[bytes, bytes] = OrderedDict()
        """Files by what they were made from, the latest at the end."""

    @property
    def description(self) -> DeviceDescription:
        return DeviceDescription(
            backend="vela (the compiler's estimate, nothing measured)",
            backend_version=metadata.version("ethos-u-vela"),
            hardware=f"{self.npu.accelerator}, {self.npu.system}, {self.npu.memory}, fallbacks on {host_core.NAME}",
            cores=1,
            precision="int8",
            threads=1,
            system="none",
        )

    @property
    def clock(self) -> Clock:
        return self._clock

    def compile(self, module: nn.Module, example: Tensor, calibration: Tensor | None = None) -> Runnable | Unsupported:
        """See :class:`Device`. A network in which quantization leaves nothing of the signal is refused as well.

        Raises:
            DeviceError: the calibration inputs are none of this network's.
        """
        inputs = calibration_inputs(example, calibration)

        def opened() -> Runnable:
            return self._open(self._file(module, example, inputs))

        return checked(opened, module, example, "int8")

    def form(self, module: nn.Module, example: Tensor, calibration: Tensor) -> Mapping[str, bytes]:
        """See :class:`FormDevice`: the file in 8 bits, and what the compiler makes of it for the NPU."""
        content = self._file(module, example, calibration_inputs(example, calibration))
        compiled = compile_for(self.npu, content)
        self._estimates[_digest(content)] = _estimated(content, compiled)
        return {"int8.tflite": content, f"{self.npu.accelerator}.tflite": compiled.content}

    def load_form(self, path: Path) -> Runnable:
        """See :class:`FormDevice`: takes the file in 8 bits, which LiteRT computes here as the NPU would."""
        try:
            return self._open(read_network(path))
        except ExportError as error:
            raise DeviceError(f"{path}: {error}") from error

    def _file(self, module: nn.Module, example: Tensor, inputs: Tensor) -> bytes:
        """The 8-bit file of a network; what was seen lately is not converted again.

        Every session of a run times one and the same reference block, and its last ones the same whole networks.
        """
        key = _fingerprint(module, example, inputs)
        if key is not None and key in self._files:
            self._files.move_to_end(key)
            return self._files[key]
        content = quantize_tflite(tflite_bytes(module, example), inputs.numpy())
        if key is not None:
            self._files[key] = content
            if len(self._files) > REMEMBERED:
                self._files.popitem(last=False)
        return content

    def estimate(self, content: bytes) -> Estimate:
        """What a TFLite file of 8 bits will cost.

        Raises:
            ExportError: the compiler rejects it.
            DeviceError: the compiler hangs.
        """
        name = _digest(content)
        if name not in self._estimates:
            self._estimates[name] = _estimated(content, compile_for(self.npu, content))
        return self._estimates[name]

    def _open(self, content: bytes) -> Runnable:
        return EstimatedRunnable(TfliteRunnable(content, threads=1), self.estimate(content), self._clock)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _estimated(content: bytes, compiled: Compiled) -> Estimate:
    """The estimate of a TFLite file, given what the compiler says of it; fallbacks are warned of."""
    fallbacks = find_fallbacks(open_interpreter(content), compiled.fallbacks)
    fallback_ms = 1e3 * sum(fallback.cycles for fallback in fallbacks) / compiled.clock_hz
    estimate = Estimate(
        latency_ms=compiled.npu_ms + fallback_ms,
        npu_ms=compiled.npu_ms,
        fallback_ms=fallback_ms,
        fallbacks=fallbacks,
        cycles=compiled.cycles,
    )
    if fallbacks:
        log.warning(
            "%d operators fall back from the NPU to the host, %.3g of %.3g ms: %s",
            len(fallbacks),
            fallback_ms,
            estimate.latency_ms,
            ", ".join(f"{count} {operator}" for operator, count in estimate.fallback_counts.items()),
        )
    return estimate
