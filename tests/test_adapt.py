"""Adaptation: never worse on the crops that choose, stops in time, resumes exactly, keeps the architecture."""

from __future__ import annotations

import copy
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from netgraft import cli
from netgraft.adapt import Adaptation, AdaptConfig, parse_adapt_config
from netgraft.data.photos import photos
from netgraft.devices import OnnxRuntimeDevice
from netgraft.errors import ConfigError, DatasetError, ImageError
from netgraft.evaluate import batch_psnr_db
from netgraft.finetune import Finetuning
from netgraft.imaging import psnr_db, read_image, write_image
from netgraft.nets.checkpoint import save_weights
from netgraft.nets.designs import NAFNET, Design
from netgraft.nets.load import load_teacher
from netgraft.nets.nafnet import NafNet, NafNetShape, start_residuals
from netgraft.pipeline import adapt
from netgraft.portable import Student, load_student, save_student
from netgraft.stages import Start, start_from

SHAPE = NafNetShape(width=4, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,))
SETTINGS: dict[str, Any] = {
    "steps": 12,
    "batch": 2,
    "crop": 16,
    "validation_crops": 2,
    "validation_crop": 32,
    "check_every": 4,
    "precision": "fp32",
    "samples": 3,
    "learning_rate": 2e-3,
    "average": 0.5,
}

CLOCK = {"seconds": None, "created": None}
"""What no two sessions have in common."""


def network(seed: int = 0) -> NafNet:
    torch.manual_seed(seed)
    net = NafNet(SHAPE)
    start_residuals(net, 0.2)
    nn.init.normal_(net.ending.weight, std=0.01)
    return net.eval()


