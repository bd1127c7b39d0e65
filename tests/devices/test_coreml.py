"""Core ML packages and programs, made for real; nothing computes them here."""

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from netgraft.devices import catalog
from netgraft.devices.apple.coreml import CoreMlCompiler, import_coremltools
from netgraft.devices.check import check_device
from netgraft.devices.compiler import Compiled
from netgraft.devices.device import Unsupported
from netgraft.devices.executorch.coreml import ExecuTorchCoreMl
from netgraft.errors import ConfigError, DeviceError

pytestmark = pytest.mark.skipif(find_spec("coremltools") is None, reason="needs netgraft[coreml]")
needs_executorch = pytest.mark.skipif(find_spec("executorch") is None, reason="needs netgraft[executorch]")


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


class DataDependent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Unknown(nn.Module):
    """An operator that neither converter has a form for."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


def loaded(files: Mapping[str, bytes], folder: Path) -> Any:
    """The package, read back by Core ML's tools."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    package = folder / next(iter(files)).split("/")[0]
    return import_coremltools().models.MLModel(str(package), skip_model_load=True)


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_a_package_takes_and_gives_floats_of_the_right_shape(block: nn.Module, precision: str, tmp_path: Path) -> None:
    compiled = CoreMlCompiler(precision).compile(block, noise(1, 8, 16, 24), stem="small")
    assert isinstance(compiled, Compiled)
    assert {name.split("/")[0] for name in compiled.files} == {"small.mlpackage"}
    description = loaded(compiled.files, tmp_path).get_spec().description
    single = import_coremltools().proto.FeatureTypes_pb2.ArrayFeatureType.FLOAT32
    for (value,), name in ((description.input, "x"), (description.output, "y")):
        assert value.name == name
        assert tuple(value.type.multiArrayType.shape) == (1, 8, 16, 24)
        assert value.type.multiArrayType.dataType == single


def test_half_precision_halves_the_weights() -> None:
    conv, x = nn.Conv2d(64, 64, 3), noise(1, 64, 8, 8)
    sizes = []
    for precision in ("fp16", "fp32"):
        compiled = CoreMlCompiler(precision).compile(conv, x)
        assert isinstance(compiled, Compiled)
        sizes.append(len(compiled.files["network.mlpackage/Data/com.apple.CoreML/weights/weight.bin"]))
    # 36,864 weights and 64 biases.
    assert sizes[0] == pytest.approx(2 * 36928, abs=1000)
    assert sizes[1] == pytest.approx(4 * 36928, abs=1000)


@pytest.mark.parametrize("module", [DataDependent(), Unknown()])
def test_what_the_converter_rejects_is_a_row(module: nn.Module) -> None:
    outcome = CoreMlCompiler().compile(module, noise(1, 2, 4, 4))
    assert isinstance(outcome, Unsupported)
    assert outcome.reason.startswith(f"cannot express {type(module).__name__} in Core ML: ")
    assert "\n" not in outcome.reason


@needs_executorch
def test_executorch_says_what_core_ml_leaves_to_the_processor(block: nn.Module) -> None:
    whole = ExecuTorchCoreMl().compile(block, noise(1, 8, 16, 24), stem="small")
    assert isinstance(whole, Compiled)
    assert set(whole.files) == {"small.pte"}
    assert str(whole).startswith("Core ML takes all of it")
    refused = ExecuTorchCoreMl().compile(DataDependent(), noise(1, 2, 4, 4))
    assert isinstance(refused, Unsupported)
    assert "DataDependent" in refused.reason


def test_the_check_says_that_nothing_was_computed() -> None:
    check = check_device("coreml")
    assert check.reason == ""
    assert check.latency_ms is None
    assert "Core ML is not here" in check.placement


@pytest.mark.parametrize("name", ["coreml", "coreml:fp32", "executorch:coreml"])
def test_who_wants_a_latency_is_sent_elsewhere(name: str) -> None:
    said = rf"^{name} gives no latency: use another device that `netgraft devices` lists$"
    with pytest.raises(ConfigError, match=said):
        catalog.open_device(name)


def test_a_missing_converter_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(DeviceError, match=r"pip install 'netgraft\[coreml\]'"):
        CoreMlCompiler()
    assert "netgraft[coreml]" in check_device("coreml").reason
