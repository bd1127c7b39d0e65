"""Faster forms of what runtimes are slow at, in an ONNX graph: they compute the same up to rounding.

On ONNX Runtime's CPU provider convolutions run in a blocked layout, and every operator that does not know
this layout costs two reorderings of the whole map besides its own work. Two rewrites avoid most of them:

- *Layer norm over channels* (Transpose, LayerNormalization, Transpose): the mean and the variance become 1x1
  convolutions to one channel with the constant kernel 1/c; the variance is that of the centered map, so no
  digits cancel. The norm's weight and bias move into the 1x1 convolution behind it.
- *Gate* (Split in two halves of the channels): the convolution before it becomes two convolutions, one for
  each half, and so does a 1x1 convolution before a depthwise one. Nothing is left to split.

A NAF block with both takes .64 / .73 / .84 / .89 of its time at (16, 256, 256) / (32, 128, 128) / (64, 64,
64) / (128, 32, 32), one thread, AVX-512. What does not match is left as it is.

For runtimes that compute in half precision there is the norm once more in a form that is safe there: features are
scaled before they are squared, since squares overflow from 256 on. On the CPU, where it has no use, a NAF block with
it takes 1.22 / 1.16 / 1.11 / 1.06 times as long at the same shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

SAFE_MULTIPLE, SAFE_FLOOR = 4.0, 0.02
"""The scale of the fp16-safe norm is 1 / (multiple * mean absolute deviation + floor)."""
TO_CHANNELS_LAST, TO_CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def use_convolution_forms(model: ir.Model, *, fp16_safe: bool = False) -> None:
    """Rewrite layer norms and gates, in place. ``fp16_safe``: norms take the form that half precision can compute."""
    for node in list(model.graph):
        if node.op_type == "LayerNormalization":
            _rewrite_norm(model.graph, node, _standardized_safely if fp16_safe else _standardized)
    for node in list(model.graph):
        if node.op_type == "Split":
            _rewrite_gate(model.graph, node)
    RemoveUnusedNodesPass()(model)


def _rewrite_norm(graph: ir.Graph, norm: ir.Node, standardized: _Standardized) -> None:
    before, after = _producer(norm.inputs[0]), _only_consumer(norm.outputs[0])
    weight = _constant(norm.inputs[1])
    bias = _constant(norm.inputs[2]) if len(norm.inputs) > 2 else None
    if (
        before is None
        or after is None
        or not _transposes(before, TO_CHANNELS_LAST)
        or not _transposes(after, TO_CHANNELS_FIRST)
        or _attribute(norm, "axis", -1) not in (-1, 3)
        or weight is None
        or (len(norm.inputs) > 2 and bias is None)
    ):
        return
    bias = np.zeros_like(weight) if bias is None else bias
    place = _Place(graph, after)
    standard = standardized(place, before.inputs[0], len(weight), _attribute(norm, "epsilon", 1e-5))
    result = after.outputs[0]
    readers = [use.node for use in result.uses()]
    if readers and not result.is_graph_output() and all(_is_pointwise(reader) for reader in readers):
        for reader in readers:
            _fold_scale(graph, reader, weight, bias)
        ir.convenience.replace_all_uses_with(result, standard)
        return
    scaled = place.node("Mul", [standard, place.constant(weight[:, None, None])])
    shifted = place.node("Add", [scaled, place.constant(bias[:, None, None])])
    _replace(result, shifted)


def _standardized(place: _Place, x: ir.Value | None, channels: int, epsilon: float) -> ir.Value:
    """(x - mean) / sqrt(variance + epsilon) over the channels of each pixel."""
    average = place.constant(np.full((1, channels, 1, 1), 1 / channels, np.float32))
    centered = place.node("Sub", [x, place.node("Conv", [x, average])])
    squared = place.node("Mul", [centered, centered])
    variance = place.node("Conv", [squared, average, place.constant(np.array([epsilon], np.float32))])
    # The reciprocal is taken where it is one channel wide; the wide operation is a product.
    return place.node("Mul", [centered, place.node("Reciprocal", [place.node("Sqrt", [variance])])])


def _standardized_safely(place: _Place, x: ir.Value | None, channels: int, epsilon: float) -> ir.Value:
    """The same where numbers end at 65504 and lose digits below 6e-5: scaled before squaring.

    Any scale r of a pixel gives the same, z / sqrt(mean(z^2) + r^2 epsilon) with z = r (x - mean). Here it is one over
    a multiple of the mean absolute deviation, plus a floor: squares and r^2 epsilon then stay in the middle of the
    range of half precision, whatever the features' magnitude, up to 1000 channels.
    """
    average = np.full((1, channels, 1, 1), 1 / channels, np.float32)
    centered = place.node("Sub", [x, place.node("Conv", [x, place.constant(average)])])
    spread = place.constant(average * SAFE_MULTIPLE), place.constant(np.array([SAFE_FLOOR], np.float32))
    scale = place.node("Reciprocal", [place.node("Conv", [place.node("Abs", [centered]), *spread])])
    scaled = place.node("Mul", [centered, scale])
    squares = place.node("Conv", [place.node("Mul", [scaled, scaled]), place.constant(average)])
    # The scale first: its square times epsilon is small, epsilon itself is less than half precision resolves.
    shrunk = place.node("Mul", [scale, place.constant(np.array([epsilon**0.5], np.float32))])
    variance = place.node("Add", [squares, place.node("Mul", [shrunk, shrunk])])
    return place.node("Mul", [scaled, place.node("Reciprocal", [place.node("Sqrt", [variance])])])


_Standardized = Callable[["_Place", ir.Value | None, int, float], ir.Value]


def _fold_scale(graph: ir.Graph, conv: ir.Node, scale: NDArray[Any], shift: NDArray[Any]) -> None:
    """Let a 1x1 convolution, in place, do what it does to ``scale * x + shift`` when it is given x."""
    kernel = _weights(conv).astype(np.float64)
    bias = _bias(conv).astype(np.float64) + kernel[:, :, 0, 0] @ shift.astype(np.float64)
    place = _Place(graph, conv)
    folded = place.constant((kernel * scale[:, None, None]).astype(np.float32))
    moved = place.node("Conv", [conv.inputs[0], folded, place.constant(bias.astype(np.float32))], _attributes(conv))
    _replace(conv.outputs[0], moved)


def _rewrite_gate(graph: ir.Graph, split: ir.Node) -> None:
    halves = split.outputs
    if len(halves) != 2 or _attribute(split, "axis", 0) != 1 or not _splits_evenly(split):
        return
    parts = _halved(graph, split, split.inputs[0])
    if parts is None:
        return
    for half, part in zip(halves, parts, strict=True):
        _replace(half, part)


def _halved(graph: ir.Graph, reader: ir.Node, value: ir.Value | None) -> tuple[ir.Value, ir.Value] | None:
    """The halves of a convolution's output, each by its own convolution; None where others read it too."""
    conv = _producer(value)
    if conv is None or value is None or _only_consumer(value) is not reader or not _is_convolution(conv):
        return None
    kernel, bias, group = _weights(conv), _bias(conv), _attribute(conv, "group", 1)
    if kernel.shape[0] % 2:
        return None
    if group == 1:
        inputs: tuple[ir.Value | None, ir.Value | None] | None = (conv.inputs[0], conv.inputs[0])
    elif group == kernel.shape[0] and kernel.shape[1] == 1:
        inputs = _halved(graph, conv, conv.inputs[0])
    else:
        inputs = None
    if inputs is None:
        return None
    place, half = _Place(graph, conv), kernel.shape[0] // 2
    attributes = _attributes(conv) | {"group": 1 if group == 1 else half}
    first, second = (
        place.node("Conv", [x, place.constant(kernel[part]), place.constant(bias[part])], attributes)
        for x, part in zip(inputs, (slice(half), slice(half, None)), strict=True)
    )
    return first, second