def crops(count: int, first: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Batches that are half as bright as they should be."""
    clean = [torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(first, count)]
    return [(image / 2, image) for image in clean]


def config(**changes: Any) -> AdaptConfig:
    return AdaptConfig(**(SETTINGS | changes))


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def test_it_gets_better_and_gives_the_weights_of_its_best_look() -> None:
    net, validation = network(), crops(100, first=99)[0]
    before = copy.deepcopy(net)
    work = Adaptation(net, config(), validation)
    work.run(crops(12))
    assert same(net, before)
    assert [look.step for look in work.looks] == [0, 4, 8, 12]
    assert work.looks[0].psnr_db == pytest.approx(batch_psnr_db(before, *validation), abs=1e-3)
    assert work.best_look.psnr_db > work.looks[0].psnr_db + 0.5
    assert batch_psnr_db(work.best(), *validation) == pytest.approx(work.best_look.psnr_db, abs=1e-3)
    assert not work.best().training


def test_what_makes_it_worse_is_not_taken() -> None:
    """A rate that destroys the network: the weights that were handed in are the best, to the last bit."""
    net = network()
    work = Adaptation(net, config(learning_rate=100.0), crops(100, first=99)[0])
    work.run(crops(12))
    assert work.best_look.step == 0
    assert same(work.best(), net)


def test_it_stops_when_nothing_becomes_better() -> None:
    work = Adaptation(network(), config(steps=100, learning_rate=100.0, patience=8), crops(100, first=99)[0])
    work.run(crops(60))
    assert (work.step, work.over) == (8, True)
    work.run(crops(60))
    assert work.step == 8


def test_it_resumes_to_the_last_bit() -> None:
    """Six steps, a file, and six more by a new object equal twelve in one go."""
    validation = crops(100, first=99)[0]
    whole = Adaptation(network(), config(), validation)
    whole.run(crops(12))
    half = Adaptation(network(), config(), validation)
    half.run(crops(6))
    file = io.BytesIO()
    torch.save(half.state(), file)
    file.seek(0)
    resumed = Adaptation(network(), config(), validation)
    resumed.load_state(torch.load(file, weights_only=True))
    assert resumed.step == 6
    resumed.run(crops(12, first=6))
    assert resumed.looks == whole.looks
    assert same(resumed.best(), whole.best())


def test_wrong_settings_are_one_line() -> None:
    with pytest.raises(ConfigError, match="steps: Input should be greater than or equal to 1, but it is 0"):
        parse_adapt_config({"steps": 0})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student, its teacher and photographs of 64x80 pixels."""
    folder = tmp_path_factory.mktemp("inputs")
    for split, count in (("train", 3), ("validation", 1), ("test", 2)):
        for photo in photos(split)[:count]:
            path = folder / "photos" / split / f"{photo.name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, photo.image[100:164, 100:180])
    save_weights(network(1), folder / "teacher.safetensors")
    student = Student(
        module=network(),
        design=Design(architecture=NAFNET, shape=SHAPE),
        assignment={},
        size=(64, 64),
        device="onnxruntime",
        threads=1,
        teacher="somewhere.pth",
    )
    save_student(student, folder / "student.safetensors")
    return folder


def noise(inputs: Path, **changes: Any) -> AdaptConfig:
    data = {"source": "sharp", "root": inputs / "photos", "degradation": "noise", "strength_px": (20, 40)}
    return parse_adapt_config(SETTINGS | {"data": data, "images": 2} | changes)


def start(inputs: Path, *, alone: bool = False) -> Start:
    return start_from(inputs / "student.safetensors", None if alone else inputs / "teacher.safetensors", alone=alone)


@pytest.fixture(scope="module")
def done(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("adapted") / "out"
    return out, adapt(start(inputs), noise(inputs), out)


def test_the_document_holds_the_four_figures(done: tuple[Path, dict[str, Any]]) -> None:
    out, figures = done
    assert json.loads((out / "result.json").read_text()) == figures
    for name in ("student", "teacher"):
        before, after = figures[name]["untuned"], figures[name]["tuned"]
        for row in (before, after):
            low, high = row["psnr_db_interval"]
            assert low <= row["psnr_db"] <= high
            assert row["parity_max_abs"] < 1e-3
            assert row["latency_ms"]["q25"] <= row["latency_ms"]["median"] <= row["latency_ms"]["q75"]
        gap = figures["differences_db"][f"{name} tuned - untuned"]
        assert gap["mean"] == pytest.approx(after["psnr_db"] - before["psnr_db"], abs=1e-6)
        course = figures["adaptation"][name]
        assert course["validation_psnr_db"]["best"] >= course["validation_psnr_db"]["before"]
        assert [look["step"] for look in course["curve"]] == [0, 4, 8, 12]
    assert figures["images"] == {"train": 2, "validation_crops": 2, "test": 2}
    assert figures["protocol"]["quality"]["degradation"] == "noise of 20 to 40 steps of 8 bits, seed 7"


def test_the_report_shows_them_and_asks_for_nothing_elsewhere(done: tuple[Path, dict[str, Any]]) -> None:
    out, figures = done
    page = (out / "report.html").read_text()
    for name in ("student", "teacher"):
        for form in ("untuned", "tuned"):
            assert f"{figures[name][form]['psnr_db']:.2f}" in page
    assert "default-src 'none'" in page
    assert page.count('<div class="plot"') == 1


def test_the_degraded_images_are_scored_as_they_are(inputs: Path, done: tuple[Path, dict[str, Any]]) -> None:
    """By hand: noise of the image's own seed, and its PSNR."""
    from zlib import crc32

    scores = []
    for path in sorted((inputs / "photos" / "test").iterdir()):
        clean = read_image(path)
        rng = np.random.default_rng(7 + crc32(path.stem.encode()))
        sigma = np.float32(rng.uniform(20, 40))
        noisy = np.clip(np.rint(clean + sigma * rng.standard_normal(clean.shape, dtype=np.float32)), 0, 255)
        scores.append(psnr_db(noisy.astype(np.uint8), clean))
    assert done[1]["degraded"]["psnr_db"] == pytest.approx(np.mean(scores))


def test_the_architecture_is_the_same(done: tuple[Path, dict[str, Any]]) -> None:
    """The files have the same nodes and shapes, and other weights."""
    out, figures = done
    for name in ("student", "teacher"):
        assert figures["architecture"][name]["same_graph"] is True
        before, after = (onnx.load(out / "export" / f"{name}{form}.onnx").graph for form in ("_untuned", ""))
        assert [node.op_type for node in before.node] == [node.op_type for node in after.node]
        assert [tuple(weight.dims) for weight in before.initializer] == [
            tuple(weight.dims) for weight in after.initializer
        ]
        assert any(
            one.raw_data != other.raw_data for one, other in zip(before.initializer, after.initializer, strict=True)
        )


def test_the_files_hold_the_tuned_networks(done: tuple[Path, dict[str, Any]]) -> None:
    """Weights and exports agree; the teacher's are those of a checkpoint as any other."""
    out, _ = done
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    modules = {
        "student": load_student(out / "student_tuned.safetensors").module,
        "teacher": load_teacher(out / "teacher_tuned.safetensors").module,
    }
    for name, module in modules.items():
        with torch.no_grad():
            expected = module(image).numpy()
        for file in (f"{name}.onnx", f"{name}_dynamic.onnx"):
            np.testing.assert_allclose(
                OnnxRuntimeDevice().load(out / "export" / file).run(image.numpy()), expected, atol=1e-3
            )


def test_the_same_command_does_nothing_twice(
    inputs: Path, done: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(done[0], tmp_path / "out"))

    def forbidden(*_: object) -> None:
        pytest.fail("it trains again")

    monkeypatch.setattr(Finetuning, "_learn", forbidden)
    again = adapt(start(inputs), noise(inputs), out)
    assert again | CLOCK == done[1] | CLOCK


def test_an_interrupted_one_continues(
    inputs: Path, done: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of the student's training, and started again: the same figures but for the clock's."""
    monkeypatch.setattr("netgraft.stages.folder.CHECKPOINT_SECONDS", 0.0)
    learn, calls = Finetuning._learn, []

    def stopping(self: Finetuning, degraded: Tensor, clean: Tensor) -> None:
        calls.append(self.step)
        if len(calls) == 7:
            raise KeyboardInterrupt
        learn(self, degraded, clean)

    monkeypatch.setattr(Finetuning, "_learn", stopping)
    with pytest.raises(KeyboardInterrupt):
        adapt(start(inputs, alone=True), noise(inputs), tmp_path / "out")
    figures = adapt(start(inputs, alone=True), noise(inputs), tmp_path / "out")
    assert calls == [*range(7), *range(6, 12)]
    assert figures["adaptation"]["student"] == done[1]["adaptation"]["student"]
    assert figures["student"]["tuned"]["psnr_db"] == done[1]["student"]["tuned"]["psnr_db"]


def test_a_folder_that_is_taken_is_refused(inputs: Path, done: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out = Path(shutil.copytree(done[0], tmp_path / "out"))
    with pytest.raises(ConfigError, match="holds another adaptation"):
        adapt(start(inputs), noise(inputs, images=3), out)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds a run"):
        adapt(start(inputs), noise(inputs), tmp_path / "run")


def test_images_that_are_not_there(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="4 images asked for, but there are 3"):
        adapt(start(inputs), noise(inputs, images=4), tmp_path / "out")
    shutil.copytree(inputs / "photos", tmp_path / "photos")
    shutil.rmtree(tmp_path / "photos" / "validation")
    data = {"source": "sharp", "root": tmp_path / "photos", "degradation": "noise"}
    with pytest.raises(ImageError, match="validation") as caught:
        adapt(start(inputs), noise(inputs, data=data), tmp_path / "other")
    assert "\n" not in str(caught.value)


def test_where_the_teacher_is(inputs: Path, tmp_path: Path) -> None:
    """A portable file knows its teacher's path alone."""
    path = inputs / "student.safetensors"
    with pytest.raises(ConfigError, match="name it with --teacher, or --no-teacher"):
        start_from(path, None)
    with pytest.raises(ConfigError, match="give one of them"):
        start_from(path, inputs / "teacher.safetensors", alone=True)
    with pytest.raises(ConfigError, match="no exported student"):
        start_from(tmp_path, None)
    assert start_from(path, None, alone=True).teacher is None


def test_another_device_can_be_named(inputs: Path) -> None:
    path = inputs / "student.safetensors"
    assert start_from(path, alone=True).student.device == "onnxruntime"
    assert start_from(path, alone=True, device="fake").student.device == "fake"
    with pytest.raises(ConfigError, match="onnxruntime"):
        start_from(path, alone=True, device="onnxruntim")


def test_the_command_adapts_a_student_alone(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["adapt", inputs / "student.safetensors", "--data", "sharp", "--root", inputs / "photos", "--no-teacher"]
    words += ["--degradation", "defocus", "--strength", 1, 3, "--images", 1, "--steps", 2, "--batch", 1, "--crop", 16]
    words += ["--validation-crops", 1, "--validation-crop", 32, "--samples", 2, "--out", tmp_path / "out", "--json"]
    cli.app([str(word) for word in words], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    document = json.loads(lines[-1])
    assert "teacher" not in document
    assert list(document["differences_db"]) == ["student tuned - untuned"]
    assert document["config"]["data"]["strength_px"] == [1, 3]
    assert any("the same graph as before" in line for line in lines)
