"""Networks timed side by side: one session on one device, each at the same input size, in turns."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from netgraft.devices import Device, FileDevice, Latency, MeasureProtocol, Runnable, Unsupported, onnx_bytes
from netgraft.devices.measure import time_networks
from netgraft.entrants import Entrant
from netgraft.errors import CheckpointError, DeviceError, ExportError
from netgraft.nets.blocks import deploy


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """What a network costs."""

    latency: Latency | Unsupported
    """On the device, or why it cannot be timed there."""
    params: int
    """Weights of what is timed; of an ONNX file all constants but whole numbers."""


def time_entrants(
    entrants: Mapping[str, Entrant], device: Device, example: Tensor, protocol: MeasureProtocol
) -> dict[str, Timed]:
    """Time networks, by name, on an image (1, 3, h, w): checkpoints in their deployed form, files as they are.

    Raises:
        DeviceError: the device is out of order.
    """
    compiled: dict[str, Runnable | Unsupported] = {}
    params: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            for number, (name, entrant) in enumerate(entrants.items()):
                path = Path(folder) / f"{number}.onnx"
                compiled[name], params[name] = _compiled(entrant, device, example, path)
            ready = {name: one for name, one in compiled.items() if not isinstance(one, Unsupported)}
            latencies = time_networks(device, ready, dict.fromkeys(ready, example.numpy()), protocol)
        finally:
            for one in compiled.values():
                if not isinstance(one, Unsupported):
                    one.close()
    return {
        name: Timed(latency=one if isinstance(one, Unsupported) else latencies[name], params=params[name])
        for name, one in compiled.items()
    }


def _compiled(entrant: Entrant, device: Device, example: Tensor, path: Path) -> tuple[Runnable | Unsupported, int]:
    """The network on the device, or why it is not, and its weights."""
    network = entrant.network
    deployed = deploy(network) if isinstance(network, nn.Module) else network
    params = _params(deployed)
    try:
        if entrant.restorer.channels != example.shape[1]:
            return Unsupported(reason=f"takes {entrant.restorer.channels} channels"), params
        if isinstance(device, FileDevice):
            content = (
                onnx_bytes(deployed, example)
                if isinstance(deployed, nn.Module)
                else fixed_size(deployed, (int(example.shape[2]), int(example.shape[3])))
            )
            path.write_bytes(content)
            return device.load(path), _params(path)
        if isinstance(deployed, nn.Module):
            return device.compile(deployed, example), params
        return Unsupported(reason=f"{device.description.backend} takes PyTorch networks, not ONNX files"), params
    except (DeviceError, ExportError, CheckpointError) as error:
        # One network that cannot be timed leaves the others.
        return Unsupported(reason=str(error)), params


def fixed_size(path: Path, size: tuple[int, int]) -> bytes:
    """An ONNX file for inputs of one size (h, w), which its runtime can then plan for.

    Raises:
        CheckpointError: the file is made for another size, or is no ONNX file.
    """
    try:
        model = onnx.load(path)
        dims = model.graph.input[0].type.tensor_type.shape.dim
        for axis, side in zip((0, 2, 3), (1, *size), strict=True):
            fixed = dims[axis].dim_value
            if fixed not in (0, side):
                raise CheckpointError(f"{path}: is made for {dims[3].dim_value}x{dims[2].dim_value} alone")
            dims[axis].dim_value = side
    except CheckpointError:
        raise
    except Exception as error:  # The parser raises a class of its own build.
        raise CheckpointError(f"{path}: is no network ({type(error).__name__})") from error
    # What is inside follows from the input; what an exporter noted of a free size would contradict it.
    del model.graph.value_info[:]
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    content: bytes = model.SerializeToString()
    return content


def _params(network: nn.Module | Path) -> int:
    if isinstance(network, nn.Module):
        return sum(parameter.numel() for parameter in network.parameters())
    # Shapes and axes are whole numbers of 64 bits; weights are of any other type.
    return sum(
        int(np.prod(tensor.dims))
        for tensor in onnx.load(network).graph.initializer
        if tensor.data_type != onnx.TensorProto.INT64
    )


def example_of(image: np.ndarray, size: tuple[int, int]) -> Tensor:
    """The middle of an (h, w, 3) image as (1, 3, *size) in [0, 1], continued by reflection where it is too small."""
    h, w = size
    padded = np.pad(image, ((0, max(0, h - image.shape[0])), (0, max(0, w - image.shape[1])), (0, 0)), mode="symmetric")
    top, left = (padded.shape[0] - h) // 2, (padded.shape[1] - w) // 2
    crop = padded[top : top + h, left : left + w].astype(np.float32) / np.iinfo(image.dtype).max
    return torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1)))[None]
