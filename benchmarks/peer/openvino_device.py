"""OpenVINO on the processor, one thread: the second runtime, with the networks that NNCF quantizes for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from netgraft.devices.device import Array
from netgraft.errors import DeviceError

CONFIG = {
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": "1",
    "INFERENCE_NUM_THREADS": "1",
    # By default it computes in bf16 where the processor can; single precision is compared with single precision.
    "INFERENCE_PRECISION_HINT": "f32",
}


class OpenVinoRunnable:
    """A compiled network with its request."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()

    def run(self, x: Array) -> Array:
        if self._request is None:
            raise DeviceError("this network was closed: load it again")
        self._request.infer([x], share_inputs=True)
        y: Array = np.array(self._request.get_output_tensor(0).data)
        return y

    def close(self) -> None:
        self._request = None


class OpenVinoDevice:
    """Loads ONNX files and OpenVINO's own."""

    def __init__(self) -> None:
        self._core = ov.Core()

    def load(self, path: Path) -> OpenVinoRunnable:
        return OpenVinoRunnable(self._core.compile_model(self._core.read_model(path), "CPU", CONFIG))
