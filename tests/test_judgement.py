"""`netgraft evaluate` from end to end on a look-alike of every data set, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from skimage.metrics import peak_signal_noise_ratio

from lookalikes import LOOKALIKES, clean, degraded, dpdd, dpdd_dual, folder, gopro, gopro_lmdb, put, realblur
from netgraft.data.layouts import LAYOUTS
from netgraft.imaging import read_image
from terminal import Netgraft, Outcome


def document(outcome: Outcome) -> dict[str, Any]:
    assert outcome.returncode == 0, outcome.stderr
    return json.loads(outcome.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def refusal(outcome: Outcome) -> str:
    """The one line of an error that is the user's to mend."""
    assert outcome.returncode == 2, outcome
    lines = [line for line in outcome.stderr.splitlines() if line]
    assert len(lines) == 1, lines
    return lines[0]


def network_of_two_views(path: Path) -> Path:
    """Takes (1, 6, h, w), gives the left view back."""
    graph = helper.make_graph(
        [helper.make_node("Slice", ["x", "first", "last", "axis"], ["y"])],
        "left",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, "h", "w"])],
        [
            helper.make_tensor(name, TensorProto.INT64, [1], [value])
            for name, value in (("first", 0), ("last", 3), ("axis", 1))
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    entry = model.metadata_props.add()
    entry.key, entry.value = "size_multiple", "1"
    onnx.save(model, path)
    return path


def identity(path: Path, size: tuple[int | str, int | str] = ("h", "w")) -> Path:
    """Gives its image back."""
    shape = [1, 3, *size]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "same",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("name", LOOKALIKES)
def test_every_data_set(name: str, netgraft: Netgraft, checkpoint: Path, tmp_path: Path) -> None:
    """Four pairs each; the degraded images' PSNR is that of an independent implementation."""
    dataset = name.partition(" ")[0]
    root = tmp_path / "data"
    root.mkdir()
    LOOKALIKES[name](root)
    dual = dataset == "dpdd-dual"
    model = network_of_two_views(tmp_path / "left.onnx") if dual else checkpoint
    options = ["--dataset", dataset, "--root", root, "--json", "--out", tmp_path / "out.json"]
    incomplete = netgraft("evaluate", model, *options)
    if dataset == "folder":
        assert incomplete.returncode == 0
    else:
        published = LAYOUTS[dataset.replace("-", "_")].counts
        assert any(f"{count} pairs as published" in refusal(incomplete) for count in published.values())
        assert not (tmp_path / "out.json").exists()
    told = document(netgraft("evaluate", model, *options, "--partial"))
    protocol = told["protocol"]
    assert (protocol["images"], told["images"]) == (4, 4)
    assert protocol["bits"] == (16 if dataset.startswith("dpdd") else 8)
    assert protocol["views"] == ("dual" if dual else "single")
    dtype = np.uint16 if dataset.startswith("dpdd") else np.uint8
    if dataset == "reds-jpeg":
        frames = [read_image(root / f"val/val_blur_jpeg/00{n // 2}/{10 * (n % 2) + 9:08}.jpg") for n in range(4)]
    elif dual:
        views = [
            [np.roll(degraded(n, dtype=dtype), shift, axis=1).astype(float) for shift in (-1, 1)] for n in range(4)
        ]
        frames = [np.floor((left + right + 1) / 2).astype(dtype) for left, right in views]
    else:
        frames = [degraded(n, dtype=dtype) for n in range(4)]
    expected = [
        peak_signal_noise_ratio(clean(n, dtype=dtype), frame, data_range=np.iinfo(dtype).max)
        for n, frame in enumerate(frames)
    ]
    assert told["means"]["degraded"]["psnr_db"] == pytest.approx(np.mean(expected), abs=1e-6)
    low, high = (told["intervals"]["degraded"]["psnr_db"][edge] for edge in ("low", "high"))
    assert min(expected) <= low <= np.mean(expected) <= high <= max(expected)
    groups = {"hide": {"close-ups", "long-shot"}, "dpdd": {"indoor", "outdoor"}, "dpdd-dual": {"indoor", "outdoor"}}
    assert {row["group"] for row in told["groups"]} == groups.get(dataset, set())
    if dataset == "dpdd":
        indoor = next(row for row in told["groups"] if row["group"] == "indoor")
        assert indoor["means"]["degraded"]["psnr_db"] == pytest.approx(np.mean(expected[::2]), abs=1e-6)


def test_a_csv_says_its_protocol(netgraft: Netgraft, checkpoint: Path, tmp_path: Path) -> None:
    folder(tmp_path)
    table = tmp_path / "scores.csv"
    told = document(
        netgraft(
            "evaluate", checkpoint, "--dataset", "folder", "--root", tmp_path, "--csv", table, "--bins", 2, "--json"
        )
    )
    lines = table.read_text().splitlines()
    comments = [line for line in lines if line.startswith("#")]
    assert "# inference: tiles of 256x256 with an overlap of 32" in comments
    assert lines[len(comments)] == "network,name,group,psnr_db,ssim,ssim_matlab,mae,lpips"
    assert len(lines) == len(comments) + 1 + 2 * 4
    assert [row["images"] for row in told["bins"]] == [2, 2]
    hardest, easiest = (row["degraded_psnr_db"] for row in told["bins"])
    assert hardest[0] <= hardest[1] <= easiest[0] <= easiest[1]


def test_earlier_figures_of_the_same_protocol_alone(netgraft: Netgraft, checkpoint: Path, tmp_path: Path) -> None:
    folder(tmp_path)
    options = ["--dataset", "folder", "--root", tmp_path]
    first = tmp_path / "first.json"
    assert netgraft("evaluate", checkpoint, *options, "--out", first).returncode == 0
    told = document(netgraft("evaluate", checkpoint, *options, "--against", first, "--json"))
    assert told["against"][0] | {"of": "", "less": ""} == {
        "of": "", "less": "", "figure": "psnr_db", "mean": 0, "low": 0, "high": 0,
    }  # fmt: skip
    assert told["against"][0]["less"] == "restored of first.json"
    other = refusal(netgraft("evaluate", checkpoint, *options, "--inference", "whole", "--against", first))
    assert "inference 'whole' here, 'tiles of 256x256 with an overlap of 32' there" in other
    fewer = refusal(netgraft("evaluate", checkpoint, *options, "--limit", 2, "--against", first))
    assert "images 2 here, 4 there" in fewer
    stored = json.loads(first.read_text())
    damaged = tmp_path / "damaged.json"
    row = stored["scores"]["restored"][0]
    for change in (
        {"protocol": None},
        {"scores": None},
        {"scores": []},
        {"scores": {"restored": [{"name": "0"}]}},
        {"scores": {"restored": [row | {"psnr_db": "much"}]}},
    ):
        damaged.write_text(json.dumps(stored | change))
        assert "no evaluation" in refusal(netgraft("evaluate", checkpoint, *options, "--against", damaged))
    assert "no evaluation" in refusal(netgraft("evaluate", checkpoint, *options, "--against", checkpoint))


def test_equal_images_are_no_obstacle(netgraft: Netgraft, checkpoint: Path, tmp_path: Path) -> None:
    """Their PSNR is infinite, which JSON cannot hold; a difference of two such is none."""
    folder(tmp_path)
    for path in (tmp_path / "degraded").iterdir():
        shutil.copy(tmp_path / "clean" / path.name, path)
    same = identity(tmp_path / "same.onnx")
    options = ["--dataset", "folder", "--root", tmp_path, "--json", "--out", tmp_path / "first.json"]
    told = document(netgraft("evaluate", same, *options))
    assert told["means"]["restored"]["psnr_db"] is None
    assert told["differences"][0]["mean"] == 0
    assert "NaN" not in (tmp_path / "first.json").read_text()
    again = document(netgraft("evaluate", same, *options[:-2], "--against", tmp_path / "first.json"))
    assert again["against"][0]["mean"] == 0


def test_what_cannot_be_written_or_parted_is_refused_before_the_work(
    netgraft: Netgraft, checkpoint: Path, tmp_path: Path
) -> None:
    folder(tmp_path)
    options = ["--dataset", "folder", "--root", tmp_path]
    for option in ("--out", "--csv"):
        assert "is a folder" in refusal(netgraft("evaluate", checkpoint, *options, option, tmp_path))
    assert "there are 4 images" in refusal(netgraft("evaluate", checkpoint, *options, "--bins", 5))
    message = refusal(netgraft("evaluate", checkpoint, *options, "--strength", 2, 4))
    assert "come degraded, --strength would change nothing" in message


def test_names_that_are_taken_or_have_a_sign_in_them(netgraft: Netgraft, checkpoint: Path, tmp_path: Path) -> None:
    folder(tmp_path)
    options = ["--dataset", "folder", "--root", tmp_path, "--json"]
    assert "give another name" in refusal(netgraft("evaluate", f"degraded={checkpoint}", *options))
    inside = tmp_path / "rate=0.1"
    inside.mkdir()
    shutil.copy(checkpoint, inside / "net.safetensors")
    told = document(netgraft("evaluate", inside / "net.safetensors", f"protocol={checkpoint}", *options))
    assert list(told["networks"]) == ["net", "protocol"]
    assert told["protocol"]["images"] == 4
    assert set(told["means"]) == {"degraded", "net", "protocol"}


def test_frames_of_one_video_are_no_independent_evidence(netgraft: Netgraft, checkpoint: Path, tmp_path: Path) -> None:
    """GoPro's frames are resampled by video: here two, so that each interval ends at their means."""
    gopro(tmp_path)
    told = document(netgraft("evaluate", checkpoint, "--dataset", "gopro", "--root", tmp_path, "--partial", "--json"))
    assert told["intervals_are"] == "95 %, bootstrap over 2 scenes"
    psnrs = [peak_signal_noise_ratio(clean(n), degraded(n), data_range=255) for n in range(4)]
    ends = sorted([np.mean(psnrs[:2]), np.mean(psnrs[2:])])
    found = told["intervals"]["degraded"]["psnr_db"]
    assert [found["low"], found["high"]] == pytest.approx(ends, abs=1e-6)


def test_whole_images_are_not_run_in_the_tiles_of_a_fixed_file(
    netgraft: Netgraft, checkpoint: Path, tmp_path: Path
) -> None:
    folder(tmp_path)
    fixed = identity(tmp_path / "fixed.onnx", (32, 32))
    options = ["--dataset", "folder", "--root", tmp_path]
    message = refusal(netgraft("evaluate", fixed, *options, "--inference", "whole", "--size", 32))
    assert "runs in tiles of that size alone" in message


def test_whole_images_tiles_and_crops(netgraft: Netgraft, checkpoint: Path, tmp_path: Path) -> None:
    folder(tmp_path)
    options = ["--dataset", "folder", "--root", tmp_path, "--json"]
    crop = document(netgraft("evaluate", checkpoint, *options, "--inference", "crop", "--size", 32))
    assert crop["protocol"]["inference"] == "central crop of 32"
    expected = [
        peak_signal_noise_ratio(clean(n)[8:40, 16:48], degraded(n)[8:40, 16:48], data_range=255) for n in range(4)
    ]
    assert crop["means"]["degraded"]["psnr_db"] == pytest.approx(np.mean(expected), abs=1e-6)
    assert "64x48 pixels" in refusal(netgraft("evaluate", checkpoint, *options, "--inference", "crop", "--size", 49))
    whole = document(netgraft("evaluate", checkpoint, *options, "--inference", "whole"))
    tiles = document(netgraft("evaluate", checkpoint, *options, "--size", 32))
    assert whole["protocol"]["inference"] == "whole"
    assert tiles["protocol"]["inference"] == "tiles of 32x32 with an overlap of 8"
    assert "--size N" in refusal(netgraft("evaluate", checkpoint, *options, "--inference", "crop"))


def test_local_statistics_are_of_the_network(netgraft: Netgraft, checkpoint: Path, tmp_path: Path) -> None:
    folder(tmp_path)
    told = document(
        netgraft(
            "evaluate",
            checkpoint,
            "--dataset",
            "folder",
            "--root",
            tmp_path,
            "--tlc",
            32,
            "--inference",
            "whole",
            "--json",
        )
    )
    assert told["networks"]["restored"]["statistics"] == "local (TLC 32x32)"


def test_two_networks_in_pairs(netgraft: Netgraft, checkpoint: Path, tmp_path: Path) -> None:
    folder(tmp_path)
    shutil.copy(checkpoint, tmp_path / "other.safetensors")
    told = document(
        netgraft(
            "evaluate",
            checkpoint,
            f"copy={tmp_path / 'other.safetensors'}",
            "--dataset",
            "folder",
            "--root",
            tmp_path,
            "--json",
        )
    )
    pairs = {(row["of"], row["less"]): row["mean"] for row in told["differences"]}
    assert pairs["copy", "tiny"] == 0
    assert pairs["tiny", "degraded"] == pytest.approx(
        told["means"]["tiny"]["psnr_db"] - told["means"]["degraded"]["psnr_db"]
    )
    assert "called tiny" in refusal(
        netgraft("evaluate", checkpoint, checkpoint, "--dataset", "folder", "--root", tmp_path)
    )


def test_bad_data_sets_name_their_culprits(netgraft: Netgraft, checkpoint: Path, tmp_path: Path) -> None:
    """Nothing is written and nothing but the error is told."""
    out = tmp_path / "out.json"

    def complaint(root: Path, dataset: str = "folder", *more: object) -> str:
        message = refusal(netgraft("evaluate", checkpoint, "--dataset", dataset, "--root", root, "--out", out, *more))
        assert not out.exists()
        return message

    folder(tmp_path / "unequal")
    put(tmp_path / "unequal/clean/2.png", clean(2, (48, 60)))
    assert "pairs of unequal size: 2 (64x48, 60x48)" in complaint(tmp_path / "unequal")

    folder(tmp_path / "swapped")
    (tmp_path / "swapped/clean/1.png").rename(tmp_path / "swapped/clean/x.png")
    (tmp_path / "swapped/clean/3.png").rename(tmp_path / "swapped/clean/1.png")
    (tmp_path / "swapped/clean/x.png").rename(tmp_path / "swapped/clean/3.png")
    message = complaint(tmp_path / "swapped")
    assert "do not show the same: 1 (correlation" in message
    assert "3 (correlation" in message
    assert "0 (" not in message

    folder(tmp_path / "missing")
    (tmp_path / "missing/clean/1.png").unlink()
    assert "without a partner" in complaint(tmp_path / "missing")
    assert "the choices are" in complaint(tmp_path / "missing", "hide", "--split", "testing")

    dpdd(tmp_path / "dpdd")
    assert "--bits 12" in complaint(tmp_path / "dpdd", "dpdd", "--partial", "--bits", 12)
    folder(tmp_path / "bytes")
    assert "8 bits a channel" in complaint(tmp_path / "bytes", "folder", "--bits", 16)

    dpdd_dual(tmp_path / "dual")
    assert "which dpdd_dual does not give" in complaint(tmp_path / "dual", "dpdd-dual", "--partial")

    gopro_lmdb(tmp_path / "lmdb")
    data = tmp_path / "lmdb/test/target.lmdb/data.mdb"
    data.write_bytes(data.read_bytes()[:-4096])
    assert "cut short" in complaint(tmp_path / "lmdb", "gopro", "--partial")


def test_aligned_scores_need_images_of_one_scene(netgraft: Netgraft, checkpoint: Path, tmp_path: Path) -> None:
    realblur("J", "RealBlur-J")(tmp_path)
    dpdd(tmp_path / "dpdd")
    sixteen = ["--dataset", "dpdd", "--root", tmp_path / "dpdd", "--partial", "--aligned", "--bits", 16]
    assert "compared in 8 bits" in refusal(netgraft("evaluate", checkpoint, *sixteen))
    options = ["--dataset", "realblur-j", "--root", tmp_path, "--partial", "--aligned"]
    told = document(netgraft("evaluate", checkpoint, *options, "--json"))
    assert told["protocol"]["alignment"] == "RealBlur's homography"
    assert told["metrics"]["lpips"] == "none: not defined on aligned images"
    put(tmp_path / "RealBlur-J/scene002/blur/blur_2.png", np.full((48, 64, 3), 9, np.uint8))
    assert "scene002/blur_2, degraded: an image of one color" in refusal(netgraft("evaluate", checkpoint, *options))


def test_attacks_beside_the_scores(netgraft: Netgraft, checkpoint: Path, tmp_path: Path) -> None:
    """An untrained network, whose output is nearly its input's, loses what the attack adds, and more with more."""
    folder(tmp_path / "data")
    options = ["--dataset", "folder", "--root", tmp_path / "data", "--robustness", "--json"]
    told = document(netgraft("evaluate", checkpoint, *options))
    rows = told["robustness"]["rows"]
    assert [row["bound_of_255"] for row in rows] == pytest.approx([1, 2, 4])
    drops = [row["drop_db"]["mean"] for row in rows]
    assert 0 < drops[0] < drops[1] < drops[2]
    left = network_of_two_views(tmp_path / "left.onnx")
    assert "has no gradients" in refusal(netgraft("evaluate", left, *options))
