"""ExecuTorch, for real on this machine's processor."""

import gc
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netgraft.devices.device import Unsupported
from netgraft.devices.executorch.device import ExecuTorchDevice, ExecuTorchRunnable
from netgraft.devices.executorch.lower import ConvolutionNorm, program_parts, quantized, xnnpack_program
from netgraft.devices.quiet import quiet
from netgraft.errors import DeviceError
from netgraft.nets.blocks import HalfResolution
from netgraft.nets.nafnet import LayerNorm2d

pytestmark = pytest.mark.skipif(find_spec("executorch") is None, reason="needs netgraft[executorch]")


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_block_gives_what_torch_gives(block: nn.Module, threads: int) -> None:
    """Height, width and channels differ, so that an axis in the wrong place shows."""
    x = noise(1, 8, 16, 24)
    runnable = ExecuTorchDevice(threads).compile(block, x)
    assert not isinstance(runnable, Unsupported)
    with torch.no_grad():
        first = runnable.run(x.numpy())
        np.testing.assert_allclose(first, block.eval()(x).numpy(), atol=1e-5)
        other = runnable.run(-x.numpy())
        np.testing.assert_allclose(other, block.eval()(-x).numpy(), atol=1e-5)
        np.testing.assert_allclose(first, block.eval()(x).numpy(), atol=1e-5, err_msg="a later run wrote over it")
    runnable.close()
    with pytest.raises(DeviceError, match=r"closed"):
        runnable.run(x.numpy())


def test_a_block_loses_little_in_8_bits(block: nn.Module) -> None:
    x = noise(1, 8, 16, 24)
    runnable = ExecuTorchDevice(precision="int8").compile(block, x, noise(4, 8, 16, 24))
    assert not isinstance(runnable, Unsupported)
    with torch.no_grad():
        reference = block.eval()(x).numpy()
    error = np.square(runnable.run(x.numpy()) - reference).mean() / np.square(reference).mean()
    assert 1e-6 < error < 1e-2
    runnable.close()


def test_weights_in_8_bits_have_a_scale_per_channel() -> None:
    """The second channel's weights are 1000 times smaller: with one scale for both they would round to 0."""
    conv = nn.Conv2d(4, 2, 3, padding=1, bias=False)
    with torch.no_grad():
        conv.weight *= torch.tensor([100, 0.1]).view(2, 1, 1, 1)
    x = noise(1, 4, 16, 16)
    with quiet():
        module = quantized(torch.export.export(conv.eval(), (x,)).module(), x)
    (scales,) = (buffer for name, buffer in module.named_buffers() if name.startswith("_scale"))
    assert scales.shape == (2,)
    assert scales[0] > 100 * scales[1]


def test_what_the_calibration_never_reached_is_cut_off() -> None:
    """The second of three inputs alone reaches 1: the range is that of all."""
    same = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(same.weight, 1.0)
    ramp = torch.linspace(0, 1, 64).view(1, 1, 8, 8)
    runnable = ExecuTorchDevice(precision="int8").compile(same, ramp, torch.cat([0.1 * ramp, ramp, 0.1 * ramp]))
    assert not isinstance(runnable, Unsupported)
    np.testing.assert_allclose(runnable.run(ramp.numpy()), ramp.numpy(), atol=0.01)
    assert (runnable.run(np.full((1, 1, 8, 8), 5, np.float32)) < 1.2).all()
    runnable.close()


def test_a_block_is_one_part(block: nn.Module) -> None:
    """What XNNPACK does not know would cut it in two, and the time to lower it grows with the parts."""
    assert program_parts(xnnpack_program(block, noise(1, 8, 16, 16))) == (1, ())
    assert program_parts(xnnpack_program(HalfResolution(8), noise(1, 8, 16, 16))) == (1, ())
    assert program_parts(xnnpack_program(block, noise(1, 8, 16, 16), noise(2, 8, 16, 16))) == (1, ())


