"""The runtimes that open ONNX files, for real on this machine's processor: what each of them must do."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netgraft.devices.device import FileDevice, Unsupported
from netgraft.devices.onnx import device as onnx_device
from netgraft.devices.onnx.device import OnnxDevice
from netgraft.devices.onnx.graph import onnx_bytes, to_onnx
from netgraft.devices.onnx.runtime import OnnxRuntimeDevice
from netgraft.devices.openvino.device import OpenVinoDevice
from netgraft.errors import DeviceError

Open = Callable[..., OnnxDevice]


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=[OnnxRuntimeDevice, OpenVinoDevice])
def device_class(request: pytest.FixtureRequest) -> Open:
    found: Open = request.param
    return found


@pytest.fixture
def device(device_class: Open) -> OnnxDevice:
    return device_class()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("fast_forms", [False, True])
def test_a_block_gives_what_torch_gives(device_class: Open, block: nn.Module, threads: int, fast_forms: bool) -> None:
    x = noise(1, 8, 16, 24)
    runnable = device_class(threads, fast_forms=fast_forms).compile(block, x)
    assert not isinstance(runnable, Unsupported)
    with torch.no_grad():
        np.testing.assert_allclose(runnable.run(x.numpy()), block(x).numpy(), atol=1e-5)
    runnable.close()
    with pytest.raises(DeviceError, match=r"closed"):
        runnable.run(x.numpy())


def test_single_precision_is_forced(device: OnnxDevice) -> None:
    """1 + 2^-12 is no bfloat16 number: in that format a sum of 256 of them would come out as 256."""
    sums = nn.Conv2d(256, 1, 1, bias=False)
    nn.init.constant_(sums.weight, 1 + 2**-12)
    x = torch.ones(1, 256, 4, 4)
    runnable = device.compile(sums, x)
    assert not isinstance(runnable, Unsupported)
    np.testing.assert_allclose(runnable.run(x.numpy()), 256 + 2**-4, rtol=1e-6)


def test_an_earlier_result_stays_as_it_was(device: OnnxDevice) -> None:
    runnable = device.compile(nn.ReLU(), torch.ones(1, 1, 2, 2))
    assert not isinstance(runnable, Unsupported)
    first = runnable.run(np.full((1, 1, 2, 2), 3, np.float32))
    runnable.run(np.full((1, 1, 2, 2), 5, np.float32))
    assert (first == 3).all()


def test_an_input_of_another_shape_is_a_device_error(device: OnnxDevice) -> None:
    runnable = device.compile(nn.Conv2d(2, 2, 1), noise(1, 2, 8, 8))
    assert not isinstance(runnable, Unsupported)
    with pytest.raises(DeviceError, match=r"(ONNX Runtime|OpenVINO) failed: .*(dimension|shape)") as caught:
        runnable.run(np.zeros((1, 2, 9, 8), np.float32))
    assert "\n" not in str(caught.value)


def test_a_module_that_cannot_be_exported_is_a_row(device: OnnxDevice) -> None:
    class DataDependent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    outcome = device.compile(DataDependent(), noise(1, 2, 4, 4))
    assert isinstance(outcome, Unsupported)
    assert "cannot express DataDependent in ONNX" in outcome.reason


def test_a_file_that_computes_something_else_is_refused(device: OnnxDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter is made to write 1.01 x for x: one percent is more than rounding."""
    x = torch.ones(1, 1, 2, 2)
    wrong, right = nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(wrong.weight, 1.01)
    nn.init.constant_(right.weight, 1.0)
    content = onnx_bytes(wrong, x)
    monkeypatch.setattr(onnx_device, "onnx_bytes", lambda *_, **__: content)
    outcome = device.compile(right, x)
    assert outcome == Unsupported("differs from torch by up to 0.01, where outputs reach 1")


def test_a_network_that_gives_no_numbers_is_refused(device: OnnxDevice) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.log(x)

    outcome = device.compile(Broken(), -torch.ones(1, 1, 2, 2))
    assert isinstance(outcome, Unsupported)
    assert "nan" in outcome.reason


def test_an_exported_file_runs(device: OnnxDevice, block: nn.Module, tmp_path: Path) -> None:
    x, path = noise(1, 8, 8, 8), tmp_path / "block.onnx"
    to_onnx(block, x, path)
    with torch.no_grad():
        reference = block(x).numpy()
    assert isinstance(device, FileDevice)
    np.testing.assert_allclose(device.load(path).run(x.numpy()), reference, atol=1e-5)


def test_files_that_are_no_networks_of_ours_are_refused(device: OnnxDevice, tmp_path: Path) -> None:
    import onnx

    path = tmp_path / "net.onnx"
    with pytest.raises(DeviceError, match=r"cannot read .*net.onnx: No such file"):
        device.load(path)
    path.write_bytes(b"no network")
    with pytest.raises(DeviceError, match=r"net.onnx: .* refuses the network: .*") as caught:
        device.load(path)
    assert "\n" not in str(caught.value)
    other = '<ir_version: 10, opset_import: ["": 18]> net (float[2] image) => (float[2] y) { y = Relu (image) }'
    onnx.save(onnx.parser.parse_model(other), path)
    with pytest.raises(DeviceError, match=r"one input 'x' and one output 'y'"):
        device.load(path)


@pytest.mark.parametrize(
    ("opened", "module", "install"),
    [
        (OnnxRuntimeDevice, "onnxruntime", r"pip install onnxruntime"),
        (OpenVinoDevice, "openvino", r"pip install 'netgraft\[openvino\]'"),
    ],
)
def test_a_missing_runtime_says_how_to_get_it(
    opened: Open, module: str, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DeviceError, match=install):
        opened()


def test_a_network_needs_a_thread(device_class: Open) -> None:
    with pytest.raises(DeviceError, match=r"0 threads"):
        device_class(0)
