"""The faster forms on graphs written by hand: the same numbers as before, and what does not match stays."""

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from netgraft.devices.onnx.forms import use_convolution_forms

NORM = """
    t = Transpose <perm = [0, 2, 3, 1]> (x)
    l = LayerNormalization <axis = -1, epsilon = 0.001> (t, gain, shift)
    n = Transpose <perm = [0, 3, 1, 2]> (l)
"""
GATE = "a, b = Split <axis = 1, num_outputs = 2> (c)\n y = Mul (a, b)"
POINTWISE = {"kernel": (6, 4, 1, 1), "bias": (6,)}


def model_of(body: str, **shapes: tuple[int, ...]) -> ir.Model:
    """A graph over x (1, 4, 5, 7) with random constants of these shapes."""
    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 18]>net (float[1, 4, 5, 7] x) => (float[1, c, h, w] y) {{ {body} }}'
    )
    for name, shape in shapes.items():
        constant = rng.normal(size=shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(constant, name))
    return ir.from_proto(proto)


def result_of(model: ir.Model) -> NDArray[np.float32]:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    x = np.random.default_rng(1).normal(loc=3, size=(1, 4, 5, 7)).astype(np.float32)
    return onnxruntime.InferenceSession(proto.SerializeToString()).run(["y"], {"x": x})[0]


