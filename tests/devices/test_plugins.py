"""Devices that other packages bring: installed for real, by their metadata, into a folder on the path."""

import shutil
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from netgraft.config import DeviceConfig
from netgraft.devices import catalog
from netgraft.devices.check import check_device
from netgraft.errors import ConfigError, DeviceError

EXAMPLE = Path(__file__).parents[2] / "examples" / "torch_device"

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """What an installer leaves: the module, and the package's metadata with its entry points."""

    def put(name: str, entries: dict[str, str], module: Path | None = None, code: str = "") -> None:
        info = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [f"{device} = {value}" for device, value in entries.items()]
        (info / "entry_points.txt").write_text("\n".join(["[netgraft.devices]", *lines]))
        if module is not None:
            shutil.copy(module, tmp_path)
        for value in entries.values():
            written = value.partition(":")[0]
            # Another test's module of this name may be loaded still.
            monkeypatch.delitem(sys.modules, written, raising=False)
            if code:
                (tmp_path / f"{written}.py").write_text(code)

    monkeypatch.syspath_prepend(tmp_path)
    return put


def test_the_example_is_a_device_like_any_other(install: Install) -> None:
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    entries = project["entry-points"]["netgraft.devices"]
    install(project["name"], entries, EXAMPLE / "netgraft_torch_device.py")
    row = next(row for row in catalog.describe_devices() if row.name == "torch")
    assert row.available
    assert row.note == "from netgraft-torch-device 1.0"
    assert DeviceConfig(name="torch").name == "torch"
    threads = torch.get_num_threads()
    check = check_device("torch", threads)
    assert check.reason == ""
    assert check.max_abs_error == 0
    assert check.latency_ms is not None
    assert check.latency_ms > 0
    with pytest.raises(DeviceError, match=r"start it with OMP_NUM_THREADS=7"):
        catalog.open_device("torch", 7)


def test_without_the_package_there_is_no_such_device() -> None:
    with pytest.raises(ConfigError, match=r"unknown device 'torch'"):
        catalog.open_device("torch")


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("import a_runtime_that_is_missing", r"odd-device 1.0: odd_module:Odd cannot be imported: No module named"),
        ("x = 1", r"odd_module:Odd cannot be imported: .*Odd"),
        ("class Odd(", r"odd_module:Odd cannot be imported: "),
        ("Odd = 3", r"odd_module:Odd is no class"),
    ],
)
def test_a_package_that_cannot_be_imported_is_a_row(install: Install, code: str, complaint: str) -> None:
    install("odd-device", {"odd": "odd_module:Odd"}, code=code)
    row = next(row for row in catalog.describe_devices() if row.name == "odd")
    assert not row.available
    assert row.install == "pip install --upgrade odd-device"
    with pytest.raises(DeviceError, match=complaint):
        catalog.open_device("odd")
    assert check_device("odd").reason == row.lacking


def test_a_class_that_makes_no_device_is_refused(install: Install) -> None:
    install("odd-device", {"odd": "no_device:Odd"}, code="class Odd:\n    def __init__(self, threads): self.clock = 1")
    with pytest.raises(DeviceError, match=r"makes no device: it has no description, compile"):
        catalog.open_device("odd")


WRONG = """
from netgraft.devices import FakeDevice
from netgraft.errors import DeviceError

class Runnable:
    def __init__(self, device):
        self.device = device
    def run(self, x):
        self.device.clock.advance(1.0)
        if {dies}:
            raise DeviceError("the runtime died")
        return x[..., :{width}] + 9
    def close(self):
        pass

class Odd(FakeDevice):
    def __init__(self, threads):
        super().__init__()
    def compile(self, module, example, calibration=None):
        return Runnable(self)
"""


@pytest.mark.parametrize(
    ("dies", "width", "reason"),
    [
        (False, 32, "differs from torch by up to"),
        (False, 0, "gives (1, 8, 32, 0) where torch gives (1, 8, 32, 32)"),
        (True, 32, "while timing odd: the runtime died"),
    ],
)
def test_wrong_and_empty_results_and_a_runtime_that_dies_are_told(
    install: Install, dies: bool, width: int, reason: str
) -> None:
    module = f"wrong_{dies}_{width}"
    install("odd-device", {"odd": f"{module}:Odd"}, code=WRONG.format(dies=dies, width=width))
    assert check_device("odd").reason.startswith(reason)


def test_a_name_of_ours_is_not_given_away(install: Install, caplog: pytest.LogCaptureFixture) -> None:
    install("odd-device", {"openvino": "nowhere:Odd"})
    assert catalog.known_devices()["openvino"] is catalog.DEVICES["openvino"]
    assert "openvino is left out: odd-device 1.0 brings it" in caplog.text
