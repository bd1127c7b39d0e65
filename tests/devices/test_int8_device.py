"""Networks in 8 bits, for real: what each quantizer and runtime must do."""

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from netgraft.devices import catalog
from netgraft.devices.device import Array, FileDevice, Unsupported
from netgraft.devices.int8_device import Int8Device
from netgraft.devices.onnx.runtime import OnnxRuntimeDevice
from netgraft.errors import DeviceError, ExportError


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=["onnxruntime:int8", "openvino:int8"])
def device(request: pytest.FixtureRequest) -> Int8Device:
    found = catalog.open_device(request.param)
    assert isinstance(found, Int8Device)
    return found


def signal_to_noise_db(restored: Array, module: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        reference = module(x).numpy()
    return float(10 * np.log10(np.square(reference).mean() / np.square(restored - reference).mean()))


def test_a_block_loses_little(device: Int8Device, block: nn.Module) -> None:
    """8 bits over about eight standard deviations: noise 30 to 40 dB below the signal, a few times over."""
    x = noise(1, 8, 32, 32)
    runnable = device.compile(block, x, noise(4, 8, 32, 32))
    assert not isinstance(runnable, Unsupported)
    assert 20 < signal_to_noise_db(runnable.run(x.numpy()), block, x) < 60
    runnable.close()
    with pytest.raises(DeviceError, match=r"closed"):
        runnable.run(x.numpy())


def test_convolutions_are_quantized_with_a_scale_per_channel(device: Int8Device) -> None:
    """The second channel's weights are 1000 times smaller: with one scale for both they would round to 0."""
    conv = nn.Conv2d(4, 2, 3, padding=1, bias=False)
    with torch.no_grad():
        conv.weight[1] *= 1e-3
    x = noise(1, 4, 16, 16)
    model = onnx.load_from_string(device.file(conv, x))
    assert "QuantizeLinear" in {node.op_type for node in model.graph.node}
    scales = [onnx.numpy_helper.to_array(value) for value in model.graph.initializer if "scale" in value.name]
    assert any(scale.shape == (2,) and scale[0] > 50 * scale[1] for scale in scales)


def test_what_the_calibration_never_reached_is_cut_off(device: Int8Device) -> None:
    """Calibrated on [-1, 1], an identity gives about 1 for 5."""
    same = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(same.weight, 1.0)
    calibration = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)
    runnable = device.compile(same, calibration, calibration)
    assert not isinstance(runnable, Unsupported)
    y = runnable.run(np.full((1, 1, 8, 8), 5, np.float32))
    assert (y < 1.2).all()


def test_a_network_that_loses_its_signal_is_a_row(device: Int8Device) -> None:
    """Calibrated on values that are 100 times smaller than those that come."""
    outcome = device.compile(nn.Conv2d(4, 4, 3, padding=1), 100 * noise(1, 4, 16, 16), noise(1, 4, 16, 16))
    assert isinstance(outcome, Unsupported)
    assert "root mean square" in outcome.reason


def test_a_network_without_numbers_is_a_row(device: Int8Device) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.log(x)

    assert isinstance(device.compile(Broken(), -torch.ones(1, 1, 4, 4)), Unsupported)


def test_a_network_with_nothing_to_quantize_runs(device: Int8Device) -> None:
    x = noise(1, 2, 8, 8)
    runnable = device.compile(nn.ReLU(), x)
    assert not isinstance(runnable, Unsupported)
    np.testing.assert_allclose(runnable.run(x.numpy()), x.clamp_min(0), atol=0.02)


def test_a_module_that_cannot_be_exported_is_a_row(device: Int8Device) -> None:
    class DataDependent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    outcome = device.compile(DataDependent(), noise(1, 2, 4, 4))
    assert isinstance(outcome, Unsupported)
    assert "cannot express DataDependent in ONNX" in outcome.reason


def test_a_quantizer_that_rejects_a_network_is_a_row(block: nn.Module) -> None:
    def reject(content: bytes, calibration: Array) -> bytes:
        raise ExportError("no such operator")

    assert Int8Device(OnnxRuntimeDevice(), reject).compile(block, noise(1, 8, 8, 8)) == Unsupported("no such operator")


def test_a_file_that_no_quantizer_reads_is_an_export_error(device: Int8Device) -> None:
    """An operator of a domain that nobody knows, beside operators that are too old to be quantized."""
    content = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 9, "odd": 1]> '
        "net (float[1,1,4,4] x) => (float[1,1,4,4] y) { y = odd.Op (x) }"
    )
    with pytest.raises(ExportError, match=r"cannot quantize the network: ") as caught:
        device.quantize(content.SerializeToString(), noise(1, 1, 4, 4).numpy())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(0, 2, 8, 8), (3, 3, 8, 8), (3, 2, 8, 4)])
def test_calibration_inputs_of_another_network_are_refused(device: Int8Device, shape: tuple[int, ...]) -> None:
    with pytest.raises(DeviceError, match=r"calibration inputs \(.*\) do not fit a network for \(1, 2, 8, 8\)"):
        device.compile(nn.Conv2d(2, 2, 1), noise(1, 2, 8, 8), noise(*shape))


def test_it_loads_no_files_of_single_precision(device: Int8Device) -> None:
    assert not isinstance(device, FileDevice)


def test_the_description_is_that_of_the_runtime_but_for_the_precision(device: Int8Device) -> None:
    assert device.description.as_dict() == device.device.description.as_dict() | {"precision": "int8"}


def test_the_profile_is_that_of_the_quantized_graph() -> None:
    device = catalog.open_device("onnxruntime:int8")
    assert isinstance(device, Int8Device)
    ms = device.per_op_ms(nn.Conv2d(16, 16, 3, padding=1), noise(1, 16, 32, 32))
    assert "QuantizeLinear" in ms
    assert "QLinearConv" in ms


def test_quantizing_says_nothing_and_leaves_the_logging_alone(
    device: Int8Device, block: nn.Module, capfd: pytest.CaptureFixture[str]
) -> None:
    import logging

    before = (list(logging.getLogger().handlers), list(logging.getLogger().filters), logging.getLogger("nncf").level)
    device.file(block, noise(1, 8, 8, 8))
    after = (list(logging.getLogger().handlers), list(logging.getLogger().filters), logging.getLogger("nncf").level)
    assert before == after
    assert capfd.readouterr() == ("", "")
