"""Whole runs on devices of fewer bits: what is evaluated, what is delivered, and what a kill costs."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from collections.abc import Mapping
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from netgraft import stages
from netgraft.config import RunConfig, parse_config
from netgraft.data.photos import photos
from netgraft.devices import DeviceDescription, FakeDevice, OnnxRuntimeDevice, open_device
from netgraft.devices.device import Array, Device, Runnable
from netgraft.devices.fake import FakeClock, FakeRunnable
from netgraft.errors import DeviceError, ExportError
from netgraft.imaging import psnr_db, write_image
from netgraft.nets.checkpoint import save_weights
from netgraft.nets.nafnet import NafNet, NafNetShape, start_residuals
from netgraft.pipeline import refit
from netgraft.stages import Run
from netgraft.stages.forms import Form
from netgraft.store import RunStore
from netgraft.tables import result_table, stage_table

torch.set_num_threads(1)

SINGLE_MS, REDUCED_MS = 8.0, 2.0


class OnClock:
    """Moves a clock whenever the network runs."""

    def __init__(self, runnable: Runnable, cost_ms: float, clock: FakeClock) -> None:
        self.runnable, self.cost_ms, self.clock = runnable, cost_ms, clock

    def run(self, x: Array) -> Array:
        self.clock.advance(self.cost_ms)
        return self.runnable.run(x)

    def close(self) -> None:
        self.runnable.close()


class SingleDevice(FakeDevice):
    """Runs the exported files; any takes as long as another."""

    def load(self, path: Path) -> Runnable:
        return OnClock(OnnxRuntimeDevice().load(path), SINGLE_MS, self.clock)


class FewBitDevice(FakeDevice):
    """In so few bits that networks leave images as they are: their scores are those of the degraded images."""

    def __init__(self, single: Device | None, cost_ms: float = REDUCED_MS, gives: float = 1.0) -> None:
        super().__init__()
        if isinstance(single, FakeDevice):
            single.clock = self.clock
        self.cost_ms, self.gives = cost_ms, gives
        self.calibrated_on: list[Tensor] = []
        self._single = single

    @property
    def description(self) -> DeviceDescription:
        return dataclasses.replace(super().description, precision="int8")

    def form(self, module: nn.Module, example: Tensor, calibration: Tensor) -> Mapping[str, bytes]:
        self.calibrated_on.append(calibration)
        number = sum(parameter.sum().item() for parameter in module.parameters())
        return {"int8.fake": f"{number}".encode(), "int8.bin": b"beside"}

    def load_form(self, path: Path) -> Runnable:
        assert path.suffix == ".fake"
        assert path.with_suffix(".bin").read_bytes() == b"beside"
        return FakeRunnable(Scaled(self.gives), self.cost_ms, self.clock)


class Scaled(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


class WithSingle(FewBitDevice):
    @property
    def single(self) -> Device:
        assert self._single is not None
        return self._single


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint and a data set: photographs of 96x112 pixels."""
    folder = tmp_path_factory.mktemp("inputs")
    torch.manual_seed(0)
    net = NafNet(NafNetShape(width=8, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,)))
    start_residuals(net, 0.2)
    nn.init.normal_(net.ending.weight, std=0.005)
    nn.init.zeros_(net.ending.bias)
    save_weights(net, folder / "teacher.safetensors")
    for split, count in (("train", 2), ("validation", 1), ("test", 3)):
        (folder / "photos" / split).mkdir(parents=True)
        for photo in photos(split)[:count]:
            write_image(folder / "photos" / split / f"{photo.name}.png", photo.image[100:196, 100:212])
    return folder


def settings(root: Path, **device: Any) -> RunConfig:
    values: dict[str, Any] = {
        "size": [64, 64],
        "teacher": {"path": str(root / "teacher.safetensors")},
        "data": {"source": "sharp", "root": str(root / "photos"), "strength_px": [2.0, 6.0]},
        "saliency": {"metrics": ["snip"], "crops": 2, "crop": 32},
        "space": {
            "sites": ["encoders.0.0", "middle_blks.0", "decoders.0.0"],
            "operators": ["naf_static", "conv3_res"],
            "protect_by": "snip",
        },
        "distill": {"steps": 2, "batch": 2, "crop": 32, "data_fraction": 1.0},
        "device": {"name": "fake", "samples": 2, "whole_samples": 2, "final_samples": 5, "check_networks": 3} | device,
        "search": {"budget": 5, "crops": 2, "calibration": 1, "max_loss_db": 3.0},
        "finetune": {"steps": 2, "batch": 2, "crop": 32},
    }
    return parse_config(values, "test")


