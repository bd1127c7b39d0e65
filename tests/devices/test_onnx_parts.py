"""Networks that are put together from exported parts, against the same networks exported whole."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netgraft.devices.onnx import parts as onnx_parts
from netgraft.devices.onnx.graph import onnx_bytes
from netgraft.devices.onnx.parts import OnnxParts
from netgraft.devices.onnx.runtime import OnnxRuntimeDevice
from netgraft.errors import ExportError
from netgraft.nets.blocks import FittedAffine, deploy
from netgraft.nets.maxim_axes import MultiAxisBlock, SignalGating
from netgraft.nets.nafnet import NafNet, NafNetShape, start_residuals
from netgraft.operators import OPERATORS
from netgraft.sites import find_sites

IMAGE = (1, 3, 32, 48)
ASSIGNMENT = {
    "encoders.0.0": "conv3_res",
    "encoders.1.0": "inverted_residual",
    "encoders.1.1": "partial_conv",
    "middle_blks.0": "half_res",
    "ups.0": "transposed",
    "decoders.0.0": "naf_no_norm",
    "decoders.1.0": "drop",
}


@pytest.fixture(scope="module")
def teacher() -> NafNet:
    torch.manual_seed(0)
    net = NafNet(NafNetShape(width=4, encoder_blocks=(1, 2), middle_blocks=2, decoder_blocks=(1, 1))).eval()
    start_residuals(net, 0.5)
    return net


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.rand(IMAGE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def parts(teacher: NafNet, image: Tensor) -> OnnxParts:
    return OnnxParts(find_sites(teacher, IMAGE[2:]), image)


def student(teacher: NafNet, assignment: dict[str, str], seed: int) -> nn.Module:
    """The network of an assignment in deployed form, with weights of its own."""
    torch.manual_seed(seed)
    net = copy.deepcopy(teacher)
    for site in find_sites(teacher, IMAGE[2:]):
        if site.path in assignment:
            block = net.get_submodule(site.path)
            net.set_submodule(site.path, OPERATORS[assignment[site.path]].start(block, site))
    for param in net.parameters():
        param.data += 0.05 * torch.randn(param.shape)
    return deploy(net)


@pytest.mark.parametrize("assignment", [{}, ASSIGNMENT, dict.fromkeys(("encoders.1.0", "middle_blks.1"), "drop")])
@pytest.mark.parametrize("seed", [1, 2])
def test_parts_compute_exactly_what_the_whole_does(
    teacher: NafNet, parts: OnnxParts, image: Tensor, assignment: dict[str, str], seed: int
) -> None:
    """With other weights each time, from the same parts: not a bit differs from the export of the whole."""
    net, device = student(teacher, assignment, seed), OnnxRuntimeDevice()
    x = image.numpy()
    together = device.open(parts.network(net, assignment)).run(x)
    np.testing.assert_array_equal(together, device.open(onnx_bytes(net, image)).run(x))
    with torch.no_grad():
        np.testing.assert_allclose(together, net(image).numpy(), atol=1e-5)


def test_a_block_alone_comes_from_its_part(teacher: NafNet, parts: OnnxParts) -> None:
    site = next(site for site in parts.sites if site.path == "encoders.1.1")
    x = site.example(IMAGE[2:])
    for path in ("encoders.1.0", "encoders.1.1"):
        block = deploy(teacher.get_submodule(path))
        with torch.no_grad():
            expected = block(x).numpy()
        found = OnnxRuntimeDevice().open(parts.block(site, "keep", block)).run(x.numpy())
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_each_part_is_exported_once(teacher: NafNet, image: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = []
    export = onnx_parts.onnx_model

    def counting(module: nn.Module, example: Tensor, *, named: bool) -> object:
        exported.append(module)
        return export(module, example, named=named)

    monkeypatch.setattr(onnx_parts, "onnx_model", counting)
    parts = OnnxParts(find_sites(teacher, IMAGE[2:]), image)
    parts.network(deploy(teacher), {})
    shapes = {site.shape_key for site in parts.sites}
    assert len(exported) == len(shapes) + 1
    parts.network(student(teacher, {"encoders.1.0": "drop"}, 1), {"encoders.1.0": "drop"})
    parts.network(student(teacher, {"encoders.1.1": "drop"}, 1), {"encoders.1.1": "drop"})
    assert len(exported) == len(shapes) + 2


def test_an_operator_that_is_built_differently_elsewhere_is_refused(teacher: NafNet, image: Tensor) -> None:
    """Its weights would not fit the graph that stands for its shape."""
    parts = OnnxParts(find_sites(teacher, IMAGE[2:]), image)
    net = deploy(teacher)
    net.set_submodule("encoders.1.0", FittedAffine(8))
    with pytest.raises(ExportError, match=r"keep at encoders\.1\.1 has other weights than keep at other block:8@2"):
        parts.network(net, {})


class Mixing(nn.Module):
    """A block of several inputs between two whose weights are taken apart, as only a graph of its own shows."""

    def __init__(self) -> None:
        super().__init__()
        self.intro = nn.Conv2d(3, 4, 3, padding=1)
        self.first = MultiAxisBlock(4, 2)
        self.cross = SignalGating(4, 4, 2)
        self.second = MultiAxisBlock(4, 2)
        self.ending = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(self.intro(x))
        restored: Tensor = self.ending(self.second(self.cross(y, y * 2)))
        return restored


@torch.no_grad()
@pytest.mark.parametrize("assignment", [{}, {"cross": "concat"}, {"cross": "conv3_res", "second": "drop"}])
def test_blocks_of_several_inputs_and_weights_that_are_taken_apart(assignment: dict[str, str]) -> None:
    """A network of other weights than those that its parts were exported with."""
    torch.manual_seed(0)
    net = Mixing().eval()
    sites = find_sites(net, IMAGE[2:])
    assert [(site.path, site.more_channels) for site in sites] == [("first", ()), ("cross", (4,)), ("second", ())]
    parts, image = OnnxParts(sites, torch.zeros(IMAGE)), torch.rand(IMAGE)
    for seed in (1, 2):
        torch.manual_seed(seed)
        network = copy.deepcopy(net)
        for site in sites:
            if site.path in assignment:
                block = net.get_submodule(site.path)
                network.set_submodule(site.path, OPERATORS[assignment[site.path]].module_at(site, block))
        for param in network.parameters():
            param.data += 0.05 * torch.randn(param.shape)
        network = deploy(network)
        runnable = OnnxRuntimeDevice(threads=1).open(parts.network(network, assignment))
        np.testing.assert_allclose(runnable.run(image.numpy()), network(image).numpy(), atol=1e-4)
        runnable.close()
