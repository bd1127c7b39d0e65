"""ONNX networks in 8 bits: static quantization after training, by ONNX Runtime's quantizer.

Weights are signed and have a scale per output channel; activations are unsigned and have one scale and zero
point a tensor, from the smallest and largest value that the calibration inputs bring (unsigned times signed is
what the VNNI instructions of x86 processors multiply). The file has float32 ends and QuantizeLinear and
DequantizeLinear pairs around every operator that the quantizer knows (QDQ), which each execution provider fuses as
far as it can. Quantizing convolutions alone is slower: every boundary costs a pass over the map.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from netgraft.devices.alone import ALONE
from netgraft.devices.device import Array
from netgraft.devices.onnx.graph import INPUT
from netgraft.devices.onnx.session import runtime_errors
from netgraft.errors import ExportError, first_line


def quantize_onnx(content: bytes, calibration: Array, nodes: Collection[str] | None = None) -> bytes:
    """The ONNX file ``content``, in plain forms (:mod:`netgraft.devices.onnx.forms` are for floats), in 8 bits, or
    those of its nodes with these names.

    calibration: (n, c, h, w), inputs that the network will meet: what lies beyond their extremes is cut off.

    Raises:
        ExportError: the quantizer rejects the network.
    """
    from onnxruntime.quantization.quant_utils import QuantFormat, QuantType
    from onnxruntime.quantization.quantize import quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder, ALONE, _quiet():
        given, prepared, quantized = (Path(folder) / f"{name}.onnx" for name in ("given", "prepared", "quantized"))
        given.write_bytes(content)
        try:
            # Symbolic shapes are for free sizes; ours is fixed.
            # Its optimizations would rename nodes.
            quant_pre_process(given, prepared, skip_symbolic_shape=True, skip_optimization=nodes is not None)
            quantize_static(
                prepared,
                quantized,
                _Inputs(calibration),  # type: ignore[arg-type]  # It asks for the method alone, not for its class.
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_quantize=None if nodes is None else list(nodes),
            )
        except runtime_errors() as error:
            raise ExportError(f"ONNX Runtime cannot quantize the network: {first_line(error)}") from error
        return quantized.read_bytes()


class _Inputs:
    """Hands (n, c, h, w) out one by one, as the quantizer wants it."""

    def __init__(self, inputs: Array) -> None:
        self._left: Iterator[Array] = iter(inputs)

    def get_next(self) -> dict[str, Array] | None:
        one = next(self._left, None)
        return None if one is None else {INPUT: one[None]}


@contextmanager
def _quiet() -> Iterator[None]:
    """While open, what is said to the root logger itself is dropped: the quantizer advises there, and configures it."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    root.addFilter(_nothing)
    try:
        yield
    finally:
        root.removeFilter(_nothing)
        root.removeHandler(handler)


def _nothing(_: logging.LogRecord) -> bool:
    return False
