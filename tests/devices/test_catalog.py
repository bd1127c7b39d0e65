"""The devices by name."""

import platform
import sys
from importlib import metadata
from importlib.util import find_spec

import pytest

from netgraft.devices import catalog
from netgraft.devices.check import check_device
from netgraft.devices.fake import FakeDevice
from netgraft.devices.onnx.runtime import OnnxRuntimeDevice
from netgraft.errors import ConfigError


def test_devices_open_by_name() -> None:
    device = catalog.open_device("onnxruntime", threads=2)
    assert isinstance(device, OnnxRuntimeDevice)
    assert device.threads == 2
    assert isinstance(catalog.open_device("fake"), FakeDevice)


def test_a_misspelled_device_is_guessed() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'onnxruntime'"):
        catalog.open_device("onnx-runtime")


def test_a_misspelled_precision_is_guessed() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'openvino:int8'"):
        catalog.open_device("openvino:int4")


def test_every_device_has_a_row() -> None:
    rows = {row.name: row for row in catalog.describe_devices()}
    assert set(rows) == set(catalog.DEVICES)
    assert rows["onnxruntime"].version == f"onnxruntime {metadata.version('onnxruntime')}"
    for row in rows.values():
        assert row.note
        assert row.available == (not row.lacking)
        assert row.available or row.install


def test_a_device_that_the_build_lacks_is_a_row_that_says_so() -> None:
    """The package for processors has no CUDA."""
    row = next(row for row in catalog.describe_devices() if row.name == "onnxruntime:cuda")
    assert not row.available
    assert row.lacking.startswith("this build of ONNX Runtime has no CUDAExecutionProvider: it has ")
    assert row.install == "pip install onnxruntime-gpu"
    assert check_device("onnxruntime:cuda").reason == row.lacking


@pytest.mark.parametrize(
    ("name", "module", "install"),
    [
        ("onnxruntime", "onnxruntime", "pip install onnxruntime"),
        ("onnxruntime:int8", "onnxruntime", "pip install onnxruntime"),
        ("openvino:bf16", "openvino", "pip install 'netgraft[openvino]'"),
        ("openvino:int8", "nncf", "pip install 'netgraft[openvino]'"),
        ("qnn:s24-ultra", "onnxruntime_qnn", "pip install 'netgraft[qnn]'"),
        ("aihub:s24-ultra", "qai_hub", "pip install 'netgraft[aihub]'"),
        ("executorch", "executorch", "pip install 'netgraft[executorch]'"),
        ("ncnn", "ncnn", "pip install 'netgraft[ncnn]'"),
        ("coreml", "coremltools", "pip install 'netgraft[coreml]'"),
    ],
)
def test_a_missing_runtime_is_a_row_that_says_how_to_get_it(
    name: str, module: str, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    rows = {row.name: row for row in catalog.describe_devices()}
    assert not rows[name].available
    assert rows[name].lacking == f"{module} not installed"
    assert rows[name].install == install
    assert rows["fake"].available
    check = check_device(name)
    assert check.latency_ms is None
    assert install in check.reason


HERE = [
    row.name
    for row in catalog.describe_devices()
    if row.available and not row.on_request and catalog.find_device(row.name).compiler is None
]
NPU = "ethos-u:u85-2048"
"""The one NPU that stands for all: test_ethos_u compiles for each."""


@pytest.mark.parametrize("name", [name for name in HERE if name == NPU or not name.startswith("ethos-u:")])
def test_every_device_here_runs_the_tiny_network(name: str) -> None:
    check = check_device(name)
    assert check.reason == ""
    assert check.latency_ms is not None
    assert check.latency_ms > 0
    assert check.max_abs_error is not None
    reduced = name.endswith((":int8", ":bf16")) or name == NPU
    # Its outputs reach about 3.
    assert (1e-4 if reduced else 0) <= check.max_abs_error < (0.3 if reduced else 1e-4)


def test_this_machine_has_what_the_tests_are_meant_to_run_on() -> None:
    """So that a runtime that went missing does not just leave fewer tests."""
    assert find_spec("qai_hub") is not None
    assert find_spec("onnxruntime_qnn") is not None or (sys.platform, platform.machine()) != ("linux", "x86_64")
    assert find_spec("coremltools") is not None
    assert {"onnxruntime:int8", "openvino:int8", "litert:int8", "executorch:int8", "ncnn", NPU, "fake"} <= set(HERE)