def in_half_precision(model: ir.Model, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a graph computes when weights and every intermediate result are rounded to 16 bits."""
    proto = ir.to_proto(model)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    del proto.graph.value_info[:]
    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
            )
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        (y,) = ReferenceEvaluator(proto).run(None, {"x": x.astype(np.float16)})
    assert y.dtype == np.float16
    return y.astype(np.float32)


def rewritten(body: str, **shapes: tuple[int, ...]) -> Counter[str]:
    """The operators after the rewrite, which must not have changed what the graph computes."""
    before = result_of(model_of(body, **shapes))
    model = model_of(body, **shapes)
    use_convolution_forms(model)
    np.testing.assert_allclose(result_of(model), before, atol=1e-5 * np.abs(before).max())
    return Counter(node.op_type for node in model.graph)


def test_a_norm_moves_its_weight_and_bias_into_the_pointwise_convolution() -> None:
    """Mean and variance are two convolutions; no product or sum is left for weight and bias."""
    ops = rewritten(f"{NORM} y = Conv (n, kernel, bias)", gain=(4,), shift=(4,), **POINTWISE)
    assert ops == {"Conv": 3, "Sub": 1, "Mul": 2, "Sqrt": 1, "Reciprocal": 1}


def test_two_convolutions_may_read_one_norm_and_one_kernel() -> None:
    body = f"{NORM} c = Conv (n, kernel, bias)\n d = Conv (n, kernel)\n y = Add (c, d)"
    assert rewritten(body, gain=(4,), shift=(4,), **POINTWISE)["Conv"] == 4


@pytest.mark.parametrize(
    "reader",
    [
        "y = Conv <pads = [1, 1, 1, 1]> (n, kernel, bias)",
        "c = Conv <pads = [1, 1, 1, 1]> (n, kernel)\n y = Add (c, n)",
        "y = Relu (n)",
        "y = Identity (n)",
    ],
)
def test_a_norm_keeps_its_weight_and_bias_where_they_cannot_move(reader: str) -> None:
    """Zero padding after the norm is zero, not the shift: a padded 3x3 convolution cannot take it."""
    ops = rewritten(f"{NORM} {reader}", gain=(4,), shift=(4,), kernel=(4, 4, 3, 3), bias=(4,))
    assert "LayerNormalization" not in ops
    assert ops["Mul"] == 3
    assert ops["Add"] == (2 if "Add" in reader else 1)


def test_a_norm_may_be_the_output_itself() -> None:
    ops = rewritten(NORM.replace("n =", "y ="), gain=(4,), shift=(4,))
    assert "Transpose" not in ops


def test_a_norm_over_something_else_than_channels_stays() -> None:
    body = "y = LayerNormalization <axis = -1> (x, gain, shift)"
    assert rewritten(body, gain=(7,), shift=(7,)) == {"LayerNormalization": 1}


def test_a_norm_whose_channels_last_form_is_read_elsewhere_stays() -> None:
    body = f"{NORM} r = Transpose <perm = [0, 3, 1, 2]> (l)\n y = Mul (n, r)"
    assert rewritten(body, gain=(4,), shift=(4,))["LayerNormalization"] == 1


def test_a_gate_becomes_two_convolutions() -> None:
    ops = rewritten(f"c = Conv (x, kernel, bias) {GATE}", **POINTWISE)
    assert ops == {"Conv": 2, "Mul": 1}


def test_a_gate_behind_a_depthwise_convolution_splits_both() -> None:
    body = f"e = Conv (x, kernel, bias) c = Conv <group = 6, pads = [1, 1, 1, 1]> (e, depthwise) {GATE}"
    assert rewritten(body, depthwise=(6, 1, 3, 3), **POINTWISE) == {"Conv": 4, "Mul": 1}


@pytest.mark.parametrize(
    "body",
    [
        f"c = Identity (x) {GATE}",
        f"c = Conv <group = 2> (x, grouped) {GATE}",
        f"c = Conv <group = 4, pads = [1, 1, 1, 1]> (x, depthwise) {GATE}",
        f"c = Conv (x, kernel, bias) {GATE.replace('y =', 'm =')} s = ReduceSum (c) y = Add (m, s)",
        "rows = Constant <value_ints = [2, 3]> () a, b = Split <axis = 2> (x, rows) y = Concat <axis = 2> (b, a)",
    ],
)
def test_a_split_that_no_convolution_feeds_alone_stays(body: str) -> None:
    """The input itself, a grouped or unfed depthwise convolution, another reader, another axis."""
    assert rewritten(body, grouped=(6, 2, 1, 1), depthwise=(4, 1, 3, 3), **POINTWISE)["Split"] == 1


def test_uneven_parts_stay() -> None:
    body = (
        "sizes = Constant <value_ints = [2, 4]> () c = Conv (x, kernel, bias)\n"
        "a, b = Split <axis = 1> (c, sizes) y = Concat <axis = 1> (b, a)"
    )
    assert rewritten(body, **POINTWISE)["Split"] == 1


@pytest.mark.parametrize("magnitude", [0.003, 0.1, 1.0, 30.0, 1000.0, 10_000.0])
@pytest.mark.parametrize("safe", [False, True])
def test_the_safe_norm_survives_half_precision_at_every_magnitude(magnitude: float, safe: bool) -> None:
    """Against the definition in double precision; the plain form squares 1000 to infinity, and its output is zero."""
    body = NORM.replace("0.001", "0.000001") + "y = Conv (n, kernel, bias)"
    model = model_of(body, gain=(4,), shift=(4,), **POINTWISE)
    constants = {name: value.const_value.numpy().astype(np.float64) for name, value in model.graph.initializers.items()}
    x = (magnitude * np.random.default_rng(1).normal(size=(1, 4, 5, 7))).astype(np.float16).astype(np.float32)
    centered = x.astype(np.float64) - x.mean(1, keepdims=True, dtype=np.float64)
    normed = centered / np.sqrt(np.square(centered).mean(1, keepdims=True) + 1e-6)
    gain, shift, bias = (constants[name].reshape(1, -1, 1, 1) for name in ("gain", "shift", "bias"))
    expected = np.einsum("oi,nihw->nohw", constants["kernel"][:, :, 0, 0], normed * gain + shift) + bias
    use_convolution_forms(model, fp16_safe=safe)
    error = np.abs(in_half_precision(model, x) - expected).max() / np.abs(expected).max()
    if safe or magnitude < 100:
        # The plain one keeps two digits where its squares are tiny.
        assert error < (0.01 if safe or magnitude > 0.01 else 0.1)
    else:
        assert error > 0.05


def test_the_safe_norm_computes_the_same_in_single_precision() -> None:
    body = f"{NORM} y = Conv (n, kernel, bias)"
    shapes = {"gain": (4,), "shift": (4,), **POINTWISE}
    before, model = result_of(model_of(body, **shapes)), model_of(body, **shapes)
    use_convolution_forms(model, fp16_safe=True)
    np.testing.assert_allclose(result_of(model), before, atol=1e-5 * np.abs(before).max())
    assert "LayerNormalization" not in {node.op_type for node in model.graph}
