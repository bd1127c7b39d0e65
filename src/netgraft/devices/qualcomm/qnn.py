"""Snapdragon NPUs without a phone: Qualcomm's compiler tells whether a network runs there wholly, and makes its file.

ONNX Runtime's plugin for Qualcomm's SDK compiles for a named chip on this machine. What it takes becomes one context
binary, what it does not take stays in the graph around it and would run on the phone's processor. There is no latency
in that: the plugin's own counts of cycles are not usable as one. Hence this is a check and an export, and no device
that a search could use; :mod:`netgraft.devices.qualcomm.aihub` times real phones.

Networks in single precision compute in half precision there; in 8 bits they are quantized before.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import onnx
from torch import Tensor, nn

from netgraft.devices.device import Array, Unsupported
from netgraft.devices.int8_device import calibration_inputs
from netgraft.devices.onnx.graph import onnx_bytes
from netgraft.devices.onnx.int8 import quantize_onnx
from netgraft.devices.qualcomm.phones import PHONES
from netgraft.errors import DeviceError, ExportError
from netgraft.names import lookup

INSTALL = "pip install 'netgraft[qnn]'"
TIMEOUT_S = 900
"""A compiler that has not finished by then hangs."""
COMPILED = "EPContext"
"""The operator that stands for a compiled part."""
CASTS = ("QuantizeLinear", "DequantizeLinear")
"""Between floats and 8 bits, at the ends of what is compiled: no operators of the network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A compiled network, and what of it the NPU takes."""

    files: Mapping[str, bytes]
    """Content by name: the ONNX file for ONNX Runtime on the phone, and the context binary that it refers to."""
    operators: int
    """Operators of the network."""
    fallbacks: Mapping[str, str]
    """Types of the operators that the NPU does not take, by name: they run on the phone's processor."""

    @property
    def whole(self) -> bool:
        """Whether all of the network runs on the NPU."""
        return not self.fallbacks

    @property
    def facts(self) -> Mapping[str, object]:
        """See :class:`~netgraft.devices.compiler.Compilation`."""
        return {"whole": self.whole, "operators": self.operators, "fallbacks": dict(self.fallbacks)}

    def __str__(self) -> str:
        if self.whole:
            return f"wholly on the NPU ({self.operators} operators)"
        counts = Counter(self.fallbacks.values()).most_common()
        named = ", ".join(f"{count} {operator}" for operator, count in counts)
        return f"{len(self.fallbacks)} of {self.operators} operators fall back to the phone's processor: {named}"


class QnnCompiler:
    """Compiles for the NPU of a phone, by its short name, e.g. ``s24-ultra``. precision: fp16 or int8.

    Raises:
        ConfigError: there is no such phone.
        DeviceError: the compiler is not installed.
    """

    def __init__(self, phone: str, precision: str = "fp16") -> None:
        self.phone = lookup("phone", phone, PHONES)
        self.precision = precision
        if find_spec("onnxruntime_qnn") is None:
            raise DeviceError(f"onnxruntime_qnn is missing: {INSTALL}")

    @property
    def target(self) -> str:
        """See :class:`~netgraft.devices.compiler.Compiler`."""
        return str(self.phone.chip)

    def compile(
        self, module: nn.Module, example: Tensor, calibration: Tensor | None = None, stem: str = "network"
    ) -> Placement | Unsupported:
        """See :class:`~netgraft.devices.compiler.Compiler`."""
        inputs = calibration_inputs(example, calibration)
        try:
            return self.compile_graph(onnx_bytes(module, example, fast_forms=False), inputs.numpy(), stem)
        except ExportError as error:
            return Unsupported(str(error))

    def compile_graph(self, content: bytes, calibration: Array | None = None, stem: str = "network") -> Placement:
        """An ONNX file of fixed size, given its content. stem: what the compiled files are named after.

        calibration: (n, c, h, w), needed for 8 bits.

        Raises:
            ExportError: the quantizer or the compiler rejects the network.
            DeviceError: the compiler hangs.
        """
        if self.precision == "int8":
            if calibration is None:
                raise ExportError("8 bits need inputs to calibrate on")
            content = quantize_onnx(content, calibration)
        with tempfile.TemporaryDirectory() as name:
            source, folder = Path(name) / "source.onnx", Path(name) / "compiled"
            source.write_bytes(content)
            folder.mkdir()
            self._run(source, folder / f"{stem}.onnx")
            files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        if f"{stem}.onnx" not in files:
            raise ExportError("the NPU takes no operator of the network")
        left = {node.name: node.op_type for node in _operators(files[f"{stem}.onnx"])}
        return Placement(
            files=files,
            operators=len(_operators(content)),
            fallbacks={name: operator for name, operator in left.items() if operator != COMPILED},
        )

    def _run(self, source: Path, target: Path) -> None:
        worker = Path(__file__).with_name("qnn_worker.py")
        names = (str(path.relative_to(source.parent)) for path in (source, target))
        command = [sys.executable, str(worker), *names, str(self.phone.soc_model), str(self.phone.htp_arch)]
        try:
            outcome = subprocess.run(
                command, cwd=source.parent, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise DeviceError(f"Qualcomm's compiler did not finish within {TIMEOUT_S} seconds") from error
        if outcome.returncode != 0:
            said = [line.strip() for line in outcome.stderr.splitlines() if line.strip()]
            # Without the modules of the exception's class.
            complaint = re.sub(r"^[\w.]+\.", "", said[-1]) if said else f"it died with exit code {outcome.returncode}"
            raise ExportError(f"Qualcomm's compiler rejects the network: {complaint}")


def _operators(content: bytes) -> list[onnx.NodeProto]:
    graph = onnx.load_from_string(content).graph
    return [node for node in graph.node if node.op_type not in CASTS]
