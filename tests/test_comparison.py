"""Networks side by side: what `netgraft compare` tells, and what can take part."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from lookalikes import folder
from netgraft.comparison import example_of, fixed_size, time_entrants
from netgraft.config import RunConfig
from netgraft.devices import Latency, MeasureProtocol, OnnxRuntimeDevice, Unsupported
from netgraft.devices.fake import FakeDevice
from netgraft.entrants import Entrant, network_entrant, open_entrants
from netgraft.errors import CheckpointError, ConfigError
from netgraft.export import export
from netgraft.nets.checkpoint import save_weights
from netgraft.nets.foreign import open_foreign
from netgraft.nets.load import Teacher
from netgraft.nets.nafnet import NafNet, NafNetShape
from netgraft.restore import open_restorer
from terminal import Netgraft

QUICK = MeasureProtocol(samples=2, min_sample_ms=0.1, warmup_max_seconds=0.01)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, as far as a comparison looks into it; its student is its teacher."""
    torch.manual_seed(0)
    net = NafNet(NafNetShape(width=4, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,)))
    folder = tmp_path_factory.mktemp("run")
    written = export(net, folder / "export", "teacher", [torch.rand(1, 3, 32, 32)])
    for path in (written.fixed, written.dynamic):
        shutil.copy(path, path.with_name(path.name.replace("teacher", "student")))
    (folder / "config.json").write_text(RunConfig().model_dump_json())
    return folder


def test_all_against_the_first(netgraft: Netgraft, checkpoint: Path, exported: Path, tmp_path: Path) -> None:
    folder(tmp_path)
    outcome = netgraft(
        *("compare", f"tiny={checkpoint}", exported, f"file={exported}/export/student.onnx", "--dataset", "folder"),
        *("--root", tmp_path, "--size", 32, "--samples", 2, "--json", "--out", tmp_path / "out.json"),
    )
    assert outcome.returncode == 0, outcome.stderr
    told = json.loads(outcome.stdout.splitlines()[-1])
    assert list(told["networks"]) == ["tiny", "teacher", "student", "file"]
    assert told["protocol"]["inference"] == "tiles of 32x32 with an overlap of 8"
    assert all(cost["latency_ms"]["median"] > 0 for cost in told["costs"].values())
    assert told["means"]["teacher"]["psnr_db"] == pytest.approx(told["means"]["file"]["psnr_db"], abs=1e-3)
    stored = json.loads((tmp_path / "out.json").read_text())
    assert len(stored["scores"]["file"]) == 4


def test_what_is_not_there_or_not_comparable(
    netgraft: Netgraft, checkpoint: Path, exported: Path, tmp_path: Path
) -> None:
    folder(tmp_path)
    options = ["--dataset", "folder", "--root", tmp_path, "--samples", 2]
    fixed = exported / "export/student.onnx"
    outcome = netgraft("compare", checkpoint, fixed, *options, "--size", 48)
    assert outcome.returncode == 2
    assert "runs in tiles of that size alone" in outcome.stderr
    assert "holds no finished run" in netgraft("compare", tmp_path, *options).stderr


def test_a_network_that_cannot_be_timed_is_a_row(exported: Path, checkpoint: Path) -> None:
    entrants = open_entrants([str(exported / "export/student.onnx"), str(checkpoint)])
    timed = time_entrants(entrants, OnnxRuntimeDevice(), torch.rand(1, 3, 48, 48), QUICK)
    assert isinstance(timed["tiny"].latency, Latency)
    refused = timed["student"].latency
    assert isinstance(refused, Unsupported)
    assert "made for 32x32 alone" in refused.reason
    elsewhere = time_entrants(entrants, FakeDevice(), torch.rand(1, 3, 32, 32), QUICK)
    assert isinstance(elsewhere["tiny"].latency, Latency)
    assert isinstance(elsewhere["student"].latency, Unsupported)


def test_a_file_of_free_size_computes_the_same_once_fixed(exported: Path, tmp_path: Path) -> None:
    dynamic = exported / "export/student_dynamic.onnx"
    path = tmp_path / "fixed.onnx"
    path.write_bytes(fixed_size(dynamic, (32, 48)))
    dims = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in dims] == [1, 3, 32, 48]
    x = np.random.default_rng(0).random((1, 3, 32, 48), np.float32)
    device = OnnxRuntimeDevice()
    assert np.allclose(device.load(path).run(x), device.load(dynamic).run(x), atol=1e-6)
    (tmp_path / "torn.onnx").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="is no network"):
        fixed_size(tmp_path / "torn.onnx", (32, 32))


def test_an_example_is_the_middle_of_an_image() -> None:
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    assert np.array_equal(example_of(image, (2, 2))[0, 0].mul(255).round().numpy(), image[1:3, 2:4, 0])
    assert example_of(image, (6, 8)).shape == (1, 3, 6, 8)


