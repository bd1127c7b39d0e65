"""Networks as ONNX files: input ``x``, output ``y``, nothing in the graph that the network does not need."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as passes
import torch
from torch import Tensor, nn

from netgraft.devices.alone import ALONE
from netgraft.devices.onnx.forms import use_convolution_forms
from netgraft.errors import ExportError
from netgraft.files import write_atomically
from netgraft.restore import SIZE_MULTIPLE

OPSET = 18
INPUT, OUTPUT = "x", "y"
MOST_REWRITTEN = 2000
"""Nodes of a graph that the exporter's rewriting, whose time grows with their square, is let loose on."""
LARGE_GRAPH_PASSES = (
    passes.RemoveUnusedNodesPass,
    passes.LiftConstantsToInitializersPass,
    passes.DeduplicateInitializersPass,
    passes.CommonSubexpressionEliminationPass,
    passes.NameFixPass,
)
"""What is left of it for others, each in a few seconds."""
NOISY_LOGGERS = (
    "torch.onnx._internal.exporter._registration",
    "torch.fx.experimental.symbolic_shapes",
    "torch.export._trace",
    "onnxscript.optimizer._constant_folding",
)

log = logging.getLogger(__name__)


def to_onnx(
    module: nn.Module,
    example: Tensor,
    path: Path,
    *,
    dynamic: bool = False,
    fast_forms: bool = True,
    fp16_safe: bool = False,
) -> None:
    """Write ``module`` as an ONNX file, whole or not at all; the module itself is left as it is.

    example: (1, c, h, w), the input shape of the file. With ``dynamic`` height and width are free, as long as
    they are multiples of the module's ``size_multiple`` (1 for a module without one), which the file's metadata
    then note under that name. ``fast_forms`` rewrites
    layer norms and gates to forms that compute the same faster, see :mod:`netgraft.devices.onnx.forms`; with
    ``fp16_safe`` these are such that half precision can compute them.

    Raises:
        ExportError: the module cannot be expressed in ONNX, or the file cannot be written.
    """
    content = onnx_bytes(module, example, dynamic=dynamic, fast_forms=fast_forms, fp16_safe=fp16_safe)
    write_atomically(path, content, ExportError)


def onnx_bytes(
    module: nn.Module, example: Tensor, *, dynamic: bool = False, fast_forms: bool = True, fp16_safe: bool = False
) -> bytes:
    """The content of the file that :func:`to_onnx` writes.

    Raises:
        ExportError: the module cannot be expressed in ONNX.
    """
    model = onnx_model(module, example, dynamic=dynamic)
    if dynamic:
        # Nothing in the graph says it, and whoever pads images for the file must know.
        model.metadata_props[SIZE_MULTIPLE] = str(_size_multiple(module))
    return finished_bytes(model, fast_forms=fast_forms, fp16_safe=fp16_safe)


def finished_bytes(model: ir.Model, *, fast_forms: bool = True, fp16_safe: bool = False) -> bytes:
    """``model``, which is changed in place, as the content of a file."""
    if fast_forms:
        use_convolution_forms(model, fp16_safe=fp16_safe)
    content: bytes = ir.to_proto(model).SerializeToString()
    return content


def onnx_model(module: nn.Module, example: Tensor, *, dynamic: bool = False, named: bool = False) -> ir.Model:
    """The graph of ``module``, with what can be computed in advance computed.

    named: all of its weights are there under their names in the state dict; where computing in advance would lose some,
    it is left to the runtime, which does so when it opens a file.

    Raises:
        ExportError: the module cannot be expressed in ONNX.
    """
    frozen = copy.deepcopy(module).eval().requires_grad_(False)
    shapes = {INPUT: _free_sides(module)} if dynamic else None
    try:
        with ALONE, _quiet(), torch.no_grad():
            program = torch.onnx.export(
                frozen,
                (example,),
                dynamo=True,
                verbose=False,
                optimize=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=tuple(shapes.values()) if shapes else None,
            )
            assert program is not None, "the exporter gives a program unless it was asked to write a file"
            _fold(program, module.state_dict().keys() if named else set())
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(f"cannot express {type(module).__name__} in ONNX: {_root_cause(error)}") from error
    _forget_sources(program.model)
    return program.model


def _fold(program: torch.onnx.ONNXProgram, weights: Set[str]) -> None:
    """Compute in advance, in place, what can be; nothing if weights of these names would be lost that way."""
    before = program.model
    if weights:
        if any(_is_of_weights_alone(node) for node in before.graph):
            return
        program.model = before.clone()
    if len(program.model.graph) <= MOST_REWRITTEN:
        program.optimize()
    else:
        # Here, since little else needs it: it takes long to import.
        import onnxscript

        onnxscript.optimizer.fold_constants(program.model)
        for step in LARGE_GRAPH_PASSES:
            step()(program.model)
    # Of equal weights one alone is left.
    if not weights <= program.model.graph.initializers.keys():
        program.model = before


def _is_of_weights_alone(node: ir.Node) -> bool:
    """Whether a node computes with weights and constants alone."""
    inputs = [value for value in node.inputs if value is not None]
    constant = all(value.is_initializer() or _is_constant(value) for value in inputs)
    return constant and any(value.is_initializer() for value in inputs) and node.op_type != "Shape"


def _is_constant(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type == "Constant"


def _free_sides(module: nn.Module) -> dict[int, Any]:
    """Symbolic height and width that are multiples of what the module needs."""
    multiple = _size_multiple(module)
    height, width = torch.export.Dim("h", min=1, max=1 << 14), torch.export.Dim("w", min=1, max=1 << 14)
    return {2: multiple * height, 3: multiple * width} if multiple > 1 else {2: height, 3: width}


def _size_multiple(module: nn.Module) -> int:
    """What the sides of the module's input must be multiples of."""
    return int(getattr(module, "size_multiple", 1))


def _forget_sources(model: ir.Model) -> None:
    """Drop the exporter's notes from the graph, in place: they hold paths of the exporting machine."""
    for node in model.graph:
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


def _root_cause(error: BaseException) -> str:
    """What went wrong first, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """While open, the exporter keeps its news to itself: what matters of it is in the error that it raises.

    It says once an export that torchvision's operators will not be known, uses a deprecated call of torch,
    and prints whole graphs before it gives up.
    """
    loggers = [logging.getLogger(name) for name in NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    printed = io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
        ):
            warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)", category=FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        log.debug("the ONNX exporter printed: %s", printed.getvalue())
