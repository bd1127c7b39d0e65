"""Snapdragon NPUs, compiled for with Qualcomm's compiler; nothing runs on one."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from netgraft.cli import app
from netgraft.config import DeviceConfig
from netgraft.devices import catalog
from netgraft.devices.check import check_device
from netgraft.devices.device import Unsupported
from netgraft.devices.onnx.graph import onnx_bytes
from netgraft.devices.qualcomm import qnn
from netgraft.devices.qualcomm.phones import PHONES
from netgraft.devices.qualcomm.qnn import Placement, QnnCompiler
from netgraft.errors import ConfigError, DeviceError, ExportError, ImageError

pytestmark = pytest.mark.skipif(find_spec("onnxruntime_qnn") is None, reason="needs netgraft[qnn]")


CONV = nn.Conv2d(3, 3, 3, padding=1)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


class Acosh(nn.Module):
    """Convolutions around an operator that the compiler does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Conv2d(8, 8, 3, padding=1)
        self.after = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(torch.acosh(1 + self.before(x) ** 2))


class Nothing(nn.Module):
    """That operator alone."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.acosh(x)


def placed(compiler: QnnCompiler, module: nn.Module) -> Placement:
    placement = compiler.compile(module.eval(), noise(1, 8, 16, 16))
    assert isinstance(placement, Placement), placement
    return placement


@pytest.mark.parametrize("phone", list(PHONES))
def test_a_convolution_is_placed_wholly_on_every_npu(phone: str) -> None:
    placement = placed(QnnCompiler(phone), nn.Conv2d(8, 8, 3, padding=1))
    assert placement.whole
    assert placement.operators == 1
    assert str(placement) == "wholly on the NPU (1 operators)"
    assert set(placement.files) == {"network.onnx", "network_qnn.bin"}


def test_the_file_for_the_phone_is_one_compiled_part_from_x_to_y_that_names_its_binary(block: nn.Module) -> None:
    placement = placed(QnnCompiler("s24-ultra"), block)
    graph = onnx.load_from_string(placement.files["network.onnx"]).graph
    assert [node.op_type for node in graph.node] == ["EPContext"]
    assert [value.name for value in (*graph.input, *graph.output)] == ["x", "y"]
    attributes = {attribute.name: attribute for attribute in graph.node[0].attribute}
    assert attributes["ep_cache_context"].s == b"network_qnn.bin"
    assert len(placement.files["network_qnn.bin"]) > 10_000


def test_in_8_bits_layer_norms_fall_back_and_convolutions_do_not(block: nn.Module) -> None:
    """The one thing that a NAF block has and the NPU does not take in 8 bits; there are two of them."""
    compiler = QnnCompiler("s24-ultra", "int8")
    assert sorted(placed(compiler, block).fallbacks.values()) == ["LayerNormalization"] * 2
    assert placed(compiler, nn.Conv2d(8, 8, 3, padding=1)).whole


def test_an_operator_that_falls_back_is_named_and_counted() -> None:
    placement = placed(QnnCompiler("s24-ultra"), Acosh())
    assert not placement.whole
    assert list(placement.fallbacks.values()) == ["Acosh"]
    (name,) = placement.fallbacks
    assert "acosh" in name
    assert str(placement).endswith("operators fall back to the phone's processor: 1 Acosh")


def test_a_network_of_which_the_npu_takes_nothing_is_a_row() -> None:
    outcome = QnnCompiler("s24-ultra").compile(Nothing(), noise(1, 8, 16, 16))
    assert outcome == Unsupported("the NPU takes no operator of the network")


def test_a_module_that_the_exporter_rejects_is_a_row() -> None:
    class DataDependent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    outcome = QnnCompiler("s24-ultra").compile(DataDependent(), noise(1, 2, 4, 4))
    assert isinstance(outcome, Unsupported)
    assert "DataDependent" in outcome.reason


def test_bytes_that_are_no_network_are_rejected() -> None:
    with pytest.raises(ExportError, match=r"Qualcomm's compiler rejects the network: InvalidProtobuf: .*source.onnx"):
        QnnCompiler("s24-ultra").compile_graph(b"no network")


def worker_is(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let another program take the compiler's place."""
    run = subprocess.run

    def other(command: list[str], **options: Any) -> Any:
        return run([sys.executable, "-c", code], **options)

    monkeypatch.setattr(qnn.subprocess, "run", other)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os.abort()", "Qualcomm's compiler rejects the network: it died with exit code -6"),
        ("raise SystemExit('QNN error 1002')", "Qualcomm's compiler rejects the network: QNN error 1002"),
        ("pass", "the NPU takes no operator of the network"),
    ],
)
def test_a_compiler_that_dies_or_leaves_nothing_is_a_row(
    code: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker_is(code, monkeypatch)
    assert QnnCompiler("s24-ultra").compile(nn.Conv2d(8, 8, 1), noise(1, 8, 4, 4)) == Unsupported(reason)


def test_a_compiler_that_hangs_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    worker_is("import time; time.sleep(60)", monkeypatch)
    monkeypatch.setattr(qnn, "TIMEOUT_S", 0.5)
    with pytest.raises(DeviceError, match=r"Qualcomm's compiler did not finish within 0.5 seconds"):
        QnnCompiler("s24-ultra").compile(nn.Conv2d(8, 8, 1), noise(1, 8, 4, 4))


def test_the_check_says_where_a_block_runs_and_gives_no_latency() -> None:
    check = check_device("qnn:s24-ultra")
    assert check.reason == ""
    assert check.latency_ms is None
    assert check.placement.startswith("wholly on the NPU")


def test_who_wants_a_latency_is_sent_elsewhere() -> None:
    said = (
        r"^qnn:s24-ultra:int8 gives no latency: use aihub:s24-ultra:int8 for the real phone, "
        r"or another device that `netgraft devices` lists$"
    )
    with pytest.raises(ConfigError, match=said):
        DeviceConfig(name="qnn:s24-ultra:int8")
    with pytest.raises(ConfigError, match=said):
        catalog.open_device("qnn:s24-ultra:int8")


def test_an_unknown_phone_is_guessed() -> None:
    with pytest.raises(ConfigError, match=r"unknown compiler 'qnn:s24ultra': did you mean 'qnn:s24-ultra'"):
        catalog.open_compiler("qnn:s24ultra")
    with pytest.raises(ConfigError, match=r"unknown compiler 'onnxruntime'"):
        catalog.open_compiler("onnxruntime")


def command(*words: str | Path) -> None:
    app(["compile", *map(str, words)], standalone_mode=False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """An exported convolution for images of 32x48 pixels."""
    path = tmp_path / "small.onnx"
    path.write_bytes(onnx_bytes(CONV, noise(1, 3, 32, 48)))
    return path


def test_the_command_writes_what_the_phone_needs(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(model, "--device", "qnn:s24-ultra", "-o", tmp_path / "out", "--json")
    printed = capsys.readouterr().out
    document = json.loads(printed.splitlines()[-1])
    assert document["whole"]
    assert document["fallbacks"] == {}
    names = {"small_s24-ultra.onnx", "small_s24-ultra_qnn.bin"}
    assert {Path(path).name for path in document["files"]} == names == {p.name for p in (tmp_path / "out").iterdir()}
    assert "Snapdragon 8 Gen 3 (SM8650), HTP v75, fp16: wholly on the NPU" in printed


def test_the_command_calibrates_8_bits_on_images(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = Path(catalog.__file__).parents[1] / "data" / "photographs" / "test"
    command(model, "--device", "qnn:s24-ultra:int8", "-o", tmp_path / "out", "--calibration", photos)
    assert "int8: wholly on the NPU" in capsys.readouterr().out


def test_the_command_refuses_what_cannot_be_compiled(model: Path, tmp_path: Path) -> None:
    int8, out = ("--device", "qnn:s24-ultra:int8"), ("-o", tmp_path / "out")
    with pytest.raises(ConfigError, match=r"quantizes: name a folder of images with --calibration"):
        command(model, *int8, *out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match=r"no image of at least 48x32 pixels"):
        command(model, *int8, *out, "--calibration", tmp_path / "empty")
    with pytest.raises(ConfigError, match=r"nowhere.onnx: cannot be read: No such file"):
        command(tmp_path / "nowhere.onnx", "--device", "qnn:s24-ultra", *out)
    for content, error, said in (
        (b"no network", ConfigError, r"small.onnx: is no network of ours"),
        (
            onnx_bytes(CONV, noise(1, 3, 32, 48), dynamic=True),
            ConfigError,
            r"made for any size: name the file of fixed",
        ),
        (onnx_bytes(Nothing(), noise(1, 3, 32, 48)), ExportError, r"small.onnx: the NPU takes no operator"),
    ):
        model.write_bytes(content)
        with pytest.raises(error, match=said):
            command(model, "--device", "qnn:s24-ultra", *out)
    assert not (tmp_path / "out").exists()
