"""Core ML packages, for applications on Apple's systems: the converter runs here, Core ML does not.

Hence this is an export, and no device that a search could use. What can be checked is that the package, read back from
disk, is the network's: its ends by name and shape, its operators, and its weights in the precision that was asked for.
What it computes can be compared on a Mac or a phone only.
"""

from __future__ import annotations

import copy
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from netgraft.devices.compiler import Compiled
from netgraft.devices.device import Unsupported
from netgraft.devices.onnx.graph import INPUT, OUTPUT
from netgraft.devices.parity import torch_output
from netgraft.devices.quiet import silent
from netgraft.errors import DeviceError, ExportError, first_line

INSTALL = "pip install 'netgraft[coreml]'"
PRECISIONS = ("fp16", "fp32")
SYSTEM = "iOS16"
"""The oldest system that packages are made for; macOS 13 takes the same."""


class CoreMlCompiler:
    """Core ML's converter. precision: ``fp16``, in which all of Apple's processors compute, or ``fp32``.

    Raises:
        DeviceError: the converter is not installed.
    """

    target = f"Core ML, {SYSTEM}"

    def __init__(self, precision: str = "fp16") -> None:
        assert precision in PRECISIONS, precision
        self.precision = precision
        import_coremltools()

    def compile(
        self, module: nn.Module, example: Tensor, calibration: Tensor | None = None, stem: str = "network"
    ) -> Compiled | Unsupported:
        """See :class:`Compiler`."""
        with tempfile.TemporaryDirectory() as folder:
            package = Path(folder) / f"{stem}.mlpackage"
            try:
                self._convert(module, example, package)
                shapes = {INPUT: tuple(example.shape), OUTPUT: torch_output(module, example).shape}
                operators = self._check(package, shapes)
            except ExportError as error:
                return Unsupported(str(error))
            files = {
                str(path.relative_to(folder)): path.read_bytes()
                for path in sorted(package.rglob("*"))
                if path.is_file()
            }
        note = f"{operators} operators of an ML Program; compare its outputs on Apple's system, Core ML is not here"
        return Compiled(files=files, note=note)

    def _convert(self, module: nn.Module, example: Tensor, package: Path) -> None:
        tools = import_coremltools()
        frozen = copy.deepcopy(module).eval().requires_grad_(False)
        precision = {"fp16": tools.precision.FLOAT16, "fp32": tools.precision.FLOAT32}[self.precision]
        refused = ""
        with silent():
            try:
                program = torch.export.export(frozen, (example,)).run_decompositions({})
                tools.convert(
                    program,
                    inputs=[tools.TensorType(INPUT, shape=tuple(example.shape), dtype=np.float32)],
                    outputs=[tools.TensorType(OUTPUT, dtype=np.float32)],
                    convert_to="mlprogram",
                    compute_precision=precision,
                    minimum_deployment_target=tools.target[SYSTEM],
                    skip_model_load=True,
                ).save(str(package))
            except Exception as error:
                # Exporter and converter let whatever they stumble over through.
                refused = (
                    f"cannot express {type(module).__name__} in Core ML: {type(error).__name__}: {first_line(error)}"
                )
        if refused:
            # Not as the cause: the converter's temporary folder would live as long as its error does.
            raise ExportError(refused)

    def _check(self, package: Path, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """The operators of the package, if it is what was asked for. shapes: those of its ends, by name.

        Raises:
            ExportError: it is something else.
        """
        tools = import_coremltools()
        with silent():
            model = tools.models.MLModel(str(package), skip_model_load=True)
            spec = model.get_spec()
        ends = {
            value.name: tuple(value.type.multiArrayType.shape)
            for value in (*spec.description.input, *spec.description.output)
        }
        if ends != shapes:
            raise ExportError(f"the Core ML package goes from and to {ends} instead of {shapes}")
        operators, types = _operators(spec)
        half = tools.proto.MIL_pb2.DataType.FLOAT16
        if (half in types) != (self.precision == "fp16"):
            raise ExportError(f"the Core ML package does not compute in {self.precision}")
        return operators.total() - operators["const"] - operators["cast"]


def _operators(spec: Any) -> tuple[Counter[str], set[int]]:
    """How many operators there are of each kind, and the types of what convolutions and their like give."""
    (function,) = spec.mlProgram.functions.values()
    block = function.block_specializations[function.opset]
    kinds = Counter(operation.type for operation in block.operations)
    computed = (operation for operation in block.operations if operation.type not in ("const", "cast"))
    types: Mapping[int, None] = dict.fromkeys(
        output.type.tensorType.dataType for operation in computed for output in operation.outputs
    )
    return kinds, set(types)


def import_coremltools() -> Any:
    """Core ML's converter.

    Raises:
        DeviceError: it is not installed.
    """
    try:
        with silent():
            import coremltools
    except ImportError as error:
        raise DeviceError(f"Core ML's converter is missing ({error}): {INSTALL}") from error
    return coremltools