def test_the_norm_for_xnnpack_computes_what_the_norm_does() -> None:
    """A mean a thousand times the deviation: the variance must not be the difference of two large numbers."""
    norm = LayerNorm2d(8)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = noise(2, 8, 5, 7) + 1000
    with torch.no_grad():
        np.testing.assert_allclose(ConvolutionNorm(norm)(x), norm(x), atol=1e-3)
        assert isinstance(norm, LayerNorm2d)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_module_that_the_exporter_rejects_is_a_row(precision: str) -> None:
    class DataDependent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    outcome = ExecuTorchDevice(precision=precision).compile(DataDependent(), noise(1, 2, 4, 4))
    assert isinstance(outcome, Unsupported)
    assert outcome.reason.startswith("cannot express DataDependent in ExecuTorch: ")
    assert "\n" not in outcome.reason


def test_bytes_that_are_no_program_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"ExecuTorch refuses the network: "):
        ExecuTorchRunnable(b"no program, and long enough to hold a header" * 4, 1)
    with pytest.raises(DeviceError, match=r"cannot read .*nowhere\.pte"):
        ExecuTorchDevice().load_form(tmp_path / "nowhere.pte")


def test_an_input_of_another_shape_is_a_device_error() -> None:
    runnable = ExecuTorchDevice().compile(nn.Conv2d(2, 2, 1), noise(1, 2, 8, 8))
    assert not isinstance(runnable, Unsupported)
    with pytest.raises(DeviceError, match=r"ExecuTorch failed: "):
        runnable.run(np.zeros((1, 2, 9, 8), np.float32))
    runnable.close()


def test_its_own_form_is_a_program_that_loads(tmp_path: Path) -> None:
    conv, x = nn.Conv2d(3, 3, 3, padding=1), noise(1, 3, 8, 8)
    for precision, ending, close in (("fp32", "pte", 1e-5), ("int8", "int8.pte", 0.1)):
        device = ExecuTorchDevice(precision=precision)
        ((found, content),) = device.form(conv, x, x).items()
        assert found == ending
        path = tmp_path / f"network.{ending}"
        path.write_bytes(content)
        runnable = device.load_form(path)
        np.testing.assert_allclose(runnable.run(x.numpy()), conv(x).detach(), atol=close)
        runnable.close()


def test_int8_is_compared_with_fp32_on_the_same_threads() -> None:
    single = ExecuTorchDevice(2, "int8").single
    assert isinstance(single, ExecuTorchDevice)
    assert (single.description.precision, single.threads) == ("fp32", 2)


def test_networks_with_other_threads_cannot_be_open_together() -> None:
    """The process has one set of threads, which the open networks point at."""
    gc.collect()
    conv, x = nn.Conv2d(2, 2, 1), noise(1, 2, 8, 8)
    first = ExecuTorchDevice(1).compile(conv, x)
    assert not isinstance(first, Unsupported)
    outcome = ExecuTorchDevice(2).compile(conv, x)
    assert isinstance(outcome, Unsupported)
    assert "networks with 1 are open: close them before one with 2" in outcome.reason
    first.close()
    second = ExecuTorchDevice(2).compile(conv, x)
    assert not isinstance(second, Unsupported)
    second.close()


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    message = r"pip install 'netgraft\[executorch\]'"
    monkeypatch.setitem(sys.modules, "executorch.runtime", None)
    with pytest.raises(DeviceError, match=message):
        ExecuTorchDevice()
    monkeypatch.setitem(sys.modules, "executorch.backends.xnnpack.partition.xnnpack_partitioner", None)
    with pytest.raises(DeviceError, match=message):
        xnnpack_program(nn.Conv2d(2, 2, 1), noise(1, 2, 8, 8))


def test_a_network_needs_a_thread() -> None:
    with pytest.raises(DeviceError, match=r"0 threads"):
        ExecuTorchDevice(0)