class _Place:
    """A place in a graph, in front of a node, where new nodes go."""

    def __init__(self, graph: ir.Graph, before: ir.Node) -> None:
        self.graph = graph
        self.before = before

    def node(
        self, op_type: str, inputs: Sequence[ir.Value | None], attributes: dict[str, Any] | None = None
    ) -> ir.Value:
        """The output of a new node."""
        node = ir.node(op_type, inputs, attributes)
        self.graph.insert_before(self.before, node)
        return node.outputs[0]

    def constant(self, array: NDArray[Any]) -> ir.Value:
        """A new initializer."""
        name = f"form_{len(self.graph.initializers)}"
        value = ir.Value(name=name, const_value=ir.tensor(np.ascontiguousarray(array), name=name))
        value.dtype, value.shape = ir.DataType.FLOAT, ir.Shape(array.shape)
        self.graph.register_initializer(value)
        return value


def _replace(old: ir.Value, new: ir.Value) -> None:
    """Let every reader of ``old``, and the graph's output, read ``new``; an output keeps its name."""
    new.type, new.shape = old.type, old.shape
    if old.is_graph_output():
        name, old.name = old.name, f"{old.name}_before"
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        new.name = name
    else:
        ir.convenience.replace_all_uses_with(old, new)


def _producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _only_consumer(value: ir.Value) -> ir.Node | None:
    """The one node that reads the value, if it is one and the value is not an output of the graph."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def _constant(value: ir.Value | None) -> NDArray[Any] | None:
    """The array of a float32 constant."""
    tensor = None if value is None else value.const_value
    return None if tensor is None or tensor.dtype != ir.DataType.FLOAT else tensor.numpy()


def _attribute(node: ir.Node, name: str, default: Any) -> Any:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.value


def _attributes(node: ir.Node) -> dict[str, Any]:
    # As they are, not their values: guessing the type of a value takes longer than all the rest.
    return dict(node.attributes)


def _transposes(node: ir.Node, order: tuple[int, ...]) -> bool:
    return node.op_type == "Transpose" and tuple(_attribute(node, "perm", ())) == order


def _is_convolution(node: ir.Node) -> bool:
    """A convolution with constant float32 weights and bias."""
    constants = [_constant(value) for value in node.inputs[1:] if value is not None]
    return node.op_type == "Conv" and bool(constants) and all(array is not None for array in constants)


def _is_pointwise(node: ir.Node) -> bool:
    """A dense 1x1 convolution without padding: what it does to each pixel is one matrix."""
    return (
        _is_convolution(node)
        and _weights(node).shape[2:] == (1, 1)
        and _attribute(node, "group", 1) == 1
        and not any(_attribute(node, "pads", ()))
    )


def _weights(conv: ir.Node) -> NDArray[Any]:
    kernel = _constant(conv.inputs[1])
    assert kernel is not None, "asked only of convolutions with constant weights"
    return kernel


def _bias(conv: ir.Node) -> NDArray[Any]:
    bias = _constant(conv.inputs[2]) if len(conv.inputs) > 2 else None
    return np.zeros(len(_weights(conv)), np.float32) if bias is None else bias


def _splits_evenly(split: ir.Node) -> bool:
    sizes = _split_sizes(split)
    return sizes is None or (len(sizes) == 2 and sizes[0] == sizes[1])


def _split_sizes(split: ir.Node) -> list[int] | None:
    """The sizes that a Split names; None if it only says how many parts."""
    if len(split.inputs) < 2 or split.inputs[1] is None:
        return None
    tensor = split.inputs[1].const_value
    return [] if tensor is None else tensor.numpy().tolist()
