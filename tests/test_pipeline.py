"""Whole runs on a small network and a device that needs no hardware: what comes out, and what a kill costs."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import netgraft.export
from netgraft import cli, stages
from netgraft.config import RunConfig, parse_config
from netgraft.data.photos import photos
from netgraft.devices import FakeDevice, OnnxRuntimeDevice, drift_percent, measure_modules
from netgraft.devices.fake import FakeRunnable
from netgraft.distill import Distillation
from netgraft.errors import ConfigError, SearchError, StoreError
from netgraft.finetune import Finetuning
from netgraft.imaging import psnr_db, read_image, write_image
from netgraft.nets.checkpoint import save_weights
from netgraft.nets.footprint import Footprint
from netgraft.nets.nafnet import NafNet, NafNetShape, start_residuals
from netgraft.pipeline import STAGES, refit
from netgraft.portable import load_student
from netgraft.prefix import PrefixScores
from netgraft.restore import open_restorer
from netgraft.search import SearchResult, minimize
from netgraft.stages import Run, start_from
from netgraft.store import RunStore
from netgraft.summary import drift_warning, limit_warnings, space_warning, warnings_of
from netgraft.tables import stage_table

torch.set_num_threads(1)

MS_PER_GMAC = 20.0
"""What a run costs on the fake device."""
SITES = ["encoders.0.0", "encoders.1.0", "middle_blks.0", "ups.1", "decoders.1.0"]
STEPS = 5
BUDGET = 10


@dataclass(frozen=True)
class Whole:
    """A run that nothing stopped."""

    config: RunConfig
    out: Path
    figures: dict[str, Any]
    calls: Counter[str]


def settings(root: Path, **changes: dict[str, Any]) -> RunConfig:
    """A run at 64x64 on crops of three photographs, with a network of width 8."""
    values: dict[str, Any] = {
        "size": [64, 64],
        "teacher": {"path": str(root / "teacher.safetensors")},
        "data": {"source": "sharp", "root": str(root / "photos"), "strength_px": [2.0, 6.0]},
        "saliency": {"metrics": ["snip", "plain"], "crops": 2, "crop": 32},
        "space": {
            "sites": SITES,
            "operators": ["drop", "naf_static", "conv3_res", "transposed"],
            "protect_top": 1,
            "protect_by": "snip",
        },
        "distill": {"steps": STEPS, "batch": 2, "crop": 32, "data_fraction": 1.0},
        "device": {"name": "fake", "samples": 3, "whole_samples": 3, "final_samples": 5, "check_networks": 3},
        "search": {"budget": BUDGET, "crops": 2, "calibration": 1, "baselines": ["random"], "max_loss_db": 3.0},
        "finetune": {"steps": STEPS, "batch": 2, "crop": 32},
    }
    for name, change in changes.items():
        values[name] = {**values[name], **change} if isinstance(change, dict) else change
    return parse_config(values, "test")


def counting(patched: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the units of work from now on."""
    calls: Counter[str] = Counter()

    def count(owner: object, name: str, label: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            calls[label] += 1
            return original(*args, **kwargs)

        patched.setattr(owner, name, counted)

    count(stages.teacher, "saliency", "saliency")
    count(stages.surrogates, "fit_surrogates", "fit")
    count(Distillation, "_learn", "distill")
    count(stages.latency, "measure_modules", "measure")
    count(PrefixScores, "psnr_db", "quality")
    count(Finetuning, "_learn", "finetune")
    count(netgraft.export, "export", "export")
    count(stages.scores, "evaluate", "evaluate")
    count(stages.run, "condition_psnrs_db", "conditions")
    return calls


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint and a data set: four photographs of 96x112 pixels."""
    folder = tmp_path_factory.mktemp("inputs")
    torch.manual_seed(0)
    net = NafNet(NafNetShape(width=8, encoder_blocks=(1, 1), middle_blocks=1, decoder_blocks=(1, 1)))
    start_residuals(net, 0.2)
    nn.init.normal_(net.ending.weight, std=0.02)
    save_weights(net, folder / "teacher.safetensors")
    for split, count in (("train", 2), ("validation", 1), ("test", 2)):
        (folder / "photos" / split).mkdir(parents=True)
        for photo in photos(split)[:count]:
            write_image(folder / "photos" / split / f"{photo.name}.png", photo.image[100:196, 100:212])
    return folder


@pytest.fixture(scope="session")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    config, out = settings(root), tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patched:
        calls = counting(patched)
        figures = refit(config, out)
    return Whole(config=config, out=out, figures=figures, calls=calls)


@pytest.fixture
def copied(whole: Whole, tmp_path: Path) -> Path:
    """A copy of the finished run's folder, to be damaged."""
    return Path(shutil.copytree(whole.out, tmp_path / "run"))


def opened(whole: Whole, folder: Path) -> Run:
    return Run(whole.config, RunStore(folder))


def test_the_student_is_made_for_another_device(
    whole: Whole, copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is trained for it: what it makes is the student that was exported, in 8 bits."""
    (copied / "config.json").write_text(json.dumps(whole.config.model_dump(mode="json")))
    words = ["compile", str(copied), "--device", "onnxruntime:int8", "-o", str(tmp_path / "out"), "--json"]
    cli.app(words, standalone_mode=False)
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "differs from PyTorch by up to" in document["note"]
    assert document["files"] == [str(tmp_path / "out" / "student.int8.onnx")]
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).numpy()
    reduced, single = (
        OnnxRuntimeDevice().load(path).run(image)
        for path in (Path(document["files"][0]), copied / "export" / "student.onnx")
    )
    assert 0 < np.abs(reduced - single).mean() < 0.05


def test_the_student_leaves_the_run_in_one_file(whole: Whole, copied: Path) -> None:
    """What the file holds, and what an adaptation starts from in this folder, is the student that was exported."""
    (copied / "config.json").write_text(json.dumps(whole.config.model_dump(mode="json")))
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    alone, inside = load_student(copied / "export" / "student.safetensors"), start_from(copied, None)
    assert dict(alone.assignment) == {
        path: name for path, name in whole.figures["student"]["assignment"].items() if name != "keep"
    }
    assert inside.teacher is not None
    assert alone.teacher == inside.teacher.source
    expected = OnnxRuntimeDevice().load(copied / "export" / "student.onnx").run(image.numpy())
    for student in (alone, inside.student):
        with torch.no_grad():
            np.testing.assert_allclose(student.module(image).numpy(), expected, atol=1e-4)


def without_seconds(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: entry for name, entry in figures.items() if name != "seconds"}


def test_the_result_has_its_documented_form(whole: Whole) -> None:
    text = (whole.out / "result.json").read_text()
    result = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert result == whole.figures
    assert result["schema"] == 1
    for name in ("teacher", "student"):
        assert {"psnr_db", "ssim", "latency_ms", "macs", "params"} <= result[name].keys()
        assert result[name]["latency_ms"].keys() == {"median", "q25", "q75"}
    assert {"psnr_db", "ssim"} <= result["degraded"].keys()
    assert 0 <= result["student"]["parity_max_abs"] <= 1e-3
    assert {"device", "protocol", "seconds"} <= result.keys()
    assert result["device"]["backend"] == "fake"
    assert result["seconds"].keys() >= {"saliency", "distill", "profile", "search", "finetune", "export"}
    assert all(spent >= 0 for spent in result["seconds"].values())
    assert result["front"]
    for point in result["front"]:
        assert point.keys() >= {"assignment", "quality_loss_db", "latency_ms", "measured", "predicted_latency_ms"}
        assert point["measured"]
        # On this device sums are exact.
        assert point["latency_ms"] == pytest.approx(point["predicted_latency_ms"])
        assert point["latency_q25_ms"] <= point["latency_ms"] <= point["latency_q75_ms"]
    assert 0 < result["ceiling"]["macs"] < 1
    fastest = min(point["latency_ms"] for point in result["front"])
    teacher_ms = result["teacher"]["latency_ms"]["median"]
    assert result["ceiling"]["fastest_ms"] <= fastest + 1e-9
    assert result["ceiling"]["latency"] == pytest.approx(1 - result["ceiling"]["fastest_ms"] / teacher_ms)
    assert (whole.out / "report.html").read_text().startswith("<!")


def test_one_site_is_protected_and_the_others_are_assigned(whole: Whole) -> None:
    run = opened(whole, whole.out)
    scores = dict(zip((site.path for site in run.sites), run.saliency["snip"], strict=True))
    most_salient = max(SITES, key=lambda path: scores[path])
    left = [path for path in SITES if path != most_salient]
    for point in (whole.figures["student"], *whole.figures["front"]):
        assert list(point["assignment"]) == left
    offered = {"block": {"keep", "drop", "naf_static", "conv3_res"}, "up": {"keep", "transposed"}}
    for site, names in zip(run.space.sites, run.space.options, strict=True):
        assert names[0] == "keep"
        refused = {row.operator for row in run.space.refused if row.site == site.path}
        assert {*names, *refused} == offered[site.kind]
        assert not refused & set(names)


def test_the_front_holds_no_point_that_another_beats(whole: Whole) -> None:
    points = [(point["quality_loss_db"], point["latency_ms"]) for point in whole.figures["front"]]
    for a in points:
        assert not any(b != a and b[0] <= a[0] and b[1] <= a[1] for b in points)
    run = opened(whole, whole.out)
    assert len(run.search.costs) == BUDGET
    for loss, latency in run.search.costs.tolist():
        assert any(p[0] <= loss and p[1] <= latency + 1e-9 for p in points)


def test_a_long_front_is_measured_at_its_named_points_and_evenly_between(
    whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of eleven members 1 ms apart, with the 1st, 2nd and 11th named: the 6th, farthest from all, and the 4th."""
    run = opened(whole, whole.out)
    costs = np.array([[10.0 - row, float(row)] for row in range(11)])
    found = SearchResult(
        assignments=np.zeros((11, 1), int),
        costs=costs,
        front=np.arange(11),
        hypervolume=np.zeros(11),
        reference_point=np.array([10.0, 10.0]),
        method="auto",
        additive_tau=np.ones(2),
        tau_history=np.ones((11, 2)),
        regime="additive",
        stop_reason="budget",
    )
    run.search, run.chosen = found, {"fastest": 0, "knee": 1, "chosen": 10}
    monkeypatch.setattr(stages.delivery, "MOST_SHOWN", 5)
    assert run.delivery.shown == [0, 1, 3, 5, 10]


def test_the_student_is_the_fastest_within_the_limit(whole: Whole) -> None:
    allowed = [p for p in whole.figures["front"] if p["quality_loss_db"] <= 3.0]
    fastest = min(allowed, key=lambda p: p["latency_ms"])
    assert whole.figures["student"]["assignment"] == fastest["assignment"]
    assert any(name != "keep" for name in fastest["assignment"].values())


def test_latencies_are_what_the_device_makes_of_the_macs(whole: Whole) -> None:
    for name in ("teacher", "student"):
        latency = whole.figures[name]["latency_ms"]
        expected = MS_PER_GMAC * whole.figures[name]["macs"] / 1e9
        assert list(latency.values()) == pytest.approx([expected] * 3)
    # On this device, blocks add up exactly.
    assert whole.figures["additivity"]["mape_percent"] == pytest.approx(0, abs=1e-6)
    student = whole.figures["student"]["assignment"]
    point = next(p for p in whole.figures["front"] if p["assignment"] == student)
    assert point["latency_ms"] == pytest.approx(whole.figures["student"]["latency_ms"]["median"])


def test_a_space_without_replacements_is_told_of() -> None:
    assert space_warning([("keep", "drop"), ("keep",)]) is None
    assert "the student is the teacher" in str(space_warning([("keep",), ("keep",)]))


def test_a_device_of_fewer_bits_that_cannot_be_judged_is_told_of_beside_its_figures() -> None:
    """The exported files, which quality is judged by, are in fp32 whatever the latencies were measured in."""
    assert warnings_of({"device": "fp32", "judged": False}, {"a": 0.0}) == []
    (precision,) = warnings_of({"device": "int8", "judged": False}, {"a": 0.0})
    assert "those of int8 networks" in precision
    assert "in fp32" in precision
    assert len(warnings_of({"device": "int8", "judged": False}, {"a": 0.0, "b": 50.0})) == 2


def test_a_session_on_a_slower_machine_is_told_apart(
    whole: Whole, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one block that all sessions time gives away the session that took twice as long."""
    steady = whole.figures["drift_percent"]
    assert list(steady.values()) == pytest.approx([0] * len(steady), abs=1e-6)
    assert drift_warning(steady) is None
    assert whole.figures["warnings"] == []
    shutil.rmtree(copied / "artifacts" / "profile")

    def slower(device: FakeDevice, modules: Any, *args: Any, **kwargs: Any) -> Any:
        device.ms_per_gmac = 2 * MS_PER_GMAC if "teacher" in modules else MS_PER_GMAC
        return measure_modules(device, modules, *args, **kwargs)

    monkeypatch.setattr(stages.latency, "measure_modules", slower)
    run = opened(whole, copied)
    assert run.bench.latency_table.teacher.median_ms == pytest.approx(
        2 * whole.figures["teacher"]["latency_ms"]["median"]
    )
    drift = drift_percent(run.bench.latency_table.reference_ms)
    assert drift.keys() == {*run.bench.block_sessions, "networks"}
    assert drift.pop("networks") == pytest.approx(100)
    assert list(drift.values()) == pytest.approx([0] * len(drift), abs=1e-6)
    assert "in each: networks +100\N{NO-BREAK SPACE}% against" in (drift_warning(drift | {"networks": 100.0}) or "")


def test_options_are_judged_by_what_they_cost_inside_a_network(whole: Whole) -> None:
    """Where measured networks teach that drop is slow, keep is both faster and closer."""
    run = opened(whole, whole.out)
    assert not any(row.operator == "drop" for row in run.space.refused)
    again = opened(whole, whole.out)
    again.bench.latency_model = dataclasses.replace(run.bench.latency_model, corrections={("map", "drop"): 1e6})
    refused = {row.site: row.reason for row in again.space.refused if row.operator == "drop"}
    assert refused.keys() == {site.path for site in run.space.sites if site.kind == "block"}
    assert all(reason.startswith("keep is closer and faster") for reason in refused.values())


def test_scores_are_those_of_the_exported_files(whole: Whole) -> None:
    """One tile of each test image, run by hand: no other network than the one that ships was scored."""
    session = onnxruntime.InferenceSession(whole.out / "export" / "student.onnx")
    run = opened(whole, whole.out)
    image = run.test_images[0]
    x = image.degraded[:64, :64].astype(np.float32).transpose(2, 0, 1)[None] / 255
    student, _ = run.finetuned
    with torch.no_grad():
        expected = student(torch.from_numpy(x)).numpy()
    assert np.abs(session.run(["y"], {"x": x})[0] - expected).max() < 1e-3
    clean = [read_image(path) for path in sorted(Path(str(whole.config.data.root), "test").iterdir())]
    scores = [psnr_db(item.degraded, good) for item, good in zip(run.test_images, clean, strict=True)]
    assert whole.figures["degraded"]["psnr_db"] == pytest.approx(np.mean(scores))


def test_other_conditions_are_those_of_the_exported_files(whole: Whole, copied: Path) -> None:
    """As trained, the scores are those of the test images' center; a second run reads what the first one stored."""
    found = whole.figures["generalization"]
    run = opened(whole, copied)
    assert found["images"] == [image.name for image in run.test_images]
    trained, *others = found["conditions"]
    assert {row["kind"] for row in others} >= {"shake length", "straight shake", "noise", "JPEG", "exposure"}
    window = (slice(16, 80), slice(24, 88))
    for name, restore in (("degraded", lambda image: image), ("student", open_restorer(run.exports["student"].fixed))):
        expected = [psnr_db(restore(image.degraded[window]), image.clean[window]) for image in run.test_images]
        assert trained["psnr_db"][name] == pytest.approx(expected)
    without = Run(parse_config(whole.config.model_dump() | {"generalization": {"crops": 0}}, "test"), run.store)
    assert without.generalization is None


def test_the_same_command_again_repeats_nothing(whole: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(whole.calls) == {
        "saliency", "fit", "distill", "measure", "quality", "finetune", "export", "evaluate", "conditions"
    }  # fmt: skip
    assert whole.calls["distill"] == whole.calls["finetune"] == STEPS
    before = {path: path.stat().st_mtime_ns for path in (whole.out / "export").iterdir()}
    calls = counting(monkeypatch)
    again = refit(whole.config, whole.out)
    assert calls == Counter()
    assert without_seconds(again) == without_seconds(whole.figures)
    assert {path: path.stat().st_mtime_ns for path in (whole.out / "export").iterdir()} == before


def test_a_kill_anywhere_changes_nothing(whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the distillation, the search and the fine-tuning, then left alone: bit for bit the same."""
    monkeypatch.setattr(stages.folder, "CHECKPOINT_SECONDS", 0.0)
    calls = counting(monkeypatch)
    out = tmp_path / "run"
    for stage, at in (("distill", 3), ("search auto", 4), ("finetune", 3)):

        def kill(now: str, done: int, total: int, stage: str = stage, at: int = at) -> None:
            assert 0 <= done <= total
            if (now, done) == (stage, at):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            refit(whole.config, out, kill)
        assert not (out / "result.json").exists()
    figures = refit(whole.config, out)
    # A kill costs the step that it hit and no other; what was evaluated or measured is not done again.
    assert calls["distill"] == calls["finetune"] == STEPS + 1
    assert calls["measure"] == whole.calls["measure"]
    assert calls["export"] == 2
    assert calls["quality"] == whole.calls["quality"]
    killed, left_alone = opened(whole, out), opened(whole, whole.out)
    assert killed.surrogates.losses == left_alone.surrogates.losses
    assert killed.surrogates.errors == left_alone.surrogates.errors
    assert killed.finetuned[1] == left_alone.finetuned[1]
    assert len(killed.finetuned[1]) == STEPS
    for name in ("teacher", "student"):
        # The fake clock starts anew in each session, so that differences of its times round otherwise.
        latency = whole.figures[name]["latency_ms"]
        assert figures[name].pop("latency_ms") == pytest.approx(latency, rel=1e-9)
        assert figures[name] == {k: v for k, v in whole.figures[name].items() if k != "latency_ms"}
    for point, expected in zip(figures["front"], whole.figures["front"], strict=True):
        assert point.pop("assignment") == expected["assignment"]
        assert point == pytest.approx({k: v for k, v in expected.items() if k != "assignment"}, rel=1e-9)
    assert figures["degraded"] == whole.figures["degraded"]
    assert not list((out / "artifacts" / "surrogates").glob("progress*"))
    assert not list(out.rglob("*.part"))


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_can_be_asked_for_alone(stage: str, whole: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counting(monkeypatch)
    STAGES[stage](opened(whole, whole.out))
    assert calls == Counter()


def test_files_of_another_student_are_not_taken_for_this_ones(whole: Whole, copied: Path) -> None:
    """Two configs may use one folder in turns, and both export under the same name."""
    export = copied / "export"
    shutil.copy(export / "teacher.onnx", export / "student.onnx")
    found = opened(whole, copied).exports["student"]
    assert found.size_bytes == found.fixed.stat().st_size == whole.figures["student"]["size_bytes"]
    x = np.random.default_rng(0).random((1, 3, 64, 64), np.float32)
    ours, original = (
        onnxruntime.InferenceSession(folder / "export" / "student.onnx").run(["y"], {"x": x})[0]
        for folder in (copied, whole.out)
    )
    np.testing.assert_array_equal(ours, original)


def test_a_full_disk_stops_the_search_and_keeps_what_was_done(
    whole: Whole, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(copied / "artifacts" / "search")
    plain_open, written = Path.open, []

    def full_after_three(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if mode == "a":
            written.append(path)
            if len(written) > 3:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return plain_open(path, mode, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", full_after_three)
        with pytest.raises(StoreError, match="No space left") as caught:
            opened(whole, copied).search  # noqa: B018
    assert "\n" not in str(caught.value)
    kept = [json.loads(line) for line in written[0].read_text().splitlines() if line]
    before = next((whole.out / "artifacts" / "search").glob("*.jsonl")).read_text().splitlines()
    assert kept == [json.loads(line) for line in before if line][:3]


def test_a_torn_line_costs_one_evaluation(whole: Whole, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (log,) = (copied / "artifacts" / "search").glob("*.jsonl")
    lines = log.read_text().splitlines()
    log.write_bytes("\n".join([*lines[:-1], lines[-1][: len(lines[-1]) // 2]]).encode() + b"\xff\n5\n[]")
    for result in (copied / "artifacts" / "search").glob("*.json"):
        result.unlink()
    calls = counting(monkeypatch)
    run = opened(whole, copied)
    assert (run.search.costs == opened(whole, whole.out).search.costs).all()
    assert len(run.baselines["random"].costs) == BUDGET
    # The one that was torn, and the teacher that it is compared with.
    assert calls == Counter(quality=2)


def test_a_finished_search_is_read_and_one_of_other_settings_is_not(
    whole: Whole, copied: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a proposal: array by array the same; any other budget or latency is another search."""
    original = opened(whole, copied)
    expected = {"auto": original.search} | original.baselines
    methods: list[str] = []

    def counted(*args: Any, **kwargs: Any) -> SearchResult:
        methods.append(kwargs["method"])
        return minimize(*args, **kwargs)

    monkeypatch.setattr(stages.search, "minimize", counted)
    again = opened(whole, copied)
    found = {"auto": again.search} | again.baselines
    assert not methods
    for method, result in found.items():
        for field in dataclasses.fields(SearchResult):
            ours, theirs = getattr(result, field.name), getattr(expected[method], field.name)
            np.testing.assert_array_equal(ours, theirs)
            assert type(ours) is type(theirs)
            assert getattr(ours, "dtype", None) == getattr(theirs, "dtype", None)
    other = Run(settings(root, search={"budget": BUDGET - 1}), RunStore(copied))
    assert len(other.search.costs) == BUDGET - 1
    assert methods == ["auto"]
    slower = opened(whole, copied)
    table = slower.bench.latency_table
    path, name = slower.space.sites[0].path, slower.space.options[0][-1]
    key = (table.site_keys[path], name)
    slower.bench.latency_table = dataclasses.replace(
        table, entries=dict(table.entries) | {key: dataclasses.replace(table.entries[key], median_ms=1e3)}
    )
    slower.space = again.space
    # Corrected by networks that were measured with the true latency, it would not be slower.
    slower.bench.latency_model = dataclasses.replace(
        again.bench.latency_model, table=slower.bench.latency_table, corrections={}
    )
    slow = slower.search.assignments[:, 0] == len(slower.space.options[0]) - 1
    assert (slower.search.costs[:, 1] > 1e3).tolist() == slow.tolist()
    assert not slow[slower.search.front].any()
    assert methods == ["auto", "auto"]


class FileDevice(FakeDevice):
    """Also runs files; the student's takes 3 ms, any other 7."""

    def load(self, path: Path) -> FakeRunnable:
        assert path.is_file()
        return FakeRunnable(nn.Identity(), 3.0 if path.name == "student.onnx" else 7.0, self.clock)


def test_a_device_that_runs_files_times_what_ships(whole: Whole, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(copied / "artifacts" / "measure")
    monkeypatch.setattr(stages.latency, "open_device", lambda name, threads: FileDevice())
    timed = opened(whole, copied).delivery.final_latency
    assert timed["teacher"].median_ms == pytest.approx(7.0)
    assert timed["student"].median_ms == pytest.approx(3.0)


def test_a_damaged_artifact_is_named(whole: Whole, copied: Path) -> None:
    path = next((copied / "artifacts" / "surrogates").glob("*.pt"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StoreError, match="damaged; delete it") as caught:
        refit(whole.config, copied)
    assert str(path) in str(caught.value)
    path.unlink()
    assert opened(whole, copied).surrogates.losses == opened(whole, whole.out).surrogates.losses


def test_two_cannot_work_in_one_folder(whole: Whole) -> None:
    with RunStore(whole.out).lock(), pytest.raises(StoreError, match="another netgraft"):
        refit(whole.config, whole.out)


def test_a_space_in_which_nothing_may_change_is_refused(root: Path, tmp_path: Path) -> None:
    run = Run(settings(root, space={"protect_top": 5}), RunStore(tmp_path))
    with pytest.raises(ConfigError, match="all 5 sites are protected"):
        run.search  # noqa: B018


def test_a_site_without_an_alternative_is_neither_ranked_nor_searched(root: Path, tmp_path: Path) -> None:
    """The most salient site is an up, which no operator of this pool fits: the next one is protected in its place."""
    run = Run(settings(root, space={"operators": ["drop"], "protect": ["ups.1"]}), RunStore(tmp_path))
    order = ["ups.1", "middle_blks.0"]
    scores = [len(order) - order.index(site.path) if site.path in order else 0 for site in run.sites]
    run.saliency = {"snip": np.array(scores, float)}
    assert run.without_alternative == ("ups.1",)
    assert run.protection.paths == ("middle_blks.0",)
    assert [site.path for site in run.open_sites] == ["encoders.0.0", "encoders.1.0", "decoders.1.0"]
    table, document = stage_table("saliency", run)
    assert document["without_alternative"] == ["ups.1"]
    cells = dict(zip(table.columns[0].cells, table.columns[-1].cells, strict=True))
    assert (cells["ups.1"], cells["middle_blks.0"], cells["encoders.0.0"]) == ("no alternative", "protected", "")


def test_a_size_that_the_network_cannot_halve_is_refused(tmp_path: Path) -> None:
    """Six levels need multiples of 64."""
    net = NafNet(NafNetShape(width=1, encoder_blocks=(0,) * 6, middle_blocks=0, decoder_blocks=(0,) * 6))
    save_weights(net, tmp_path / "deep.safetensors")
    config = parse_config({"size": [64, 80], "teacher": {"path": str(tmp_path / "deep.safetensors")}}, "test")
    with pytest.raises(ConfigError, match=r"\[64, 80\].*multiples of 64"):
        Run(config, RunStore(tmp_path / "run")).sites  # noqa: B018


def limited(whole: Whole, root: Path, folder: Path, **limits: float) -> Run:
    """The finished run's folder, continued with limits."""
    search = {**whole.config.search.model_dump(mode="json"), **limits}
    return Run(settings(root, search=search), RunStore(folder))


def test_the_student_keeps_to_every_limit_and_the_result_says_so(whole: Whole, root: Path, copied: Path) -> None:
    """Each limit excludes the teacher; the counts that the search went by are those of the student that is exported."""
    teacher = whole.figures["teacher"]
    run = limited(whole, root, copied)
    limits = {
        "max_latency_ms": 0.9 * teacher["latency_ms"]["median"],
        "max_macs": 0.9 * teacher["macs"],
        "max_params": 0.9 * teacher["params"],
        "max_size_bytes": 4 * 0.9 * teacher["params"],
        "min_psnr_db": run.teacher_validation_db - 2.9,
    }
    config = limited(whole, root, copied, **limits).config
    figures = refit(config, copied)
    student = figures["student"]
    assert {name: row["limit"] for name, row in student["limits"].items()} == limits
    for name, count in (("max_macs", "macs"), ("max_params", "params")):
        row = student["limits"][name]
        assert row["searched"] == row["delivered"] == student[count] <= limits[name]
        assert row["met"]
    assert student["limits"]["max_latency_ms"]["met"]
    assert student["limits"]["max_latency_ms"]["delivered"] == student["latency_ms"]["median"]
    assert student["limits"]["min_psnr_db"]["searched"] >= limits["min_psnr_db"]
    assert student["limits"]["max_size_bytes"]["searched"] <= limits["max_size_bytes"]
    assert student["limits"]["max_size_bytes"]["delivered"] == student["size_bytes"]
    again = Run(config, RunStore(copied))
    for row in again.search.front:
        taken = Footprint.of(again.student_of(again.name_row(again.search.assignments[row].tolist())), config.size)
        assert taken.macs <= limits["max_macs"]
        assert taken.params <= limits["max_params"]
    assert (again.search.costs[again.search.front] <= [2.9 + 1e-6, limits["max_latency_ms"]]).all()
    assert "max_latency_ms" in (copied / "report.html").read_text()


def test_a_file_that_is_larger_than_its_weights_is_warned_of(whole: Whole, root: Path, copied: Path) -> None:
    """The limit is on the weights; that the graph makes the file larger must not go unsaid."""
    least = 4 * whole.figures["student"]["params"]
    figures = refit(limited(whole, root, copied, max_size_bytes=float(least)).config, copied)
    row = figures["student"]["limits"]["max_size_bytes"]
    assert row["searched"] <= least < row["delivered"]
    assert not row["met"]
    (warning,) = figures["warnings"]
    assert warning.startswith(f"max_size_bytes = {least:g} was met in the search")
    assert warning in json.loads((copied / "result.json").read_text())["warnings"]
    assert limit_warnings({"max_latency_ms": {"limit": 5.0, "searched": 4.0, "delivered": 6.0, "met": False}})


def test_counts_that_no_student_has_are_refused_before_anything_is_trained(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says the least; with that as the limit the run would go on."""
    calls = counting(monkeypatch)
    with pytest.raises(SearchError, match=r"^max_macs = 1 cannot be met: the least possible is \d+$") as caught:
        refit(settings(root, search={"max_macs": 1.0}), tmp_path / "run")
    assert set(calls) == {"saliency"}
    least = float(str(caught.value).split()[-1])
    Run(settings(root, search={"max_macs": least}), RunStore(tmp_path / "run")).check_counts()
    with pytest.raises(SearchError, match="max_macs"):
        Run(settings(root, search={"max_macs": least - 1}), RunStore(tmp_path / "run")).check_counts()


def test_a_latency_that_no_student_has_is_refused_before_anything_is_evaluated(
    whole: Whole, root: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fastest_ms = whole.figures["ceiling"]["fastest_ms"]
    calls = counting(monkeypatch)
    with pytest.raises(SearchError, match=r"max_latency_ms = 0\.001 cannot be met: the least possible is") as caught:
        limited(whole, root, copied, max_latency_ms=0.001).search  # noqa: B018
    assert float(str(caught.value).split()[-1]) == pytest.approx(fastest_ms)
    assert not calls


def test_a_quality_that_nothing_has_is_told_with_the_nearest_and_the_evaluations_are_kept(
    whole: Whole, root: Path, copied: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the command line: one line, exit code 2; and the nearest, asked for, is met by evaluations that are kept."""
    (copied / "config.json").write_text(whole.config.model_dump_json())
    shutil.rmtree(copied / "artifacts" / "search")
    arguments = ["netgraft", "search", "--out", str(copied)]
    monkeypatch.setattr(sys, "argv", [*arguments, "--min-psnr-db", "90"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    found = re.search(
        rf"none of {BUDGET} evaluated assignments meets min_psnr_db = 90 \(nearest found ([\d.]+)\)", line
    )
    assert found is not None
    (log,) = (copied / "artifacts" / "search").glob("*.jsonl")
    assert len([text for text in log.read_text().splitlines() if text]) == BUDGET
    monkeypatch.setattr(sys, "argv", [*arguments, "--min-psnr-db", found[1], "--json"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["front"]


def test_a_baseline_that_misses_the_limits_stops_nothing(whole: Whole, root: Path, copied: Path) -> None:
    """Of all assignments one has the fewest parameters, which ten random ones do not hit."""
    table = limited(whole, root, copied, max_params=1e12).limits[0].of
    assert isinstance(table, list)
    least = sum(min(row) for row in table)
    run = limited(whole, root, copied, max_params=float(least))
    assert len(run.search.front) == 1
    assert sum(row[i] for row, i in zip(table, run.search.assignments[run.search.front[0]], strict=True)) == least
    assert len(run.baselines["random"].front) == 0
    assert len(run.baselines["random"].costs) == BUDGET


def test_a_slow_option_that_is_small_stays_where_size_is_limited(whole: Whole, root: Path, copied: Path) -> None:
    """Where drop is slow, keep is both faster and closer; but it has more parameters."""
    corrections = {("map", "drop"): 1e6}
    for limits, stays in (({}, False), ({"max_params": 1e12}, True)):
        run = limited(whole, root, copied, **limits)
        run.bench.latency_model = dataclasses.replace(
            opened(whole, copied).bench.latency_model, corrections=corrections
        )
        offered = [
            "drop" in names
            for site, names in zip(run.space.sites, run.space.options, strict=True)
            if site.kind == "block"
        ]
        assert set(offered) == {stays}


def test_where_nothing_loses_little_enough_the_choice_is_the_least_loss_and_says_so(
    whole: Whole, root: Path, copied: Path
) -> None:
    """The teacher, row 0, exceeds the limit: it is neither the student nor the knee, which is one of the front."""
    run = limited(whole, root, copied, max_latency_ms=9.0)
    costs = np.array([[0.0, 10.0], [3.5, 8.0], [4.0, 6.0], [9.0, 5.9]])
    run.search = dataclasses.replace(
        opened(whole, copied).search, costs=costs, front=np.array([1, 2, 3]), assignments=np.zeros((4, 4), int)
    )
    assert run.chosen == {"knee": 2, "fastest": 3, "fastest_within": 1, "chosen": 1}
    warning = run.choice_warning
    assert warning is not None
    assert "max_latency_ms = 9" in warning
    assert "max_loss_db = 3" in warning
    assert "3.500 dB" in warning
    _, document = stage_table("search", run)
    assert document["warnings"] == [warning]
    assert opened(whole, copied).choice_warning is None


def test_a_loss_beyond_its_limit_is_beyond_it_when_it_is_capped(whole: Whole, root: Path, copied: Path) -> None:
    """A PSNR of 1 dB allows losses above what they are capped at otherwise, 18 dB."""
    assert opened(whole, copied).cap_db == 18.0
    run = limited(whole, root, copied, min_psnr_db=1.0)
    assert 18.0 < run.teacher_validation_db - 1.0 < run.cap_db
