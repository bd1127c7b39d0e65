"""Whole networks put together from the graphs of their blocks, so that only a block is ever exported twice.

An export costs seconds, and most of it is the same from one assignment to the next. Here the network around the
sites is exported once, with a marker at each site: a bare convolution of the block's shapes, which is found again by
the name of its weight. Each operator is exported once for each shape of site. A network is then these graphs put in
the markers' places, with the network's own weights, which go by their names in the state dict. That it computes what
torch computes is for the device to check, as for every network.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import onnx_ir as ir
import torch
from torch import Tensor, nn

from netgraft.devices.onnx.graph import finished_bytes, onnx_model
from netgraft.errors import ExportError
from netgraft.nets.sited import Joined
from netgraft.sites import KEEP, Site

Shapes = dict[str, tuple[int, ...]]


class OnnxParts:
    """Gives the ONNX files of networks that differ at ``sites`` only.

    example: (1, c, h, w), the input shape of the files. ``fast_forms`` and ``fp16_safe`` as in
    :func:`~netgraft.devices.onnx.graph.to_onnx`.
    """

    def __init__(
        self, sites: Sequence[Site], example: Tensor, *, fast_forms: bool = True, fp16_safe: bool = False
    ) -> None:
        self.sites = tuple(sites)
        self.example = example
        self.fast_forms = fast_forms
        self.fp16_safe = fp16_safe
        self._around: ir.Model | None = None
        self._parts: dict[tuple[str, str], tuple[ir.Model, Shapes]] = {}

    def network(self, module: nn.Module, assignment: Mapping[str, str]) -> bytes:
        """The content of the ONNX file of ``module``, a deployed network with these operators by site path.

        Raises:
            ExportError: the module, or a part of it, cannot be expressed in ONNX or is not built as others of
                its operator and shape: export it whole.
        """
        if self._around is None:
            self._around = self._exported(_with_markers(module, self.sites), self.example)
        model = self._around.clone()
        for site in self.sites:
            part = self._part(site, assignment.get(site.path, KEEP), module.get_submodule(site.path))
            _put(model.graph, site.path, part.graph)
        return self._with_weights(model, module)

    def block(self, site: Site, operator: str, module: nn.Module) -> bytes:
        """The content of the ONNX file of a deployed block alone.

        Raises:
            ExportError: as for :meth:`network`.
        """
        return self._with_weights(self._part(site, operator, module), module)

    def _part(self, site: Site, operator: str, block: nn.Module) -> ir.Model:
        """A copy of the graph of an operator at sites of this shape; its weights are those of any of them."""
        key, shapes = (site.shape_key, operator), _shapes(block)
        if key not in self._parts:
            h, w = self.example.shape[-2:]
            self._parts[key] = (self._exported(site.alone(block), site.example((h, w))), shapes)
        part, known = self._parts[key]
        if shapes != known:
            raise ExportError(f"{operator} at {site.path} has other weights than {operator} at other {site.shape_key}")
        return part.clone()

    def _exported(self, module: nn.Module, example: Tensor) -> ir.Model:
        """The graph of a module, in which its weights go by the names that they have in the module, or in the block of
        several inputs that it stands for."""
        model = onnx_model(module, example, named=True)
        if isinstance(module, Joined):
            for name in module.state_dict().keys() & model.graph.initializers.keys():
                value = model.graph.initializers.pop(name)
                model.graph.register_initializer(_moved(value, name.removeprefix(f"{Joined.INNER}.")))
        return model

    def _with_weights(self, model: ir.Model, module: nn.Module) -> bytes:
        """The finished file of a graph, which is changed in place, with the weights of ``module``."""
        state = module.state_dict()
        for name, value in model.graph.initializers.items():
            if name in state:
                value.const_value = ir.tensor(state[name].numpy(), name=name)
        return finished_bytes(model, fast_forms=self.fast_forms, fp16_safe=self.fp16_safe)


def _with_markers(module: nn.Module, sites: Sequence[Site]) -> nn.Module:
    """A copy of ``module`` with a marker at every site."""
    markers = {id(module.get_submodule(site.path)): _marker(site) for site in sites}
    return copy.deepcopy(module, markers)


def _marker(site: Site) -> nn.Module:
    """One convolution from the site's input shape to its output shape."""
    channels = (site.joint_channels, site.out_channels)
    if site.kind == "up":
        return _UpMarker(*channels, 2, stride=2)
    side = 2 if site.kind == "down" else 1
    return _Marker(*channels, side, stride=side)


class _Marker(nn.Conv2d):
    """Takes all inputs of a site."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return super().forward(_joined(inputs))


class _UpMarker(nn.ConvTranspose2d):
    """Takes all inputs of a site that doubles the resolution."""

    def forward(self, *inputs: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(_joined(inputs))


def _joined(inputs: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(inputs), dim=1) if len(inputs) > 1 else inputs[0]


def _put(graph: ir.Graph, path: str, part: ir.Graph) -> None:
    """Let ``part`` take the place of a site's marker, in place of both; its weights come under the site's path."""
    weight = graph.initializers.get(f"{path}.weight")
    readers = [] if weight is None else [use.node for use in weight.uses()]
    if weight is None or len(readers) != 1:
        raise ExportError(f"the exported network has no place that belongs to {path} alone")
    marker = readers[0]
    (start,), (end,) = part.inputs, part.outputs
    before, after = marker.inputs[0], marker.outputs[0]
    assert before is not None, "a convolution has an input"
    result = before if end is start else end
    part.outputs.clear()
    # The part's own weights may have the marker's names.
    del graph.initializers[f"{path}.weight"]
    del graph.initializers[f"{path}.bias"]
    for value in list(part.initializers.values()):
        graph.register_initializer(_moved(value, f"{path}.{value.name}"))
    part.initializers.clear()
    ir.convenience.replace_all_uses_with(start, before)
    nodes = list(part)
    part.remove(nodes)
    for node in nodes:
        for value in node.outputs:
            value.name = f"{path}.{value.name}"
        node.name = f"{path}.{node.name}"
    graph.insert_before(marker, nodes)
    ir.convenience.replace_all_uses_with(after, result, replace_graph_outputs=True)
    graph.remove(marker, safe=True)


def _moved(value: ir.Value, name: str) -> ir.Value:
    """A constant under another name, in all its uses."""
    moved = ir.Value(name=name, type=value.type, shape=value.shape, const_value=value.const_value)
    ir.convenience.replace_all_uses_with(value, moved)
    return moved


def _shapes(module: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
