"""ncnn, for real on this machine's processor."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netgraft.devices.device import Unsupported
from netgraft.devices.ncnn import convert
from netgraft.devices.ncnn.convert import NcnnFiles, ncnn_files
from netgraft.devices.ncnn.device import NcnnDevice, NcnnRunnable
from netgraft.errors import DeviceError, ExportError
from netgraft.nets.blocks import FittedAffine

pytestmark = pytest.mark.skipif(find_spec("ncnn") is None or find_spec("pnnx") is None, reason="needs netgraft[ncnn]")


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", [(16, 24), (7, 5)])
def test_a_block_gives_what_torch_gives(block: nn.Module, threads: int, size: tuple[int, int]) -> None:
    """Sides that differ, so that an axis in the wrong place shows; and maps of no multiple of 16 bytes, which ncnn
    pads from channel to channel."""
    x = noise(1, 8, *size)
    runnable = NcnnDevice(threads).compile(block, x)
    assert not isinstance(runnable, Unsupported)
    with torch.no_grad():
        first = runnable.run(x.numpy())
        runnable.run(-x.numpy())
        np.testing.assert_allclose(first, block.eval()(x).numpy(), atol=1e-5)
    runnable.close()
    with pytest.raises(DeviceError, match=r"closed"):
        runnable.run(x.numpy())


def test_weights_and_features_stay_in_single_precision() -> None:
    """1 + 2^-12 is neither a half nor a bfloat16 number: there 256 of them sum up to 256."""
    sums = nn.Conv2d(256, 1, 1, bias=False)
    nn.init.constant_(sums.weight, 1 + 2**-12)
    runnable = NcnnDevice().compile(sums, torch.ones(1, 256, 4, 4))
    assert not isinstance(runnable, Unsupported)
    np.testing.assert_allclose(runnable.run(np.ones((1, 256, 4, 4), np.float32)), 256.0625, atol=1e-3)


class TimesOne(nn.Module):
    """A multiplication that leaves nothing once the converter has done away with it."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 1.0


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_block_that_does_nothing_is_a_network_too(scale: float) -> None:
    """Alone, its constants make a fifth dimension; a multiplication by 1 is taken out, and nothing is left."""
    affine = FittedAffine(3)
    nn.init.constant_(affine.scale, scale)
    x = noise(1, 3, 4, 6)
    for block in (affine, nn.Sequential(affine, nn.Conv2d(3, 3, 1)), TimesOne()):
        runnable = NcnnDevice().compile(block, x)
        assert not isinstance(runnable, Unsupported)
        np.testing.assert_allclose(runnable.run(x.numpy()), block(x).detach(), atol=1e-5)


def test_a_network_that_decides_by_its_data_is_a_row() -> None:
    """A trace would follow one branch and pass the comparison on the example."""

    class DataDependent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    outcome = NcnnDevice().compile(DataDependent(), noise(1, 2, 4, 4))
    assert isinstance(outcome, Unsupported)
    assert outcome.reason.startswith("cannot express DataDependent in ncnn: ")
    assert "\n" not in outcome.reason


def test_an_operator_that_ncnn_lacks_is_a_row_that_names_it() -> None:
    class Unknown(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.erfinv(x.clamp(-0.5, 0.5))

    outcome = NcnnDevice().compile(Unknown(), noise(1, 2, 4, 4))
    assert isinstance(outcome, Unsupported)
    assert "erfinv" in outcome.reason


def test_bytes_that_are_no_network_are_refused() -> None:
    with pytest.raises(DeviceError, match=r"ncnn refuses the network"):
        NcnnRunnable(NcnnFiles(b"no network", b""), 1)
    # With no input, asking for the output would take the process down.
    alone = b"7767517\n1 1\nMemoryData constant 0 1 out0 0=1\n"
    with pytest.raises(DeviceError, match=r"ncnn refuses the network: it has 0 inputs"):
        NcnnRunnable(NcnnFiles(alone, bytes(4)), 1)


def test_its_own_form_loads_with_the_weights_beside_it(tmp_path: Path) -> None:
    conv, x, device = nn.Conv2d(3, 3, 3, padding=1), noise(1, 3, 8, 8), NcnnDevice()
    files = device.form(conv, x, x)
    assert list(files) == ["param", "bin"]
    for ending, content in files.items():
        (tmp_path / f"network.{ending}").write_bytes(content)
    runnable = device.load_form(tmp_path / "network.param")
    np.testing.assert_allclose(runnable.run(x.numpy()), conv(x).detach(), atol=1e-5)
    (tmp_path / "network.bin").unlink()
    with pytest.raises(DeviceError, match=r"cannot read .*network\.bin"):
        device.load_form(tmp_path / "network.param")


RUN = subprocess.run


def converter_is(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let another program take the converter's place."""

    def other(command: list[str], **options: Any) -> Any:
        return RUN([sys.executable, "-c", code], **options)

    monkeypatch.setattr(convert.subprocess, "run", other)


def test_a_converter_that_dies_is_a_row_and_one_that_hangs_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, x = nn.Conv2d(2, 2, 1), noise(1, 2, 8, 8)
    converter_is("import os; os.abort()", monkeypatch)
    with pytest.raises(ExportError, match=r"ncnn's converter rejects the network: it ended with exit code -6"):
        ncnn_files(conv, x)
    converter_is("import time; time.sleep(60)", monkeypatch)
    monkeypatch.setattr(convert, "TIMEOUT_S", 0.5)
    with pytest.raises(DeviceError, match=r"did not finish within 0.5 seconds"):
        ncnn_files(conv, x)


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    message = r"pip install 'netgraft\[ncnn\]'"
    monkeypatch.setitem(sys.modules, "pnnx", None)
    with pytest.raises(DeviceError, match=message):
        ncnn_files(nn.Conv2d(2, 2, 1), noise(1, 2, 8, 8))
    monkeypatch.setitem(sys.modules, "ncnn", None)
    with pytest.raises(DeviceError, match=message):
        NcnnDevice()


def test_a_network_needs_a_thread() -> None:
    with pytest.raises(DeviceError, match=r"0 threads"):
        NcnnDevice(0)
