"""The files of devices that can be opened here, made and compared."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from netgraft.cli import app
from netgraft.devices import catalog
from netgraft.devices.compiler import Compiled, FormCompiler
from netgraft.devices.device import Runnable, Unsupported
from netgraft.devices.int8_device import Int8Device
from netgraft.devices.onnx.graph import onnx_bytes
from netgraft.devices.onnx.int8 import quantize_onnx
from netgraft.devices.onnx.runtime import OnnxRuntimeDevice
from netgraft.errors import ConfigError

CONV = nn.Conv2d(3, 3, 3, padding=1)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_a_form_is_run_and_compared() -> None:
    compiler = catalog.open_compiler("onnxruntime:int8")
    assert compiler.precision == "int8"
    assert compiler.target.startswith("onnxruntime")
    compiled = compiler.compile(CONV, noise(1, 3, 8, 8), noise(2, 3, 8, 8), "small")
    assert isinstance(compiled, Compiled)
    assert list(compiled.files) == ["small.int8.onnx"]
    assert str(compiled).startswith("run here, it differs from PyTorch by up to 0.0")


def test_a_form_that_computes_something_else_is_refused() -> None:
    class Wrong(Int8Device):
        def form(self, module: nn.Module, example: Tensor, calibration: Tensor) -> Mapping[str, bytes]:
            return super().form(nn.Conv2d(3, 3, 1), example, calibration)

    outcome = FormCompiler(Wrong(OnnxRuntimeDevice(), quantize_onnx)).compile(CONV, noise(1, 3, 8, 8))
    assert isinstance(outcome, Unsupported)
    assert "differs from torch" in outcome.reason


def test_a_form_that_does_not_load_is_refused() -> None:
    class Broken(Int8Device):
        def load_form(self, path: Path) -> Runnable:
            return self.device.load(path.with_name("nowhere.onnx"))

    outcome = FormCompiler(Broken(OnnxRuntimeDevice(), quantize_onnx)).compile(CONV, noise(1, 3, 8, 8))
    assert isinstance(outcome, Unsupported)
    assert "cannot read" in outcome.reason


def command(*words: str | Path) -> None:
    app(["compile", *map(str, words)], standalone_mode=False)


def test_the_command_needs_a_student(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty: holds no exported student yet: netgraft export --out"):
        command(tmp_path / "empty", "--device", "onnxruntime:int8", "-o", tmp_path / "out")


def test_the_command_needs_a_run_where_a_file_does_not_do(tmp_path: Path) -> None:
    (tmp_path / "small.onnx").write_bytes(onnx_bytes(CONV, noise(1, 3, 32, 32)))
    with pytest.raises(ConfigError, match=r"onnxruntime:int8 is made from PyTorch, not from ONNX: name the run folder"):
        command(tmp_path / "small.onnx", "--device", "onnxruntime:int8", "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_device_without_a_form_is_no_compiler() -> None:
    with pytest.raises(ConfigError, match=r"unknown compiler 'fake'"):
        catalog.open_compiler("fake")
