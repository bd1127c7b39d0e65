"""The devices by name."""

import sys
from importlib import metadata

import pytest

from netgraft.devices import catalog
from netgraft.devices.fake import FakeDevice
from netgraft.devices.onnxruntime import OnnxRuntimeDevice
from netgraft.errors import ConfigError


def test_devices_open_by_name() -> None:
    device = catalog.open_device("onnxruntime", threads=2)
    assert isinstance(device, OnnxRuntimeDevice)
    assert device.threads == 2
    assert isinstance(catalog.open_device("fake"), FakeDevice)


def test_a_misspelled_device_is_guessed() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'onnxruntime'"):
        catalog.open_device("onnx-runtime")


def test_every_device_has_a_row() -> None:
    rows = {row.name: row for row in catalog.describe_devices()}
    assert set(rows) == set(catalog.DEVICES)
    assert rows["onnxruntime"].version == metadata.version("onnxruntime")
    assert all(row.available and row.note for row in rows.values())


def test_a_missing_runtime_is_a_row_that_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing_installed(package: str) -> str:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(catalog.metadata, "version", nothing_installed)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    rows = {row.name: row for row in catalog.describe_devices()}
    assert not rows["onnxruntime"].available
    assert rows["onnxruntime"].install == "pip install onnxruntime"
    assert rows["fake"].available
    check = catalog.check_device("onnxruntime")
    assert check.latency_ms is None
    assert "pip install onnxruntime" in check.reason


@pytest.mark.parametrize("name", list(catalog.DEVICES))
def test_every_device_here_runs_the_tiny_network(name: str) -> None:
    check = catalog.check_device(name)
    assert check.reason == ""
    assert check.latency_ms is not None
    assert check.latency_ms > 0
    assert check.max_abs_error is not None
    assert check.max_abs_error < 1e-4
