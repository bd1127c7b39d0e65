"""Networks as ExecuTorch programs (.pte): what its runtime on phones and boards takes.

XNNPACK, its backend for processors, knows neither a layer norm over channels nor a split. Each of them would cut the
network in two parts, and the lowering goes through all its passes once a part: over four minutes for 36 NAF blocks, in
145 parts. Both are therefore lowered in forms that XNNPACK knows, and the network stays one part:

- *Layer norm*: mean and variance are 1x1 convolutions to one channel with the constant kernel 1/c; the variance is that
  of the centered map, so no digits cancel.
- *Gate*: two slices.

In 8 bits weights have a scale per output channel, activations one a tensor from the calibration inputs; norms stay in
single precision, since 8 bits of a variance are too few to divide by. The ends of a program are floats.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx, nn

from netgraft.devices.quiet import silent
from netgraft.errors import DeviceError, ExportError, first_line
from netgraft.nets.nafnet import LAYER_NORM_EPS, LayerNorm2d

INSTALL = "pip install 'netgraft[executorch]'"
METHOD = "forward"
"""What the one method of a program is called."""


class ConvolutionNorm(nn.Module):
    """A :class:`LayerNorm2d` out of what XNNPACK knows. x: (b, c, h, w) -> the same."""

    average: Tensor
    epsilon: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, norm: LayerNorm2d) -> None:
        super().__init__()
        channels = len(norm.weight)
        average = torch.full((1, channels, 1, 1), 1 / channels)
        self.register_buffer("average", average)
        self.register_buffer("epsilon", torch.tensor([LAYER_NORM_EPS]))
        self.register_buffer("weight", norm.weight.detach().clone().view(1, -1, 1, 1))
        self.register_buffer("bias", norm.bias.detach().clone().view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        centered = x - nn.functional.conv2d(x, self.average)
        variance = nn.functional.conv2d(centered * centered, self.average, self.epsilon)
        return centered * torch.rsqrt(variance) * self.weight + self.bias


def xnnpack_program(module: nn.Module, example: Tensor, calibration: Tensor | None = None) -> bytes:
    """The program of ``module`` for inputs like ``example`` (1, c, h, w), for processors.

    calibration: (n, c, h, w), inputs that it will meet: then it is quantized to 8 bits.

    Raises:
        ExportError: ExecuTorch rejects the module.
        DeviceError: ExecuTorch is not installed.
    """
    with silent():
        try:
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        except ImportError as error:
            raise missing(error) from error

        def lowered() -> bytes:
            program = torch.export.export(with_xnnpack_forms(module), (example,))
            _slice_chunks(program.graph_module)
            if calibration is not None:
                program = torch.export.export(quantized(program.module(), calibration), (example,))
            return _lowered(program, XnnpackPartitioner())

        return expressed(module, lowered)


def coreml_program(module: nn.Module, example: Tensor) -> bytes:
    """The program of ``module`` for inputs like ``example`` (1, c, h, w), computed by Core ML in half precision.

    Raises:
        ExportError: ExecuTorch or Core ML's converter rejects the module, or part of it.
        DeviceError: ExecuTorch or the converter is not installed.
    """
    with silent():
        try:
            from executorch.backends.apple.coreml.partition import CoreMLPartitioner
        except ImportError as error:
            raise missing(error) from error
        frozen = copy.deepcopy(module).eval().requires_grad_(False)
        return expressed(module, lambda: _lowered(torch.export.export(frozen, (example,)), CoreMLPartitioner()))


def program_parts(content: bytes) -> tuple[int, tuple[str, ...]]:
    """How many parts of a program its backend computes, and the names of the operators that ExecuTorch does itself."""
    with silent():
        from executorch.exir._serialize._program import deserialize_pte_binary

        (plan,) = deserialize_pte_binary(content).program.execution_plan
    return len(plan.delegates), tuple(sorted({operator.name for operator in plan.operators}))


def expressed(module: nn.Module, make: Callable[[], bytes]) -> bytes:
    """What ``make`` gives, or that it cannot be done with this module.

    Raises:
        ExportError: it cannot.
    """
    try:
        return make()
    except ExportError:
        raise
    except Exception as error:
        # Its passes raise whatever they stumble over, assertions and errors of classes of their own included.
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise ExportError(f"cannot express {type(module).__name__} in ExecuTorch: {reason}") from error


def missing(error: ImportError) -> DeviceError:
    """What to tell who lacks ExecuTorch."""
    return DeviceError(f"ExecuTorch is missing ({error}): {INSTALL}")


def with_xnnpack_forms(module: nn.Module) -> nn.Module:
    """A frozen copy of ``module`` that computes the same without the norms that XNNPACK does not know."""
    norms: dict[int, object] = {
        id(part): ConvolutionNorm(part) for part in module.modules() if isinstance(part, LayerNorm2d)
    }
    # As if copied already: the copy takes these in place of what they stand for.
    return copy.deepcopy(module, norms).eval().requires_grad_(False)


def _slice_chunks(module: fx.GraphModule) -> None:
    """Write every split in equal parts as slices, in place."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.target is not torch.ops.aten.chunk.default:
            continue
        source, _, dim = (*node.args, 0)[:3]
        parts = sorted(node.users, key=lambda part: part.args[1])
        ends = [0]
        for value in node.meta["val"]:
            ends.append(ends[-1] + value.shape[dim])
        bounds = list(pairwise(ends))
        for part in parts:
            with graph.inserting_before(part):
                piece = graph.call_function(torch.ops.aten.slice.Tensor, (source, dim, *bounds[part.args[1]]))
            piece.meta = dict(part.meta)
            part.replace_all_uses_with(piece)
            graph.erase_node(part)
        graph.erase_node(node)
    module.recompile()


def quantized(module: nn.Module, calibration: Tensor) -> nn.Module:
    """An exported ``module`` with its convolutions in 8 bits. calibration: (n, c, h, w), inputs that it will meet."""
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer as xnnpack
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = xnnpack.XNNPACKQuantizer().set_global(xnnpack.get_symmetric_quantization_config(is_per_channel=True))
    observed = prepare_pt2e(module, quantizer.set_module_type(ConvolutionNorm, None))
    with torch.no_grad():
        for one in calibration:
            observed(one[None])
    converted: nn.Module = convert_pt2e(observed)
    return converted


def _lowered(program: torch.export.ExportedProgram, partitioner: Any) -> bytes:
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    # What it verifies are the operators between the parts, which the runtime refuses as well.
    config = EdgeCompileConfig(_check_ir_validity=False)
    edge = to_edge_transform_and_lower(program, partitioner=[partitioner], compile_config=config)
    content: bytes = edge.to_executorch().buffer
    return content
