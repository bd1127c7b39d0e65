"""What is OpenVINO's own; what it has in common with other runtimes is tested in test_onnx_device."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netgraft.devices.device import Unsupported
from netgraft.devices.onnx.graph import onnx_bytes
from netgraft.devices.openvino.device import OpenVinoDevice, _reason, lacking_precision
from netgraft.errors import DeviceError
from netgraft.nets.blocks import FittedAffine

needs_bf16 = pytest.mark.skipif(
    bool(lacking_precision("bf16")), reason="this processor has no bfloat16, and OpenVINO refuses it there"
)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_the_description_tells_devices_apart() -> None:
    one, two = OpenVinoDevice(1).description, OpenVinoDevice(2).description
    assert one.backend.startswith("openvino")
    assert one.as_dict() | {"threads": 2} == two.as_dict()


def test_opening_the_device_reports_nothing_to_the_vendor() -> None:
    """In a process of its own: its telemetry would send from the first import on, so it must not be loaded at all."""
    code = (
        "import sys; from netgraft.devices.catalog import open_device; open_device('openvino:int8'); "
        "sys.exit(any(name.startswith('openvino_telemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@needs_bf16
def test_bfloat16_is_computed_in_bfloat16() -> None:
    """1 + 2^-12 is no bfloat16 number: the weights become 1, and so 256 of them sum up to 256."""
    sums = nn.Conv2d(256, 1, 1, bias=False)
    nn.init.constant_(sums.weight, 1 + 2**-12)
    runnable = OpenVinoDevice(precision="bf16").compile(sums, torch.ones(1, 256, 4, 4))
    assert not isinstance(runnable, Unsupported)
    np.testing.assert_array_equal(runnable.run(np.ones((1, 256, 4, 4), np.float32)), 256)
    assert OpenVinoDevice(precision="bf16").description.precision == "bf16"


def test_a_precision_that_the_processor_lacks_is_refused() -> None:
    """No processor computes natively in 4-bit floats: asked for those, the error says what there is."""
    with pytest.raises(DeviceError, match=r"does not compute in fp4 on this processor: it has .*FP32"):
        OpenVinoDevice(precision="fp4")


def test_the_profile_names_the_operators_that_cost_time() -> None:
    """A 3x3 convolution with 151 M multiply-accumulates costs more than the shuffle behind it."""
    net = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.PixelShuffle(2))
    ms = OpenVinoDevice().per_op_ms(net, noise(1, 64, 64, 64))
    assert ms["Convolution"] > ms["DepthToSpace"] > 0
    assert list(ms.values()) == sorted(ms.values(), reverse=True)
    assert all(0 < cost < 1000 for cost in ms.values())


def test_a_reason_is_what_went_wrong_and_not_where() -> None:
    error = RuntimeError(
        "Exception from src/inference/src/cpp/core.cpp:105:\n"
        "Check 'shape' failed at src/plugins/intel_cpu/src/infer_request.cpp:669:\n"
        "The input tensor size is not equal to the model input type\n\n"
    )
    assert _reason(error) == "The input tensor size is not equal to the model input type"
    assert _reason(RuntimeError("")) == "RuntimeError"


def test_its_own_form_computes_as_the_onnx_file_does(tmp_path: Path) -> None:
    """The weights lie in a file of their own, without which it does not load."""
    device, x = OpenVinoDevice(), torch.rand(1, 3, 8, 8)
    content = onnx_bytes(nn.Conv2d(3, 3, 3, padding=1), x)
    for ending, data in device.own_files(content).items():
        (tmp_path / f"network.{ending}").write_bytes(data)
    own, plain = device.load(tmp_path / "network.xml"), device.open(content)
    np.testing.assert_array_equal(own.run(x.numpy()), plain.run(x.numpy()))
    (tmp_path / "network.bin").unlink()
    with pytest.raises(DeviceError, match=r"cannot read .*network\.bin"):
        device.load(tmp_path / "network.xml")
    (tmp_path / "network.xml").write_text("<net>")
    (tmp_path / "network.bin").write_bytes(b"0")
    with pytest.raises(DeviceError, match=r"network\.xml: OpenVINO refuses the network"):
        device.load(tmp_path / "network.xml")


def test_bf16_is_compared_with_fp32_on_the_same_threads() -> None:
    single = OpenVinoDevice(2, "bf16").single
    assert isinstance(single, OpenVinoDevice)
    assert (single.precision, single.threads) == ("fp32", 2)


def test_a_network_that_begins_with_a_multiplication_by_one_is_no_other_network() -> None:
    """OpenVINO folds it into the input, whose port then has both names."""
    x = torch.rand(1, 4, 8, 8)
    block = FittedAffine(4)
    runnable = OpenVinoDevice().compile(block, x)
    assert not isinstance(runnable, Unsupported)
    with torch.no_grad():
        np.testing.assert_allclose(runnable.run(x.numpy()), block(x), atol=1e-6)
    runnable.close()
