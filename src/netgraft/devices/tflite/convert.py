"""Networks as TFLite files, in single precision or 8 bits: what LiteRT runs, and what Arm's compiler for NPUs takes.

Images and features lie channel-last in such a file, (1, h, w, c), as convolutions there want them. In 8 bits the
ends of the network are 8 bits too, as on an NPU: weights have a scale per output channel, activations one a tensor
from the smallest and largest value that the calibration inputs bring.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from netgraft.devices.alone import ALONE
from netgraft.devices.device import Array
from netgraft.devices.quiet import quiet
from netgraft.errors import DeviceError, ExportError, first_line

INSTALL = "pip install 'netgraft[litert]'"
SIGNATURE, INPUT = "serving_default", "args_0"
"""Where the converter puts the one input of a network."""


def tflite_bytes(module: nn.Module, example: Tensor) -> bytes:
    """The TFLite file of ``module`` for inputs like ``example`` (1, c, h, w), in single precision.

    Raises:
        ExportError: the converter rejects the module.
        DeviceError: the converter is not installed.
    """
    converter = _import_converter()
    frozen = with_quantizable_forms(module).eval().requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder, ALONE, quiet():
        path = Path(folder) / "network.tflite"
        try:
            last = converter.to_channel_last_io(frozen, args=[0], outputs=[0])
            converter.convert(last, (example.permute(0, 2, 3, 1).contiguous(),)).export(str(path))
        except (RuntimeError, ValueError, NotImplementedError, KeyError, TypeError) as error:
            name = type(module).__name__
            raise ExportError(
                f"cannot express {name} in TFLite: {type(error).__name__}: {first_line(error)}"
            ) from error
        return path.read_bytes()


class MaxLeaky(nn.Module):
    """A leaky ReLU as the larger of x and slope * x. x: any shape -> the same.

    The quantizer does not know TFLite's own leaky ReLU: it leaves it in single precision, between two conversions of
    the whole map, which no NPU computes. A product and a maximum it knows, and an NPU's compiler makes a table of them.
    """

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(x, self.slope * x)


def with_quantizable_forms(module: nn.Module) -> nn.Module:
    """A copy of ``module`` that computes the same without what the quantizer of TFLite files does not know."""
    leaky: dict[int, object] = {
        id(part): MaxLeaky(part.negative_slope)
        for part in module.modules()
        # Of a steeper slope it would be the smaller of both.
        if isinstance(part, nn.LeakyReLU) and part.negative_slope <= 1
    }
    # As if copied already: the copy takes these in place of what they stand for.
    return copy.deepcopy(module, leaky)


def quantize_tflite(content: bytes, calibration: Array) -> bytes:
    """The TFLite file ``content`` in 8 bits, its ends included.

    calibration: (n, c, h, w), inputs that the network will meet: what lies beyond their extremes is cut off.

    Raises:
        ExportError: the quantizer rejects the network.
        DeviceError: the quantizer is not installed.
    """
    with ALONE, quiet():
        try:
            from ai_edge_quantizer import quantizer, recipe
        except ImportError as error:
            raise DeviceError(f"the quantizer of TFLite files is missing ({error}): {INSTALL}") from error
        samples = [{INPUT: np.ascontiguousarray(one[None].transpose(0, 2, 3, 1))} for one in calibration]
        with tempfile.TemporaryDirectory() as folder:
            given, quantized = Path(folder) / "given.tflite", Path(folder) / "quantized.tflite"
            given.write_bytes(content)
            try:
                work = quantizer.Quantizer(str(given), recipe.static_wi8_ai8())
                # One by one: over several, the quantizer takes a moving average that hardly leaves the first range.
                ranges = [work.calibrate({SIGNATURE: [sample]}) for sample in samples]
                work.quantize(_widest(ranges)).export_model(str(quantized))
            except (RuntimeError, ValueError, NotImplementedError, KeyError) as error:
                raise ExportError(f"the network cannot be quantized for TFLite: {first_line(error)}") from error
            return quantized.read_bytes()


def _widest(ranges: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By tensor the smallest and largest value of all calibration inputs, given those of each."""
    widest: dict[str, Any] = {}
    for name in dict.fromkeys(name for found in ranges for name in found):
        seen = [found[name] for found in ranges if name in found]
        widest[name] = {
            **seen[0],
            "min": np.min([values["min"] for values in seen], axis=0),
            "max": np.max([values["max"] for values in seen], axis=0),
        }
    return widest


def _import_converter() -> Any:
    with ALONE, quiet():
        try:
            import litert_torch
        except ImportError as error:
            raise DeviceError(f"the converter to TFLite is missing ({error}): {INSTALL}") from error
    return litert_torch
