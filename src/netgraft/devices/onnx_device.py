"""What the devices that run ONNX files on this machine's processor have in common."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

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


class OnnxDevice(ABC):
    """A runtime that opens ONNX files, in single precision, one network at a time.

    threads: threads that one network may use. ``fast_forms`` exports layer norms and gates in the forms that
    these runtimes run fastest (:mod:`netgraft.devices.onnx_forms`); off, they stay what the exporter makes of
    them.

    Raises:
        DeviceError: ``threads`` is not positive.
    """

    def __init__(self, threads: int, *, fast_forms: bool = True) -> None:
        if threads < 1:
            raise DeviceError(f"a network cannot run on {threads} threads: use 1 or more")
        self.threads = threads
        self.fast_forms = fast_forms

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

    @property
    def clock(self) -> Clock:
        return SystemClock()

    def compile(self, module: nn.Module, example: Tensor) -> Runnable | Unsupported:
        """See :class:`Device`. A network that computes something else than in torch is refused as well."""
        try:
            content = onnx_bytes(module, example, fast_forms=self.fast_forms)
        except ExportError as error:
            return Unsupported(str(error))
        return self.compile_graph(content, module, example)

    def compile_graph(self, content: bytes, module: nn.Module, example: Tensor) -> Runnable | Unsupported:
        """The same with a graph of ``module`` that exists already."""
        try:
            runnable = self.open(content)
            restored = runnable.run(example.numpy())
        except DeviceError as error:
            return Unsupported(str(error))
        reason = _disagreement(restored, _reference(module, example))
        if reason is None:
            return runnable
        runnable.close()
        return Unsupported(reason)

    def load(self, path: Path) -> Runnable:
        """See :class:`FileDevice`."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DeviceError(f"cannot read {path}: {error.strerror or error}") from error
        try:
            return self.open(content)
        except DeviceError as error:
            raise DeviceError(f"{path}: {error}") from error

    def _described(self, backend: str, version: str) -> DeviceDescription:
        """This machine's processor under the name of the runtime."""
        return DeviceDescription(
            backend=backend,
            backend_version=version,
            hardware=host_hardware(),
            cores=host_cores(),
            precision="fp32",
            threads=self.threads,
            system=host_system(),
        )


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


def first_line(error: Exception) -> str:
    """The first line of a runtime's message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


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
