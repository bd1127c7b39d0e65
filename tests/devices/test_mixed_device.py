"""Networks of which some blocks are in 8 bits: which nodes are, and what that does to the output."""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from netgraft.devices import OnnxParts, OnnxRuntimeDevice, OpenVinoDevice, Unsupported, quantize_onnx
from netgraft.devices.mixed_device import MixedDevice
from netgraft.errors import ExportError
from netgraft.nets.blocks import deploy
from netgraft.nets.nafnet import NafNet, NafNetShape
from netgraft.sites import find_sites

SHAPE = NafNetShape(width=8, encoder_blocks=(1, 2), middle_blocks=1, decoder_blocks=(1, 1))
CHOSEN = ("encoders.1.1", "decoders.0.0")


def openvino() -> MixedDevice:
    from netgraft.devices.openvino.int8 import quantize_with_nncf

    return MixedDevice(OpenVinoDevice(1), quantize_with_nncf)


def onnxruntime() -> MixedDevice:
    return MixedDevice(OnnxRuntimeDevice(1, fast_forms=False), quantize_onnx)


needs_nncf = pytest.mark.skipif(not (find_spec("openvino") and find_spec("nncf")), reason="there is no OpenVINO")
devices = pytest.mark.parametrize("make", [onnxruntime, pytest.param(openvino, marks=needs_nncf)])


@pytest.fixture(scope="module")
def network() -> NafNet:
    """With residual scales as if trained: they start at zero, and then nothing in a block matters."""
    torch.manual_seed(0)
    made = NafNet(SHAPE).eval().requires_grad_(False)
    for name, parameter in made.named_parameters():
        if name.endswith(("beta", "gamma")):
            parameter.fill_(0.3)
    return made


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def graph_of(device: MixedDevice, network: NafNet) -> bytes:
    parts = OnnxParts(find_sites(network, (64, 64)), torch.zeros(1, 3, 64, 64), fast_forms=device.fast_forms)
    return parts.network(deploy(network), {})


@devices
def test_the_chosen_blocks_alone_are_in_8_bits(make: object, network: NafNet, images: Tensor) -> None:
    device = make()  # type: ignore[operator]
    content = device.mixed(graph_of(device, network), CHOSEN, images)
    graph = onnx.load_from_string(content).graph
    made_by = {output: node for node in graph.node for output in node.output}
    rounded, plain = set(), set()
    for node in graph.node:
        if node.op_type == "Conv":
            weight = made_by.get(node.input[1])
            is_rounded = weight is not None and weight.op_type == "DequantizeLinear"
            (rounded if is_rounded else plain).add(node.name.rpartition(".")[0] or node.name)
    assert rounded
    assert all(name.startswith(CHOSEN) for name in rounded), rounded
    assert any(name.startswith("encoders.1.0") for name in plain)
    assert not any(name.startswith(CHOSEN[:1]) for name in plain), plain


@devices
def test_the_more_blocks_are_in_8_bits_the_further_it_is_from_the_network(
    make: object, network: NafNet, images: Tensor
) -> None:
    device = make()  # type: ignore[operator]
    graph, example, deployed = graph_of(device, network), images[:1], deploy(network).requires_grad_(False)
    wanted, errors = deployed(example).numpy(), []
    every = tuple(site.path for site in find_sites(network, (64, 64)))
    for paths in ((), CHOSEN[:1], CHOSEN, every):
        runnable = device.compile_mixed(graph, paths, deployed, example, images)
        assert not isinstance(runnable, Unsupported), runnable
        errors.append(float(np.square(runnable.run(example.numpy()) - wanted).mean()))
        runnable.close()
    assert errors == sorted(errors)
    assert errors[0] < 1e-10 < errors[1]


@devices
def test_the_files_that_ship_compute_the_same(make: object, network: NafNet, images: Tensor, tmp_path: Path) -> None:
    device = make()  # type: ignore[operator]
    content, x = device.mixed(graph_of(device, network), CHOSEN, images), images[:1].numpy()
    files = device.own_files(content)
    for ending, data in files.items():
        (tmp_path / f"network.mixed.{ending}").write_bytes(data)
    shipped, compiled = device.load(tmp_path / f"network.mixed.{next(iter(files))}"), device.open(content)
    np.testing.assert_allclose(shipped.run(x), compiled.run(x), atol=1e-6)


def test_a_block_by_itself_is_in_8_bits_as_a_whole(network: NafNet) -> None:
    device = onnxruntime()
    site = next(site for site in find_sites(network, (64, 64)) if site.path == CHOSEN[0])
    block = deploy(network.get_submodule(site.path))
    parts = OnnxParts([site], torch.zeros(1, 3, 64, 64), fast_forms=False)
    content = device.mixed(parts.block(site, "keep", block), [""], site.example((64, 64)))
    kinds = [node.op_type for node in onnx.load_from_string(content).graph.node]
    assert kinds.count("QuantizeLinear") > kinds.count("Conv")


def test_a_path_without_nodes_is_refused(network: NafNet, images: Tensor) -> None:
    device = onnxruntime()
    with pytest.raises(ExportError, match=r"no nodes of encoders\.7\.0"):
        device.mixed(graph_of(device, network), ["encoders.7.0"], images)


def test_it_describes_itself_as_mixed() -> None:
    device = onnxruntime()
    assert device.description == dataclasses.replace(device.device.description, precision="mixed")
    assert device.single is device.device
