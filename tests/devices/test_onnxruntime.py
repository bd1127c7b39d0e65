"""ONNX Runtime as a device, for real on this machine's processor."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netgraft.devices import onnxruntime as device_module
from netgraft.devices.device import Unsupported
from netgraft.devices.onnx_graph import onnx_bytes, to_onnx
from netgraft.devices.onnxruntime import OnnxRuntimeDevice
from netgraft.errors import DeviceError
from netgraft.nets.nafnet import NafBlock, start_residuals


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def block() -> nn.Module:
    torch.manual_seed(0)
    block = NafBlock(8)
    start_residuals(block, 0.5)
    return block


@pytest.mark.parametrize("threads", [1, 2])
def test_a_block_gives_what_torch_gives(block: nn.Module, threads: int) -> None:
    x = noise(1, 8, 16, 24)
    runnable = OnnxRuntimeDevice(threads).compile(block, x)
    assert not isinstance(runnable, Unsupported)
    with torch.no_grad():
        np.testing.assert_allclose(runnable.run(x.numpy()), block(x).numpy(), atol=1e-5)
    runnable.close()
    with pytest.raises(DeviceError, match=r"closed"):
        runnable.run(x.numpy())


def test_an_input_of_another_shape_is_a_device_error() -> None:
    runnable = OnnxRuntimeDevice().compile(nn.Conv2d(2, 2, 1), noise(1, 2, 8, 8))
    assert not isinstance(runnable, Unsupported)
    with pytest.raises(DeviceError, match=r"ONNX Runtime failed: .*dimension") as caught:
        runnable.run(np.zeros((1, 2, 9, 8), np.float32))
    assert "\n" not in str(caught.value)


def test_a_module_that_cannot_be_exported_is_a_row() -> None:
    class DataDependent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    outcome = OnnxRuntimeDevice().compile(DataDependent(), noise(1, 2, 4, 4))
    assert isinstance(outcome, Unsupported)
    assert "cannot express DataDependent in ONNX" in outcome.reason


def test_a_file_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter is made to write 1.01 x for x: one percent is more than rounding."""
    x = torch.ones(1, 1, 2, 2)
    wrong, right = nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(wrong.weight, 1.01)
    nn.init.constant_(right.weight, 1.0)
    content = onnx_bytes(wrong, x)
    monkeypatch.setattr(device_module, "onnx_bytes", lambda *_, **__: content)
    outcome = OnnxRuntimeDevice().compile(right, x)
    assert outcome == Unsupported("differs from torch by up to 0.01, where outputs reach 1")


def test_a_network_that_gives_no_numbers_is_refused() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.log(x)

    outcome = OnnxRuntimeDevice().compile(Broken(), -torch.ones(1, 1, 2, 2))
    assert isinstance(outcome, Unsupported)
    assert "nan" in outcome.reason


def test_an_exported_file_runs(block: nn.Module, tmp_path: Path) -> None:
    x, path = noise(1, 8, 8, 8), tmp_path / "block.onnx"
    to_onnx(block, x, path)
    with torch.no_grad():
        reference = block(x).numpy()
    np.testing.assert_allclose(OnnxRuntimeDevice().load(path).run(x.numpy()), reference, atol=1e-5)


def test_files_that_are_no_networks_of_ours_are_refused(tmp_path: Path) -> None:
    import onnx

    device, path = OnnxRuntimeDevice(), tmp_path / "net.onnx"
    with pytest.raises(DeviceError, match=r"cannot read .*net.onnx: No such file"):
        device.load(path)
    path.write_bytes(b"no network")
    with pytest.raises(DeviceError, match=r"net.onnx: ONNX Runtime refuses the network: .*") as caught:
        device.load(path)
    assert "\n" not in str(caught.value)
    other = '<ir_version: 10, opset_import: ["": 18]> net (float[2] image) => (float[2] y) { y = Relu (image) }'
    onnx.save(onnx.parser.parse_model(other), path)
    with pytest.raises(DeviceError, match=r"one input 'x' and one output 'y'"):
        device.load(path)


def test_the_profile_names_the_operators_that_cost_time(block: nn.Module) -> None:
    """A 3x3 convolution with 151 M multiply-accumulates costs more than the shuffle behind it."""
    net = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.PixelShuffle(2))
    ms = OnnxRuntimeDevice().per_op_ms(net, noise(1, 64, 64, 64))
    assert ms["Conv"] > ms["DepthToSpace"] > 0
    assert list(ms.values()) == sorted(ms.values(), reverse=True)
    assert all(0 < cost < 1000 for cost in ms.values())
    assert "LayerNormalization" in OnnxRuntimeDevice(fast_forms=False).per_op_ms(block, noise(1, 8, 16, 16))


def test_the_description_tells_devices_apart() -> None:
    one, two = OnnxRuntimeDevice(1).description, OnnxRuntimeDevice(2).description
    assert one == OnnxRuntimeDevice().description
    assert one != two
    assert one.as_dict() | {"threads": 2} == two.as_dict()
    assert one.hardware
    assert one.precision == "fp32"


def test_what_this_machine_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match=r"no TensorrtExecutionProvider: it has .*CPUExecutionProvider"):
        OnnxRuntimeDevice(provider="TensorrtExecutionProvider")
    with pytest.raises(DeviceError, match=r"0 threads"):
        OnnxRuntimeDevice(0)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DeviceError, match=r"pip install onnxruntime"):
        OnnxRuntimeDevice()
