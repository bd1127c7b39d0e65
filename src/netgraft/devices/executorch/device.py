"""ExecuTorch on this machine's processor, through XNNPACK: the runtime of PyTorch on phones and boards."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor, nn

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
from netgraft.devices.executorch.lower import METHOD, missing, xnnpack_program
from netgraft.devices.int8_device import calibration_inputs
from netgraft.devices.measure import SystemClock
from netgraft.devices.onnx.device import checked
from netgraft.devices.quiet import silent
from netgraft.errors import DeviceError, first_line


class ExecuTorchRunnable:
    """A program in ExecuTorch's runtime.

    Raises:
        DeviceError: ExecuTorch is not installed or refuses the program, or its threads are in use.
    """

    def __init__(self, content: bytes, threads: int) -> None:
        runtime, library = _import_runtime()
        _use_threads(library, threads)
        try:
            with silent():
                # The method points into the program.
                self._program: Any = runtime.load_program(content)
                self._method: Any = self._program.load_method(METHOD)
        except (RuntimeError, ValueError, KeyError) as error:
            raise DeviceError(f"ExecuTorch refuses the network: {first_line(error)}") from error
        _open_networks.add(self)

    def run(self, x: Array) -> Array:
        if self._method is None:
            raise DeviceError("this network was closed: compile it again")
        try:
            with torch.inference_mode():
                outputs = self._method.execute([torch.from_numpy(np.ascontiguousarray(x))])
        except (RuntimeError, ValueError) as error:
            raise DeviceError(f"ExecuTorch failed: {first_line(error)}") from error
        y: Array = outputs[0].numpy()
        return y

    def close(self) -> None:
        self._method = self._program = None
        _open_networks.discard(self)


_open_networks: WeakSet[ExecuTorchRunnable] = WeakSet()
"""The networks that hold on to ExecuTorch's threads, of which a process has one set for all."""


class ExecuTorchDevice:
    """ExecuTorch with XNNPACK, one network at a time.

    threads: threads that one network may use; all networks that are open in a process share one number of them.
    precision: ``fp32`` or ``int8``.

    Raises:
        DeviceError: ExecuTorch is not installed, or ``threads`` is not positive.
    """

    def __init__(self, threads: int = 1, precision: str = "fp32") -> None:
        if threads < 1:
            raise DeviceError(f"a network cannot run on {threads} threads: use 1 or more")
        _import_runtime()
        self.threads = threads
        self.precision = precision

    @property
    def description(self) -> DeviceDescription:
        return DeviceDescription(
            backend="executorch XNNPACK",
            backend_version=metadata.version("executorch"),
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
            lambda: ExecuTorchRunnable(self._program(module, example, inputs), self.threads),
            module,
            example,
            self.precision,
        )

    @property
    def single(self) -> Device:
        """See :class:`ReducedDevice`."""
        return self if self.precision == "fp32" else ExecuTorchDevice(self.threads)

    def form(self, module: nn.Module, example: Tensor, calibration: Tensor) -> Mapping[str, bytes]:
        """See :class:`FormDevice`."""
        ending = "pte" if self.precision == "fp32" else f"{self.precision}.pte"
        return {ending: self._program(module, example, calibration_inputs(example, calibration))}

    def load_form(self, path: Path) -> Runnable:
        """See :class:`FormDevice`."""
        return ExecuTorchRunnable(read_network(path), self.threads)

    def _program(self, module: nn.Module, example: Tensor, inputs: Tensor) -> bytes:
        return xnnpack_program(module, example, inputs if self.precision == "int8" else None)


def _use_threads(library: Any, threads: int) -> None:
    """Let the networks that are opened from now on have so many threads.

    Raises:
        DeviceError: others that are open have another number.
    """
    with silent():
        now = library._threadpool_get_thread_count()
        if now == threads:
            return
        if _open_networks:
            # They point at the threads that would go away.
            raise DeviceError(
                f"ExecuTorch has one number of threads in a process, and networks with {now} are open: "
                f"close them before one with {threads}"
            )
        library._unsafe_reset_threadpool(threads)


def _import_runtime() -> tuple[Any, Any]:
    """ExecuTorch's runtime, and the library beneath, which alone knows of threads."""
    try:
        with silent():
            from executorch.extension.pybindings import portable_lib
            from executorch.runtime import Runtime

            return Runtime.get(), portable_lib
    except ImportError as error:
        raise missing(error) from error
