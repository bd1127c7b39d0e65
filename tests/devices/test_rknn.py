"""Rockchip's compiler: for real where NETGRAFT_RKNN_PYTHON names a Python that has it, and what is ours around it with
a stand-in that computes with ONNX Runtime."""

import os
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from netgraft.devices import catalog
from netgraft.devices.check import check_device
from netgraft.devices.compiler import Compiled
from netgraft.devices.device import Unsupported
from netgraft.devices.onnx.graph import onnx_bytes
from netgraft.devices.rockchip import rknn
from netgraft.devices.rockchip.rknn import PYTHON, RknnCompiler, lacking_toolkit
from netgraft.errors import ConfigError, DeviceError, ExportError

CONV = nn.Conv2d(3, 3, 3, padding=1)
STAND_IN = """
import os, pathlib, time
import numpy as np, onnxruntime

class RKNN:
    def __init__(self, verbose): print("I the toolkit prints as it likes")
    def config(self, target_platform): self.chip = target_platform; return 0
    def load_onnx(self, path):
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return int(os.environ.get("RKNN_FAILS", 0))
    def build(self, do_quantization, dataset):
        if os.environ.get("RKNN_HANGS"): time.sleep(60)
        if os.environ.get("RKNN_DIES"): os.abort()
        self.lists = len(pathlib.Path(dataset).read_text().split()) if do_quantization else 0
        return 0
    def export_rknn(self, path): pathlib.Path(path).write_text(f"{self.chip} {self.lists}"); return 0
    def init_runtime(self): return 0
    def inference(self, inputs, data_format):
        (y,) = self.session.run(None, {"x": inputs[0]})
        return [y + np.float32(os.environ.get("RKNN_OFF", 1e-3))]
    def release(self): pass
"""


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A toolkit that this Python finds, which stands for the other."""
    package = tmp_path / "rknn"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "api.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv(PYTHON, sys.executable)
    rknn._lacking.cache_clear()


@pytest.fixture(autouse=True)
def _ask_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    rknn._lacking.cache_clear()


@pytest.mark.skipif(bool(lacking_toolkit()), reason=f"needs rknn-toolkit2 in the Python that {PYTHON} names")
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_real_simulator_computes_what_torch_does(block: nn.Module, precision: str) -> None:
    compiled = RknnCompiler("rk3588", precision).compile(block, noise(1, 8, 16, 24), noise(2, 8, 16, 24))
    assert isinstance(compiled, Compiled)
    assert compiled.files["network.rknn"].startswith(b"RKNN")
    off = float(str(compiled).split()[-1])
    # Outputs reach about 4; half precision has 11 significant bits.
    assert off < (0.01 if precision == "fp16" else 1.0)


@pytest.mark.usefixtures("stand_in")
def test_the_difference_to_single_precision_is_told() -> None:
    compiled = RknnCompiler("rk3588").compile(CONV, noise(1, 3, 8, 8), stem="small")
    assert isinstance(compiled, Compiled)
    assert compiled.files == {"small.rknn": b"rk3588 0"}
    assert str(compiled) == "in its simulator it differs from fp32 by up to 0.001"
    assert check_device("rknn:rk3566").placement == str(compiled)


@pytest.mark.usefixtures("stand_in")
def test_8_bits_are_calibrated_on_every_input() -> None:
    compiled = RknnCompiler("rk3568", "int8").compile(CONV, noise(1, 3, 8, 8), noise(5, 3, 8, 8))
    assert isinstance(compiled, Compiled)
    assert compiled.files["network.rknn"] == b"rk3568 5"
    with pytest.raises(ExportError, match=r"8 bits need inputs"):
        RknnCompiler("rk3568", "int8").compile_graph(onnx_bytes(CONV, noise(1, 3, 8, 8)))


@pytest.mark.usefixtures("stand_in")
def test_a_file_is_checked_on_noise_where_nothing_else_is_given() -> None:
    compiled = RknnCompiler("rk3588").compile_graph(onnx_bytes(CONV, noise(1, 3, 8, 8)), stem="small")
    assert "0.001" in str(compiled)


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [
        ("RKNN_OFF", "nan", "as its simulator computes it, the network differs from torch by nan"),
        ("RKNN_OFF", "3", "as its simulator computes it, the network differs from torch by 3 root mean square"),
        ("RKNN_FAILS", "7", "Rockchip's compiler rejects the network: load_onnx failed with 7"),
        ("RKNN_DIES", "1", "Rockchip's compiler rejects the network: "),
    ],
)
def test_what_fails_or_computes_something_else_is_a_row(
    setting: str, value: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(setting, value)
    outcome = RknnCompiler("rk3588").compile(CONV, noise(1, 3, 8, 8))
    assert isinstance(outcome, Unsupported)
    assert outcome.reason.startswith(reason)
    assert "\n" not in outcome.reason


@pytest.mark.usefixtures("stand_in")
def test_a_compiler_that_hangs_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RKNN_HANGS", "1")
    monkeypatch.setattr(rknn, "TIMEOUT_S", 3)
    with pytest.raises(DeviceError, match=r"Rockchip's compiler did not finish within 3 seconds"):
        RknnCompiler("rk3588").compile(CONV, noise(1, 3, 8, 8))


def test_a_missing_toolkit_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PYTHON, raising=False)
    with pytest.raises(DeviceError, match=r"rknn-toolkit2 not installed: .*NETGRAFT_RKNN_PYTHON"):
        RknnCompiler("rk3588")
    (row,) = catalog.describe_devices(["rknn:rk3588"])
    assert (row.available, row.lacking) == (False, "rknn-toolkit2 not installed")
    assert PYTHON in row.install
    monkeypatch.setenv(PYTHON, str(tmp_path / "nowhere"))
    assert lacking_toolkit() == f"{PYTHON}: {tmp_path / 'nowhere'} does not run (FileNotFoundError)"
    monkeypatch.setenv(PYTHON, sys.executable)
    monkeypatch.setenv("PYTHONPATH", os.devnull)
    assert lacking_toolkit() == f"{PYTHON}: {sys.executable} has no rknn-toolkit2"


def test_who_wants_a_latency_is_sent_elsewhere() -> None:
    with pytest.raises(ConfigError, match=r"^rknn:rk3588:int8 gives no latency: use another device"):
        catalog.open_device("rknn:rk3588:int8")