class Halved(nn.Module):
    """Takes sides that are multiples of 8 alone, as networks with levels do."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return [nn.functional.pixel_shuffle(nn.functional.pixel_unshuffle(x, 8), 8) / 2, x]


@pytest.fixture
def spandrel(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stand-in with the interface that spandrel documents; the real one needs torchvision."""
    descriptor = SimpleNamespace(
        model=Halved(),
        scale=1,
        input_channels=3,
        output_channels=3,
        architecture=SimpleNamespace(name="Halver"),
        size_requirements=SimpleNamespace(minimum=0, multiple_of=8, square=False),
    )

    class ModelLoader:
        def __init__(self, device: str) -> None:
            assert device == "cpu"

        def load_from_file(self, path: str) -> SimpleNamespace:
            if Path(path).stem == "unknown":
                raise RuntimeError("Unsupported model\nmore")
            return descriptor

    module = ModuleType("spandrel")
    module.ModelLoader = ModelLoader  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "spandrel", module)
    extra = ModuleType("spandrel_extra_arches")
    extra.install = lambda *, ignore_duplicates: descriptor.__setattr__("extra", ignore_duplicates)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "spandrel_extra_arches", extra)
    return descriptor


def other_weights(path: Path) -> Path:
    torch.save({"patch_embed.proj.weight": torch.zeros(2, 2)}, path)
    return path


def test_other_architectures_come_through_spandrel(spandrel: SimpleNamespace, tmp_path: Path) -> None:
    entrants = open_entrants([f"other={other_weights(tmp_path / 'other.pth')}"])
    assert entrants["other"].architecture == "Halver"
    assert spandrel.extra is True
    image = np.full((20, 21, 3), 100, np.uint8)
    for restorer in (entrants["other"].restorer, entrants["other"].restorer.in_tiles(None)):
        assert (restorer(image) == 50).all()
    timed = time_entrants(entrants, OnnxRuntimeDevice(), torch.rand(1, 3, 32, 32), QUICK)
    assert isinstance(timed["other"].latency, Latency)
    with pytest.raises(ConfigError, match="--tlc is for NAFNets, this is Halver"):
        open_entrants([str(tmp_path / "other.pth")], tlc=256)


def test_what_spandrel_refuses_is_refused(spandrel: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nor does spandrel know it: Unsupported model$"):
        open_entrants([str(other_weights(tmp_path / "unknown.pth"))])
    spandrel.scale = 4
    with pytest.raises(CheckpointError, match=r"Halver with 3 channels in, 3 out and scale 4 is no restoration"):
        open_entrants([str(other_weights(tmp_path / "upscaler.pth"))])


def test_without_spandrel_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    assert open_foreign(tmp_path) is None
    with pytest.raises(CheckpointError, match=r"not a NAFNet.*netgraft\[compare\]"):
        open_entrants([str(other_weights(tmp_path / "other.pth"))])
    with pytest.raises(CheckpointError, match=r"missing\.pth"):
        open_entrants([str(tmp_path / "missing.pth")])


def test_a_student_counts_alike_in_every_form(exported: Path) -> None:
    """What is timed is deployed, and so is what is counted."""
    torch.manual_seed(0)
    net = NafNet(NafNetShape(width=4, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,)))
    entrants = open_entrants([f"file={exported}/export/student.onnx"])
    entrants["module"] = network_entrant(Teacher(module=net.eval(), source="here"))
    timed = time_entrants(entrants, OnnxRuntimeDevice(), torch.rand(1, 3, 32, 32), QUICK)
    assert timed["module"].params == pytest.approx(timed["file"].params)


def test_names_are_unique_and_short(checkpoint: Path, tmp_path: Path, teacher: NafNet) -> None:
    other = tmp_path / "other.safetensors"
    save_weights(teacher, other)
    found = open_entrants(["embedded", str(checkpoint), f"mine={other}"])
    assert list(found) == ["embedded", "tiny", "mine"]
    assert isinstance(found["mine"], Entrant)
    assert found["mine"].architecture == "NAFNet, width 4"
    with pytest.raises(ConfigError, match="called embedded"):
        open_entrants(["embedded", "embedded"])
    assert open_restorer(teacher).pads_itself


def test_an_adaptations_folder_shows_before_and_after(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    (tmp_path / "adaptation.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds no finished adaptation yet"):
        open_entrants([str(tmp_path)])
    for name in ("student", "student_untuned"):
        shutil.copy(exported / "export/student_dynamic.onnx", tmp_path / f"export/{name}_dynamic.onnx")
    assert list(open_entrants([str(tmp_path)])) == ["student untuned", "student"]
    with pytest.raises(ConfigError, match="--tlc is for checkpoints"):
        open_entrants([str(tmp_path)], tlc=256)


def test_a_run_does_not_begin_in_an_adaptations_folder(netgraft: Netgraft, tmp_path: Path) -> None:
    (tmp_path / "adaptation.json").write_text("{}")
    for command in (
        ("saliency", "--preset", "tiny", "--out", tmp_path),
        ("adapt", tmp_path, "--out", tmp_path / "new"),
    ):
        outcome = netgraft(*command)
        assert outcome.returncode == 2
        assert "holds an adaptation" in outcome.stderr
    assert not (tmp_path / "config.json").exists()
