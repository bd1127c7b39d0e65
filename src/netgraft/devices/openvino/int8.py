"""ONNX networks in 8 bits for OpenVINO, quantized after training by NNCF.

Weights are signed and have a scale per output channel, activations one scale a tensor from the calibration inputs
(NNCF's mixed preset); biases are corrected for the mean error that quantization brings. The result is an ONNX file
again, with QuantizeLinear and DequantizeLinear pairs.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import ModuleType

import numpy as np
import onnx

from netgraft.devices.device import Array
from netgraft.devices.onnx.graph import INPUT
from netgraft.devices.onnx.session import runtime_errors
from netgraft.devices.openvino.device import without_telemetry
from netgraft.errors import DeviceError, ExportError, first_line


def quantize_with_nncf(content: bytes, calibration: Array, nodes: Collection[str] | None = None) -> bytes:
    """The ONNX file ``content`` in 8 bits, or those of its nodes with these names.

    calibration: (n, c, h, w), inputs that the network will meet.

    Raises:
        ExportError: NNCF rejects the network.
        DeviceError: NNCF is not installed.
    """
    nncf = import_nncf()
    graph = onnx.load_from_string(content)
    left = [] if nodes is None else [node.name for node in graph.graph.node if node.name not in nodes]
    inputs = nncf.Dataset([{INPUT: np.ascontiguousarray(one[None])} for one in calibration])
    try:
        with _quiet():
            model = nncf.quantize(
                graph,
                inputs,
                subset_size=len(calibration),
                preset=nncf.QuantizationPreset.MIXED,
                ignored_scope=nncf.IgnoredScope(names=left),
            )
    except (*runtime_errors(), nncf.UnsupportedModelError, nncf.ValidationError, nncf.InternalError) as error:
        raise ExportError(f"NNCF cannot quantize the network: {first_line(error)}") from error
    quantized: bytes = model.SerializeToString()
    return quantized


def import_nncf() -> ModuleType:
    """NNCF, without its telemetry.

    Raises:
        DeviceError: it is not installed.
    """
    with without_telemetry():
        try:
            import nncf
        except ImportError as error:
            raise DeviceError(f"NNCF is missing ({error}): pip install 'netgraft[openvino]'") from error
    return nncf


@contextmanager
def _quiet() -> Iterator[None]:
    """While open, NNCF keeps its news and its progress bars to itself."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
