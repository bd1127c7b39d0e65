"""What makes a network's files for a device, and what it has to say of them: the seam of ``netgraft compile``.

Some devices are elsewhere and cannot be timed: then a compiler is all that there is, see
:class:`~netgraft.devices.catalog.DeviceKind`. Of every other device with a form of its own the form is what is made.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from netgraft.devices.device import Array, FormDevice, Unsupported
from netgraft.devices.int8_device import calibration_inputs
from netgraft.devices.parity import disagreement, torch_output
from netgraft.errors import DeviceError, ExportError


class Compilation(Protocol):
    """A compiled network; as a string, what its compiler tells of it in a line."""

    @property
    def files(self) -> Mapping[str, bytes]:
        """Content by name; a name may have folders in it."""
        ...

    @property
    def facts(self) -> Mapping[str, object]:
        """What the compiler tells, for JSON."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """A network whose compiler has nothing to count."""

    files: Mapping[str, bytes]
    """See :class:`Compilation`."""
    note: str
    """What was checked, and what could not be."""

    @property
    def facts(self) -> Mapping[str, object]:
        """See :class:`Compilation`."""
        return {"note": self.note}

    def __str__(self) -> str:
        return self.note


class Compiler(Protocol):
    """Makes the files of whole networks for one device."""

    @property
    def precision(self) -> str:
        """What the device will compute in; for ``int8`` calibration inputs are needed."""
        ...

    @property
    def target(self) -> str:
        """What it compiles for, in a line."""
        ...

    def compile(
        self, module: nn.Module, example: Tensor, calibration: Tensor | None = None, stem: str = "network"
    ) -> Compilation | Unsupported:
        """``module`` for inputs like ``example`` (1, c, h, w), or why it is rejected. stem: what files are named after.

        calibration: (n, c, h, w), for 8 bits; the example without it.

        Raises:
            DeviceError: what it needs is missing or hangs, or the calibration inputs are none of this network's.
        """
        ...


@runtime_checkable
class GraphCompiler(Compiler, Protocol):
    """One that takes ONNX files."""

    def compile_graph(self, content: bytes, calibration: Array | None = None, stem: str = "network") -> Compilation:
        """An ONNX file of fixed size, given its content; calibration: (n, c, h, w), needed for 8 bits.

        Raises:
            ExportError: it rejects the network.
            DeviceError: what it needs is missing or hangs.
        """
        ...


class FormCompiler:
    """Makes the files of a device that can be opened here, and compares what they compute there."""

    def __init__(self, device: FormDevice) -> None:
        self.device = device

    @property
    def precision(self) -> str:
        return self.device.description.precision

    @property
    def target(self) -> str:
        description = self.device.description
        return f"{description.backend} {description.backend_version}"

    def compile(
        self, module: nn.Module, example: Tensor, calibration: Tensor | None = None, stem: str = "network"
    ) -> Compiled | Unsupported:
        """See :class:`Compiler`."""
        try:
            form = self.device.form(module, example, calibration_inputs(example, calibration))
            files = {f"{stem}.{ending}": content for ending, content in form.items()}
            restored = self._output(files, example)
        except ExportError as error:
            return Unsupported(str(error))
        reference = torch_output(module, example)
        wrong = disagreement(restored, reference, self.precision)
        if wrong is not None:
            return Unsupported(wrong)
        off = float(np.abs(restored - reference).max())
        return Compiled(files=files, note=f"run here, it differs from PyTorch by up to {off:.2g}")

    def _output(self, files: Mapping[str, bytes], example: Tensor) -> Array:
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
            try:
                runnable = self.device.load_form(Path(folder) / next(iter(files)))
                restored = runnable.run(example.numpy())
            except DeviceError as error:
                raise ExportError(str(error)) from error
            runnable.close()
        return restored
