"""The teacher, or any exported network, in 8 bits without training: ONNX Runtime's quantizer and NNCF."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import onnx
import openvino as ov
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from netgraft.devices.device import Array
from netgraft.devices.onnx.graph import INPUT


class _Crops(CalibrationDataReader):  # type: ignore[misc]
    """Hands the calibration images out one by one."""

    def __init__(self, images: Array) -> None:
        self._left: Iterator[Array] = iter(images)

    def get_next(self) -> dict[str, Array] | None:
        image = next(self._left, None)
        return None if image is None else {INPUT: image[None]}


def by_onnxruntime(source: Path, target: Path, images: Array, operators: tuple[str, ...] | None) -> float:
    """Quantize statically in QDQ form, weights per channel; returns the processor seconds that it took.

    images: (n, 3, h, w) for calibration. operators: types to quantize, None for all that the quantizer knows.
    Convolutions to one channel are left alone: they are the mean and the variance of layer norms in netgraft's exports,
    and a variance in 8 bits is noise.
    """
    began = time.process_time()
    prepared = target.with_name("prepared.onnx")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    model = _named(onnx.load(prepared))
    quantize_static(
        model,
        target,
        _Crops(images),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=None if operators is None else list(operators),
        nodes_to_exclude=_statistics(model),
        per_channel=True,
        # Unsigned times signed is what the processor's VNNI instructions multiply.
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    prepared.unlink()
    return time.process_time() - began


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every node with a name of its own, in place: exclusion goes by name."""
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    return model


def _statistics(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions that give one channel."""
    channels = {weight.name: weight.dims[0] for weight in model.graph.initializer if weight.dims}
    return [node.name for node in model.graph.node if node.op_type == "Conv" and channels.get(node.input[1], 0) == 1]


def by_nncf(source: Path, target: Path, images: Array) -> float:
    """Quantize for OpenVINO with NNCF's defaults, but for layer norms' statistics, which stay as they are.

    images: (n, 3, h, w) for calibration. Returns the processor seconds that it took.
    """
    began = time.process_time()
    model: Any = ov.Core().read_model(source)
    statistics = [
        node.get_friendly_name()
        for node in model.get_ops()
        if node.get_type_name() == "Convolution" and node.output(0).get_shape()[1] == 1
    ]
    ignored = nncf.IgnoredScope(names=statistics) if statistics else None
    dataset = nncf.Dataset([np.ascontiguousarray(image[None]) for image in images])
    quantized = nncf.quantize(model, dataset, subset_size=len(images), ignored_scope=ignored)
    ov.save_model(quantized, target, compress_to_fp16=False)
    return time.process_time() - began
