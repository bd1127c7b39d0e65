"""What the devices that run ONNX files on this machine's processor have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

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
    read_network,
)
from netgraft.devices.measure import SystemClock
from netgraft.devices.onnx.graph import INPUT, OUTPUT, onnx_bytes
from netgraft.devices.parity import disagreement, torch_output
from netgraft.errors import DeviceError, DeviceLost, ExportError


class OnnxDevice(ABC):
    """A runtime that opens ONNX files, one network at a time.

    threads: threads that one network may use. ``fast_forms`` exports layer norms and gates in the forms that
    these runtimes run fastest (:mod:`netgraft.devices.onnx.forms`); off, they stay what the exporter makes of
    them.

    Raises:
        DeviceError: ``threads`` is not positive.
    """

    def __init__(self, threads: int, *, fast_forms: bool = True) -> None:
        if threads < 1:
            raise DeviceError(f"a network cannot run on {threads} threads: use 1 or more")
        self.threads = threads
        self.fast_forms = fast_forms

    precision = "fp32"
    """Number format that the files of single precision are computed in."""
    fp16_safe = False
    """Whether layer norms are exported such that half precision can compute them, where ``fast_forms`` are."""

    @property
    @abstractmethod
    def description(self) -> DeviceDescription:
        """See :class:`Device`."""

    @abstractmethod
    def open(self, content: bytes) -> Runnable:
        """Make the network of an ONNX file ready, given the file's content.

        Raises:
            DeviceError: the runtime refuses it, or it is no network of ours.
        """

    @abstractmethod
    def profile(self, content: bytes, x: Array) -> dict[str, float]:
        """Milliseconds of one run by type of operator, the most expensive first; operators are those of the
        optimized graph.

        Raises:
            DeviceError: the runtime refuses the network.
        """

    @property
    def clock(self) -> Clock:
        return SystemClock()

    def compile(self, module: nn.Module, example: Tensor, calibration: Tensor | None = None) -> Runnable | Unsupported:
        """See :class:`Device`. A network that computes something else than in torch is refused as well."""
        try:
            content = onnx_bytes(module, example, fast_forms=self.fast_forms, fp16_safe=self.fp16_safe)
        except ExportError as error:
            return Unsupported(str(error))
        return self.compile_graph(content, module, example)

    def compile_graph(self, content: bytes, module: nn.Module, example: Tensor) -> Runnable | Unsupported:
        """The same with a graph of ``module`` that exists already."""
        return checked(lambda: self.open(content), module, example, self.precision)

    def per_op_ms(self, module: nn.Module, example: Tensor) -> dict[str, float]:
        """Where the time of one run goes, see :meth:`profile`.

        Raises:
            ExportError: the module cannot be exported.
            DeviceError: the runtime refuses it.
        """
        return self.profile(
            onnx_bytes(module, example, fast_forms=self.fast_forms, fp16_safe=self.fp16_safe), example.numpy()
        )

    def load(self, path: Path) -> Runnable:
        """See :class:`FileDevice`."""
        content = read_network(path)
        try:
            return self.open(content)
        except DeviceError as error:
            raise DeviceError(f"{path}: {error}") from error

    def own_files(self, content: bytes) -> Mapping[str, bytes]:
        """The network of an ONNX file as files that this runtime's users deploy, by ending; :meth:`load` takes the
        first.

        Raises:
            ExportError: the runtime cannot write them.
        """
        return {"onnx": content}

    def _described(self, backend: str, version: str) -> DeviceDescription:
        """This machine's processor under the name of the runtime."""
        return DeviceDescription(
            backend=backend,
            backend_version=version,
            hardware=host_hardware(),
            cores=host_cores(),
            precision=self.precision,
            threads=self.threads,
            system=host_system(),
        )


def checked(
    open_network: Callable[[], Runnable], module: nn.Module, example: Tensor, precision: str
) -> Runnable | Unsupported:
    """The opened network, if it computes what ``module`` does as far as ``precision`` lets it.

    Raises:
        DeviceLost: the device went away meanwhile.
    """
    try:
        runnable = open_network()
        restored = runnable.run(example.numpy())
    except DeviceLost:
        raise
    except (DeviceError, ExportError) as error:
        return Unsupported(str(error))
    reason = disagreement(restored, torch_output(module, example), precision)
    if reason is None:
        return runnable
    runnable.close()
    return Unsupported(reason)


def check_ends(names: Sequence[str]) -> None:
    """Refuse a network whose inputs and outputs, by name, are not those of our files.

    Raises:
        DeviceError: they are others.
    """
    if list(names) != [INPUT, OUTPUT]:
        raise DeviceError(
            f"it goes from and to {', '.join(names)}: "
            f"a file made by netgraft has one input {INPUT!r} and one output {OUTPUT!r}"
        )