def use(device: Device, patched: pytest.MonkeyPatch) -> None:
    patched.setattr(stages.latency, "open_device", lambda name, threads: device)


@pytest.fixture(scope="module")
def begun(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything before the forms is done."""
    out = tmp_path_factory.mktemp("begun") / "run"
    with pytest.MonkeyPatch.context() as patched:
        use(WithSingle(SingleDevice()), patched)
        run = Run(settings(root), RunStore(out))
        run.exports  # noqa: B018
        run.single_evaluations  # noqa: B018
    return out


@pytest.fixture
def folder(begun: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(begun, tmp_path / "run"))


def test_figures_are_those_of_the_device(root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that leave images alone score what the degraded images score, and fp32 stands beside that."""
    device = WithSingle(SingleDevice())
    use(device, monkeypatch)
    figures = refit(settings(root, max_precision_loss_db=50.0, calibration=3), folder)
    degraded = figures["degraded"]["psnr_db"]
    single = Run(settings(root), RunStore(folder)).single_evaluations
    for name in ("teacher", "student"):
        row = figures[name]
        assert row["psnr_db"] == degraded
        assert row["ssim"] == figures["degraded"]["ssim"]
        assert row["precision"] == "int8"
        assert row["latency_ms"]["median"] == pytest.approx(REDUCED_MS)
        assert row["fp32_psnr_db"] == single[name].mean() != degraded
        assert row["fp32_ssim"] == single[name].mean("ssim")
        assert row["files"] == [f"{name}.int8.fake", f"{name}.int8.bin"]
        assert row["size_bytes"] == sum((folder / "export" / file).stat().st_size for file in row["files"])
        assert row["parity_max_abs"] <= 1e-3
        assert (folder / "export" / f"{name}.onnx").is_file()
        both = figures["precision"][name]
        assert both["fp32"]["latency_ms"]["median"] == pytest.approx(SINGLE_MS)
        assert both["int8"]["difference_max_abs"] > 1e-3
        assert both["int8"]["difference_rms"] < both["int8"]["difference_max_abs"]
    losses = [
        one.psnr_db - other.psnr_db
        for one, other in zip(single["student"].scores, single["degraded"].scores, strict=True)
    ]
    precision = figures["precision"]
    assert precision["student_loss_db"] == pytest.approx(np.mean(losses))
    low, high = precision["student_loss_interval_db"]
    assert min(losses) <= low <= np.mean(losses) <= high <= max(losses)
    assert precision["student_speedup"] == pytest.approx(SINGLE_MS / REDUCED_MS)
    assert (precision["device"], precision["delivered"], precision["as_asked"]) == ("int8", "int8", True)
    assert figures["warnings"] == []
    protocol = figures["protocol"]
    assert protocol["precision"]["calibration"].startswith("3 degraded training crops of 64x64")
    for crops in device.calibrated_on:
        assert crops.shape == (4, 3, 64, 64)
        assert (float(crops[3].min()), float(crops[3].max())) == (0.0, 1.0)
    assert "fp32" in protocol["search"]["quality loss"]
    assert "student.int8.fake" in protocol["quality"]["network"]
    page = (folder / "report.html").read_text()
    assert "<h3>Precisions</h3>" in page
    assert "quality losses those of the same in fp32" in page
    cells = [str(cell) for cell in result_table(figures).columns[0].cells]
    assert {"psnr_db, fp32", "psnr_db, int8", "latency_ms, fp32"} <= {*cells}
    assert "int8 is delivered" in str(result_table(figures).caption)


def delivered_in_single(figures: dict[str, Any], folder: Path) -> None:
    for name in ("teacher", "student"):
        row = figures[name]
        assert row["precision"] == "fp32"
        assert row["psnr_db"] == row["fp32_psnr_db"]
        assert row["latency_ms"]["median"] == pytest.approx(SINGLE_MS)
        assert row["files"][0] == f"{name}.onnx"
        assert row["size_bytes"] == (folder / "export" / f"{name}.onnx").stat().st_size
    assert figures["precision"]["delivered"] == "fp32"
    assert "the exported ONNX files" in figures["protocol"]["quality"]["network"]


def test_a_loss_beyond_the_limit_delivers_fp32_and_says_so(
    root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Darker images lose more than 0.3 dB; the folder is then continued with a limit that allows it."""
    use(WithSingle(SingleDevice(), gives=0.75), monkeypatch)
    figures = refit(settings(root), folder)
    delivered_in_single(figures, folder)
    loss = figures["precision"]["student_loss_db"]
    assert loss > 0.3
    (warning,) = figures["warnings"]
    assert f"int8 costs the student {loss:.3f} dB" in warning
    assert "max_precision_loss_db = 0.3" in warning
    assert "fp32 is delivered" in warning
    assert escape(warning) in (folder / "report.html").read_text()
    assert (folder / "export" / "student.int8.fake").is_file()
    just = refit(settings(root, max_precision_loss_db=loss + 1e-6), folder)
    assert just["precision"]["delivered"] == "int8"
    assert just["student"]["psnr_db"] == pytest.approx(just["student"]["fp32_psnr_db"] - loss)


def test_what_is_not_faster_is_delivered_in_fp32(root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(WithSingle(SingleDevice(), cost_ms=SINGLE_MS), monkeypatch)
    figures = refit(settings(root, max_precision_loss_db=50.0), folder)
    delivered_in_single(figures, folder)
    assert "not measurably faster" in figures["warnings"][0]


def test_without_single_precision_the_loss_is_warned_of(
    root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(FewBitDevice(None, gives=0.75), monkeypatch)
    figures = refit(settings(root), folder)
    assert figures["student"]["precision"] == "int8"
    assert figures["student"]["psnr_db"] < figures["student"]["fp32_psnr_db"] - 0.3
    assert figures["precision"]["student"]["fp32"]["latency_ms"] is None
    (warning,) = figures["warnings"]
    assert "does not run fp32: int8 is delivered" in warning


def test_a_network_that_loses_its_signal_leaves_no_file(
    root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(WithSingle(SingleDevice(), gives=0.0), monkeypatch)
    run = Run(settings(root), RunStore(folder))
    figures = refit(run.config, folder)
    delivered_in_single(figures, folder)
    assert not list((folder / "export").glob("*int8*"))
    assert "root mean square" in figures["precision"]["student"]["int8"]["refused"]
    assert "the device does not run the teacher" in figures["warnings"][0]
    assert "refused" in {str(cell) for cell in stage_table("export", run)[0].columns[1].cells}
    use(FewBitDevice(None, gives=0.0), monkeypatch)
    with pytest.raises(DeviceError, match="the device does not run the networks: teacher: differs from torch"):
        refit(settings(root), folder)


def test_a_kill_between_the_stages_costs_one_of_them(root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed where the second form is made and where the second is evaluated; then nothing is done twice."""
    device = WithSingle(SingleDevice())
    use(device, monkeypatch)
    config = settings(root, max_precision_loss_db=50.0)
    expected = refit(config, Path(shutil.copytree(folder, folder.with_name("other"))))
    device.calibrated_on.clear()
    calls: Counter[str] = Counter()
    original = stages.scores.evaluate

    def counted(*args: Any) -> Any:
        calls["evaluate"] += 1
        return original(*args)

    monkeypatch.setattr(stages.scores, "evaluate", counted)
    for stage, made, evaluated in (("export int8", 1, 0), ("evaluate int8", 2, 1)):

        def kill(now: str, done: int, total: int, stage: str = stage) -> None:
            if (now, done) == (stage, 1):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            refit(config, folder, kill)
        assert (len(device.calibrated_on), calls["evaluate"]) == (made, evaluated)
    figures = refit(config, folder)
    assert (len(device.calibrated_on), calls["evaluate"]) == (2, 2)
    for name in ("teacher", "student"):
        assert figures[name]["psnr_db"] == expected[name]["psnr_db"]
    before = {path: path.stat().st_mtime_ns for path in (folder / "export").iterdir()}
    refit(config, folder)
    assert (len(device.calibrated_on), calls["evaluate"]) == (2, 2)
    assert {path: path.stat().st_mtime_ns for path in (folder / "export").iterdir()} == before
    # A file that is not the one that was checked is made anew.
    path = folder / "export" / "student.int8.fake"
    content = path.read_bytes()
    path.write_bytes(b"another")
    refit(config, folder)
    assert path.read_bytes() == content
    assert len(device.calibrated_on) == 3


def test_a_quantizer_that_fails_is_no_end(root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(WithSingle):
        def form(self, module: nn.Module, example: Tensor, calibration: Tensor) -> Mapping[str, bytes]:
            raise ExportError("no such operator")

    use(Failing(SingleDevice()), monkeypatch)
    figures = refit(settings(root), folder)
    delivered_in_single(figures, folder)
    assert "no such operator" in figures["warnings"][0]


def test_a_device_that_cannot_be_judged_is_warned_of(root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Blind(FakeDevice):
        description = FewBitDevice(None).description

    use(Blind(), monkeypatch)
    figures = refit(settings(root), folder)
    assert figures["precision"] == {"device": "int8", "delivered": "fp32", "judged": False}
    assert "fp32_psnr_db" not in figures["student"]
    (warning,) = figures["warnings"]
    assert "what int8 costs in quality was not evaluated" in warning


NEEDS = {"onnxruntime": "onnxruntime", "openvino": "nncf", "litert": "litert_torch"}


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("onnxruntime:int8", "student.int8.onnx"),
        ("openvino:int8", "student.int8.xml"),
        ("openvino:bf16", "student.onnx"),
        ("litert:int8", "student.int8.tflite"),
    ],
)
def test_a_real_device_evaluates_the_file_that_it_delivers(
    name: str, file: str, root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One tile by hand: what was scored is what the runtime makes of the file, and it is not fp32."""
    if find_spec(NEEDS[name.partition(":")[0]]) is None:
        pytest.skip("not installed")
    device = open_device(name)
    precision = device.description.precision
    # Nothing before the forms is measured on the real device: that takes long and is tested elsewhere.
    use(WithSingle(SingleDevice()), monkeypatch)
    run = Run(settings(root, name=name, calibration=2), RunStore(folder))
    run.exports  # noqa: B018
    run.bench.device = device
    forms = run.delivery.forms
    form, single = forms[precision]["student"], forms["fp32"]["student"]
    assert isinstance(form, Form)
    assert isinstance(single, Form)
    assert form.files[0] == folder / "export" / file
    assert form.files[0].is_file()
    assert single.difference_max_abs <= 1e-3 < 20 * form.difference_max_abs
    runnable = form.open()
    whole = run.test_images[0]
    x = whole.degraded[:64, :64].astype(np.float32).transpose(2, 0, 1)[None] / 255
    y = runnable.run(x)
    with run.delivery.restorer(form) as restorer:
        restored = restorer(whole.degraded[:64, :64])
    np.testing.assert_array_equal(restored, np.rint(np.clip(y[0].transpose(1, 2, 0), 0, 1) * 255).astype(np.uint8))
    in_single = onnxruntime.InferenceSession(folder / "export" / "student.onnx").run(["y"], {"x": x})[0]
    assert 0 < np.abs(np.clip(y, 0, 1) - np.clip(in_single, 0, 1)).max() < 0.1
    runnable.close()
    scores = run.delivery.reduced_evaluations["student"]
    assert not isinstance(scores, str)
    with run.delivery.restorer(form) as restorer:
        by_hand = [psnr_db(restorer(image.degraded), image.clean) for image in run.test_images]
    assert [score.psnr_db for score in scores.scores] == by_hand
    assert scores.mean() != run.single_evaluations["student"].mean()
    assert scores.mean() == pytest.approx(run.single_evaluations["student"].mean(), abs=1.0)


def test_a_form_is_refused_as_a_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "student.int8.onnx"
    with pytest.raises(DeviceError, match="cannot read"):
        open_device("onnxruntime:int8").load_form(path)  # type: ignore[attr-defined]
    path.write_bytes(b"no network")
    with pytest.raises(DeviceError, match=str(path)):
        open_device("onnxruntime:int8").load_form(path)  # type: ignore[attr-defined]
