"""The paper's experiment from end to end, in miniature: what it writes, that it continues, and what it refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lookalikes import paper_root
from netgraft.cost import Speed, estimate_seconds
from netgraft.errors import ConfigError, DatasetError
from netgraft.nets.checkpoint import save_weights
from netgraft.nets.load import load_teacher
from netgraft.nets.nafnet import NafNet, NafNetShape
from netgraft.published import paper_tables
from netgraft.reproduction import Experiment, official, reproduce, require_data
from terminal import Netgraft


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    folder = tmp_path_factory.mktemp("paper")
    paper_root(folder / "data")
    torch.manual_seed(0)
    shape = NafNetShape(width=4, encoder_blocks=(1, 1, 1, 2), middle_blocks=1, decoder_blocks=(1, 1, 1, 1))
    net = NafNet(shape)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    save_weights(net, folder / "NAFNet-tiny.safetensors")
    return Experiment(teacher=folder / "NAFNet-tiny.safetensors", root=folder / "data", tiny=True)


@pytest.mark.slow
def test_from_the_checkpoint_to_the_tables(experiment: Experiment, netgraft: Netgraft, tmp_path: Path) -> None:
    options = [
        "--root",
        experiment.root,
        "--teacher",
        experiment.teacher,
        "--tiny",
        "--out",
        tmp_path / "out",
        "--json",
    ]
    first = netgraft("reproduce", "paper", *options)
    assert first.returncode == 0, first.stderr
    told = json.loads(first.stdout.splitlines()[-1])
    assert "estimated, with PyTorch on cpu" in first.stdout
    assert sum(told["estimated_seconds"].values()) > 0
    evaluations = told["evaluations"]
    expected = {"gopro", "hide", "realblur_j", "realblur_j_aligned", "realblur_r", "realblur_r_aligned", "dpdd"}
    assert set(evaluations) == expected
    for name in expected - {"dpdd"}:
        assert list(evaluations[name]["networks"]) == ["teacher", "fastest", "knee"]
        assert evaluations[name]["protocol"]["inference"] == "whole"
        assert all(entry["statistics"] == "local (TLC 256x256)" for entry in evaluations[name]["networks"].values())
    assert list(evaluations["dpdd"]["networks"]) == ["teacher", "student", "teacher tuned", "student tuned"]
    assert {row["group"] for row in evaluations["dpdd"]["groups"]} == {"indoor", "outdoor"}
    tables = (tmp_path / "out/tables.md").read_text()
    assert "In miniature" in tables
    assert "| indoor (1) | 24.44 / .766 |" in tables
    assert "2 of 1111 images, whole, 8 bit, not aligned" in tables

    # What is done is not done again: the evaluations' files stay as they are.
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/evaluations").iterdir()}
    again = netgraft("reproduce", "paper", *options)
    assert again.returncode == 0, again.stderr
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "out/evaluations").iterdir()}
    assert json.loads(again.stdout.splitlines()[-1])["evaluations"] == evaluations
    assert (tmp_path / "out/checked.json").is_file()

    # What was made of other images is not taken for theirs.
    hide = experiment.root / "HIDE_dataset" / "test" / "test-close-ups" / "6.png"
    kept = hide.read_bytes()
    shutil.copy(experiment.root / "HIDE_dataset" / "GT" / "6.png", hide)
    try:
        changed = json.loads(netgraft("reproduce", "paper", *options).stdout.splitlines()[-1])["evaluations"]
    finally:
        hide.write_bytes(kept)
    assert changed["hide"]["means"]["teacher"] != evaluations["hide"]["means"]["teacher"]
    assert changed["gopro"] == evaluations["gopro"]


def test_an_estimate_is_all_that_is_asked_for(experiment: Experiment, netgraft: Netgraft, tmp_path: Path) -> None:
    outcome = netgraft(
        *("reproduce", "paper", "--root", experiment.root, "--teacher", experiment.teacher, "--tiny", "--estimate"),
        *("--out", tmp_path / "out", "--json"),
    )
    assert outcome.returncode == 0, outcome.stderr
    seconds = json.loads(outcome.stdout.splitlines()[-1])["estimated_seconds"]
    assert {"distillation", "search", "fine-tuning", "evaluation, gopro", "adaptation"} <= set(seconds)
    assert not (tmp_path / "out").exists()
    # Nothing need be there: the paper's network untrained, and what is published of the data sets.
    outcome = netgraft("reproduce", "paper", "--estimate", "--json")
    assert json.loads(outcome.stdout.splitlines()[-1])["estimated_seconds"]["evaluation, gopro"] > 60
    assert "give --root, --teacher, --out as well" in netgraft("reproduce", "paper").stderr


def test_the_estimate_is_counted_work_over_speed(experiment: Experiment) -> None:
    """At 1 MAC and pixel a second, the seconds of an evaluation are its MACs and its pixels."""
    teacher = load_teacher(experiment.teacher)
    full = replace(experiment, tiny=False)
    counts = {"gopro": 1111, "hide": 2025, "realblur_j": 980, "realblur_r": 980, "dpdd": 76}
    speed = Speed(forward=1.0, training=1.0, scoring=1.0, latency_ms=0.0)
    seconds = estimate_seconds(full, teacher, counts, speed)
    a_pixel = teacher.macs(256, 256) / 256**2
    assert seconds["evaluation, gopro"] == pytest.approx(1111 * 1280 * 720 * (3 * a_pixel + 4))
    assert seconds["fine-tuning"] == pytest.approx(2 * 2 * 5000 * 8 * 192**2 * a_pixel)
    assert seconds["search"] == pytest.approx(100 * 16 * 256**2 * a_pixel)


def test_data_sets_are_asked_for_before_anything_is_done(experiment: Experiment, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"gopro train has 2103 pairs as published, but here are 4"):
        require_data(replace(experiment, tiny=False))
    shutil.copytree(experiment.root, tmp_path / "data")
    shutil.rmtree(tmp_path / "data/RealBlur")
    with pytest.raises(DatasetError, match="lacks realblur: put it into a folder called RealBlur"):
        require_data(replace(experiment, root=tmp_path / "data"))


def test_without_data_there_is_only_an_estimate(experiment: Experiment, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can be estimated, not repeated"):
        reproduce(replace(experiment, root=None), tmp_path / "out")


def test_another_network_is_not_the_papers(experiment: Experiment, netgraft: Netgraft, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"width 4 and blocks \[1, 1, 1, 2, 1, 1, 1, 1, 1\]; the paper's teacher is"):
        official(replace(experiment, tiny=False))
    options = ["--root", experiment.root, "--teacher", experiment.teacher, "--out", tmp_path]
    outcome = netgraft("reproduce", "article", *options)
    assert outcome.returncode == 2
    assert "the choices are paper" in outcome.stderr


def test_the_recipe_is_the_papers(experiment: Experiment) -> None:
    config = replace(experiment, tiny=False).run_config("fastest")
    assert (config.space.sites, len(config.space.operators) + 1) == ("paper", 7)
    assert (config.search.method, config.search.choose) == ("bayes", "fastest")
    assert config.distill.data_fraction == 0.25
    assert replace(experiment, tiny=False).run_config("knee").search.choose == "knee"


def test_images_without_an_end_stay_readable() -> None:
    """PSNR of equal images is infinite, which JSON does not know."""
    networks = ("teacher", "fastest", "knee", "teacher tuned", "student", "student tuned")
    means = {name: {"psnr_db": None, "ssim": 1.0, "ssim_matlab": 1.0} for name in networks}
    protocol = {"published": None, "images": 1, "inference": "whole", "bits": 8, "alignment": "none"}
    told = {
        "protocol": protocol,
        "images": 1,
        "intervals": {name: {"psnr_db": {"mean": None, "low": None, "high": None}} for name in networks},
        "groups": [],
        "differences": [],
        "means": means,
    }
    network = {"latency_ms": {"median": 2.0}, "macs": 2e9, "params": 3e6}
    run = {"teacher": network, "student": network, "device": {"backend": "a", "hardware": "b"}}
    tables = paper_tables(
        {
            "paper": "p",
            "tiny": False,
            "evaluations": {"gopro": told, "dpdd": told},
            "refit": {"fastest": run, "knee": run},
        }
    )
    assert "infinite [infinite, infinite] / 1.0000 / 1.0000" in tables
    assert "| GMACs | 65 | 2.00 | 68 | 2.00 |  | 2.00 |" in tables
