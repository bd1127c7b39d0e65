"""LiteRT, for real on this machine's processor."""

import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netgraft.devices.device import Unsupported
from netgraft.devices.tflite.convert import quantize_tflite, tflite_bytes
from netgraft.devices.tflite.litert import LitertDevice, TfliteRunnable, open_interpreter
from netgraft.errors import DeviceError, ExportError

pytestmark = pytest.mark.skipif(find_spec("litert_torch") is None, reason="needs netgraft[litert]")


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_block_gives_what_torch_gives(block: nn.Module, threads: int) -> None:
    """Height, width and channels differ, so that an axis in the wrong place shows."""
    x = noise(1, 8, 16, 24)
    runnable = LitertDevice(threads).compile(block, x)
    assert not isinstance(runnable, Unsupported)
    with torch.no_grad():
        np.testing.assert_allclose(runnable.run(x.numpy()), block.eval()(x).numpy(), atol=1e-5)
    runnable.close()
    with pytest.raises(DeviceError, match=r"closed"):
        runnable.run(x.numpy())


def test_a_block_loses_little_in_8_bits(block: nn.Module) -> None:
    x = noise(1, 8, 16, 24)
    runnable = LitertDevice(precision="int8").compile(block, x, noise(4, 8, 16, 24))
    assert not isinstance(runnable, Unsupported)
    with torch.no_grad():
        reference = block.eval()(x).numpy()
    error = np.square(runnable.run(x.numpy()) - reference).mean() / np.square(reference).mean()
    assert 1e-6 < error < 1e-2


def test_convolutions_are_quantized_with_a_scale_per_channel() -> None:
    """The second channel's weights are 1000 times smaller: with one scale for both they would round to 0."""
    conv = nn.Conv2d(4, 2, 3, padding=1, bias=False)
    with torch.no_grad():
        conv.weight[1] *= 1e-3
    x = noise(1, 4, 16, 16)
    tensors = open_interpreter(quantize_tflite(tflite_bytes(conv, x), x.numpy())).get_tensor_details()
    weights = [tensor["quantization_parameters"]["scales"] for tensor in tensors if len(tensor["shape"]) == 4]
    assert any(len(scales) == 2 and scales[0] > 100 * scales[1] for scales in weights)


@pytest.mark.parametrize("slope", [0.25, 0.0, 1.0])
def test_a_leaky_relu_is_quantized_and_computes_the_same(slope: float) -> None:
    """No operator is left in single precision; 8 bits may change their scale on the way."""
    network = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.LeakyReLU(slope), nn.Conv2d(4, 4, 1))
    x = noise(1, 4, 16, 16)
    content = tflite_bytes(network, x)
    with torch.no_grad():
        reference = network(x).numpy()
    np.testing.assert_allclose(TfliteRunnable(content, threads=1).run(x.numpy()), reference, atol=1e-5)
    quantized = quantize_tflite(content, x.numpy())
    operators = {op["op_name"] for op in open_interpreter(quantized)._get_ops_details()}
    assert not operators & {"LEAKY_RELU", "DEQUANTIZE"}
    error = np.square(TfliteRunnable(quantized, threads=1).run(x.numpy()) - reference).mean()
    assert error < 1e-3 * np.square(reference).mean()


def test_a_leaky_relu_that_grows_below_zero_stays_what_it_is() -> None:
    """Of slope 2 the larger of x and 2x is the wrong one on both sides of zero."""
    x = noise(1, 4, 8, 8)
    network = nn.Sequential(nn.LeakyReLU(2.0))
    found = TfliteRunnable(tflite_bytes(network, x), threads=1).run(x.numpy())
    np.testing.assert_allclose(found, torch.where(x > 0, x, 2 * x).numpy(), atol=1e-6)
    assert isinstance(network[0], nn.LeakyReLU)


def test_what_the_calibration_never_reached_is_cut_off() -> None:
    same = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(same.weight, 1.0)
    calibration = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)
    runnable = LitertDevice(precision="int8").compile(same, calibration, calibration)
    assert not isinstance(runnable, Unsupported)
    assert (runnable.run(np.full((1, 1, 8, 8), 5, np.float32)) < 1.2).all()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_module_that_the_converter_rejects_is_a_row(precision: str) -> None:
    class DataDependent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    outcome = LitertDevice(precision=precision).compile(DataDependent(), noise(1, 2, 4, 4))
    assert isinstance(outcome, Unsupported)
    assert outcome.reason.startswith("cannot express DataDependent in TFLite: ")
    assert "\n" not in outcome.reason


def test_bytes_that_are_no_network_are_refused() -> None:
    with pytest.raises(DeviceError, match=r"LiteRT refuses the network: "):
        TfliteRunnable(b"no network", 1)


def test_a_network_that_cannot_be_quantized_is_an_export_error() -> None:
    """Calibration inputs with more channels than the network takes."""
    content = tflite_bytes(nn.Conv2d(2, 2, 1), noise(1, 2, 8, 8))
    with pytest.raises(ExportError, match=r"the network cannot be quantized for TFLite: ") as caught:
        quantize_tflite(content, noise(1, 3, 8, 8).numpy())
    assert "\n" not in str(caught.value)


def test_an_input_of_another_shape_is_a_device_error() -> None:
    runnable = LitertDevice().compile(nn.Conv2d(2, 2, 1), noise(1, 2, 8, 8))
    assert not isinstance(runnable, Unsupported)
    with pytest.raises(DeviceError, match=r"LiteRT failed: .*imension"):
        runnable.run(np.zeros((1, 2, 9, 8), np.float32))


@pytest.mark.parametrize("module", ["ai_edge_litert.interpreter", "litert_torch", "ai_edge_quantizer"])
def test_a_missing_package_says_how_to_get_it(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    message = r"pip install 'netgraft\[litert\]'"
    if module == "ai_edge_litert.interpreter":
        with pytest.raises(DeviceError, match=message):
            LitertDevice()
    else:
        outcome = LitertDevice(precision="int8").compile(nn.Conv2d(2, 2, 1), noise(1, 2, 8, 8))
        assert isinstance(outcome, Unsupported)
        assert "pip install 'netgraft[litert]'" in outcome.reason


def test_a_network_needs_a_thread() -> None:
    with pytest.raises(DeviceError, match=r"0 threads"):
        LitertDevice(0)


def test_warnings_are_heard_after_a_conversion() -> None:
    """What the converter brings along sets up logging of its own, where it is imported first: in a new process."""
    program = """
import logging, torch
from netgraft.devices.tflite.convert import quantize_tflite, tflite_bytes
x = torch.ones(1, 3, 8, 8)
quantize_tflite(tflite_bytes(torch.nn.Conv2d(3, 3, 1), x), x.numpy())
logging.getLogger("netgraft").warning("to be heard")
"""
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
    assert "to be heard" in outcome.stderr


def test_the_range_is_that_of_all_calibration_inputs() -> None:
    """The second input alone reaches 1: an average over both would cut off what lies above half of it."""
    same = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(same.weight, 1.0)
    ramp = torch.linspace(0, 1, 64).view(1, 1, 8, 8)
    runnable = LitertDevice(precision="int8").compile(same, ramp, torch.cat([0.1 * ramp, ramp, 0.1 * ramp]))
    assert not isinstance(runnable, Unsupported)
    np.testing.assert_allclose(runnable.run(ramp.numpy()), ramp.numpy(), atol=0.01)
