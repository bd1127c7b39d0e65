"""ONNX Runtime as a device, for real on this machine's processor."""

import pytest
import torch
from torch import Tensor, nn

from netgraft.devices.onnx.runtime import OnnxRuntimeDevice
from netgraft.errors import DeviceError


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


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
