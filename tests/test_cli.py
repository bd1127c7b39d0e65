"""The command line as a user meets it: what it prints, what it writes, and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from netgraft.commands.console import progress_bars
from netgraft.imaging import read_image
from netgraft.nets.load import load_teacher
from netgraft.nets.maxim import Maxim, MaximShape
from netgraft.nets.maxim_checkpoint import MaximNetwork, save_maxim
from terminal import Netgraft, Outcome


def photo(path: Path, mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], len(mode)), dtype=np.uint8)
    Image.fromarray(pixels.squeeze(), mode=None if mode == "RGB" else mode).save(path)
    return path


def refused(outcome: Outcome, *words: str) -> None:
    """One line on stderr that holds the words, exit code 2, no traceback."""
    assert outcome.returncode == 2, outcome.stderr
    assert outcome.stderr.startswith("netgraft: ")
    assert outcome.stderr.count("\n") == 1, outcome.stderr
    for word in words:
        assert word in outcome.stderr


def test_restore_writes_a_photo_of_the_same_size(netgraft: Netgraft, checkpoint: Path, tmp_path: Path) -> None:
    source, target = photo(tmp_path / "in.png"), tmp_path / "out.png"
    outcome = netgraft("restore", source, "-o", target, "--model", checkpoint, "--json")
    assert outcome.returncode == 0, outcome.stderr
    assert json.loads(outcome.stdout.splitlines()[-1]) == {"restored": [str(target)]}
    # A new network predicts a residual from random weights; what must hold here is size and type.
    assert read_image(target).shape == read_image(source).shape


def test_restore_does_a_folder_and_keeps_the_good_ones(netgraft: Netgraft, checkpoint: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "photos", tmp_path / "restored"
    folder.mkdir()
    photo(folder / "a.png")
    (folder / "b.png").write_bytes(b"not an image")
    photo(folder / "c.png")
    outcome = netgraft("restore", folder, "-o", out, "--model", checkpoint)
    refused(outcome, "b.png")
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "c.png"]


def test_bad_photos_are_refused_in_one_line(netgraft: Netgraft, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    cases = {
        tmp_path / "missing.png": "missing.png",
        tmp_path / "empty.png": "empty.png",
        photo(tmp_path / "alpha.png", "RGBA"): "alpha",
        photo(tmp_path / "ink.jpg", "CMYK"): "CMYK",
    }
    for path, word in cases.items():
        target = tmp_path / "out.png"
        refused(netgraft("restore", path, "-o", target, "--model", checkpoint), word)
        assert not target.exists()


def test_restore_never_overwrites_its_input(netgraft: Netgraft, checkpoint: Path, tmp_path: Path) -> None:
    source = photo(tmp_path / "in.png")
    before = source.read_bytes()
    refused(netgraft("restore", source, "-o", tmp_path, "--model", checkpoint), "overwritten")
    assert source.read_bytes() == before


def test_bad_models_are_refused_in_one_line(netgraft: Netgraft, tmp_path: Path) -> None:
    source, target = photo(tmp_path / "in.png"), tmp_path / "out.png"
    (tmp_path / "cut.onnx").write_bytes(b"\x08\x07")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04")
    for name in ("cut.onnx", "cut.pth", "missing.safetensors"):
        refused(netgraft("restore", source, "-o", target, "--model", tmp_path / name), name)
    assert not target.exists()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("[search]\nbudgte = 3\n", ("budgte", "budget")),
        ('preset = "dmeo"\n', ("dmeo", "did you mean 'demo'")),
        ('[space]\noperators = ["conv5"]\n', ("conv5", "conv3")),
        ('[saliency]\nmetrics = ["snap"]\n', ("snap", "snip")),
        ('[device]\nname = "onnxruntim"\n', ("onnxruntim", "did you mean 'onnxruntime'")),
        ('[data]\nsource = "gopra"\n', ("gopra", "did you mean 'gopro'")),
        ("size = [100, 100]\n", ("multiples of 16",)),
        ("search = 3\n", ("search",)),
        ("not toml", ("TOML",)),
    ],
)
def test_bad_configs_name_the_key_and_the_choices(
    netgraft: Netgraft, tmp_path: Path, config: str, words: tuple[str, ...]
) -> None:
    path = tmp_path / "run.toml"
    path.write_text(config)
    refused(netgraft("run", path, "--out", tmp_path / "out"), *words)


def test_a_run_needs_a_config_or_a_preset(netgraft: Netgraft, tmp_path: Path) -> None:
    refused(netgraft("run", "--out", tmp_path / "out"), "--preset demo")


def test_an_unwritable_run_folder_is_refused(netgraft: Netgraft, tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.touch()
    refused(netgraft("run", "--preset", "tiny", "--out", blocker / "run"), "run folder")


def test_a_missing_data_folder_is_refused(netgraft: Netgraft, tmp_path: Path) -> None:
    outcome = netgraft("evaluate", "embedded", "--dataset", "gopro", "--root", tmp_path / "nowhere")
    refused(outcome, "nowhere")


def test_devices_lists_the_runtime_that_is_here(netgraft: Netgraft) -> None:
    outcome = netgraft("devices", "--check", "--json")
    rows = {row["name"]: row for row in json.loads(outcome.stdout.splitlines()[-1])["devices"]}
    assert rows["onnxruntime"]["available"]
    assert rows["onnxruntime"]["check"]["max_abs_error"] < 1e-4


def test_train_stops_and_continues_like_one_that_did_not(netgraft: Netgraft, tmp_path: Path) -> None:
    recipe = ["--width", 4, "--encoder", "1", "--decoder", "1", "--crops", "2:32:2,2:48:1"]
    whole = netgraft("train", "--out", tmp_path / "whole", *recipe, "--json")
    assert whole.returncode == 0, whole.stderr
    document = json.loads(whole.stdout.splitlines()[-1])
    assert document["steps"] == 4
    parts = tmp_path / "parts"
    for _ in range(4):
        # No time at all: each session does a single step and leaves a checkpoint.
        assert netgraft("train", "--out", parts, *recipe, "--minutes", 0).returncode == 0
    assert (parts / "weights.safetensors").read_bytes() == (tmp_path / "whole" / "weights.safetensors").read_bytes()


def test_a_pretrained_network_of_any_kind_learns_on(netgraft: Netgraft, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Maxim(MaximShape(width=4, stages=1, groups=1, bottlenecks=0, high_side=2, low_side=2)).eval()
    save_maxim(MaximNetwork(module=net, task="denoising", source="a test"), tmp_path / "start.safetensors")
    recipe = ["--crops", "2:32:1", "--warmup", 1, "--out", tmp_path / "out"]
    done = netgraft("train", "--start", tmp_path / "start.safetensors", *recipe)
    assert done.returncode == 0, done.stderr
    learned = load_teacher(tmp_path / "out" / "weights.safetensors")
    assert learned.description == "MAXIM-1, width 4, for denoising"
    # The file is of half precision: rounding alone is no learning.
    begun, ended = net.state_dict(), learned.module.state_dict()
    assert not torch.equal(ended["stages.0.inputs.0.weight"], begun["stages.0.inputs.0.weight"].half().float())
    # From other weights it would be another training.
    other = netgraft("train", "--start", tmp_path / "out" / "weights.safetensors", *recipe)
    refused(other, "another training")
    refused(netgraft("train", "--start", "x.pth", "--width", 8, "--out", tmp_path / "new"), "--width", "new NAFNet")
    mine = netgraft("train", "--model", "custom_network:restorer", "--crops", "2:32:1", "--out", tmp_path / "mine")
    assert mine.returncode == 0, mine.stderr
    assert load_teacher(tmp_path / "mine" / "weights.safetensors", factory="custom_network:restorer").params


def test_a_log_hears_of_long_work_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing in the first half minute, then a line in each."""
    now = [0.0]
    monkeypatch.setattr("netgraft.commands.console.monotonic", lambda: now[0])
    with progress_bars() as progress:
        for second in range(100):
            now[0] = float(second)
            progress("distill", second, 100)
    assert capsys.readouterr().err.splitlines() == ["distill 30/100", "distill 60/100", "distill 90/100"]


def test_the_installed_command_leaves_with_the_exit_code(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "netgraft.cli", "run", "--preset", "dmeo", "--out", str(tmp_path)]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (outcome.returncode, outcome.stdout) == (2, "")
    assert outcome.stderr.startswith("netgraft: unknown preset 'dmeo'")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--bogus"], ["No such option: --bogus", "see netgraft run --help"]),
        (["run"], ["Missing option '--out'", "see netgraft run --help"]),
        (["rnu"], ["No such command 'rnu'", "see netgraft --help"]),
        (["train", "--out", "x", "--middle", "one"], ["--middle", "valid integer", "see netgraft train --help"]),
    ],
)
def test_a_wrong_command_line_is_refused_in_one_line(
    netgraft: Netgraft, arguments: list[str], words: list[str]
) -> None:
    refused(netgraft(*arguments), *words)


def test_an_interrupted_run_says_that_it_can_continue(
    netgraft: Netgraft, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("netgraft.pipeline.refit", interrupted)
    outcome = netgraft("run", "--preset", "tiny", "--out", tmp_path / "run")
    assert outcome.returncode == 130
    assert outcome.stderr == "netgraft: stopped; the same command continues\n"


def test_without_arguments_the_help_is_shown(netgraft: Netgraft) -> None:
    outcome = netgraft()
    assert outcome.returncode == 0
    assert "Commands:" in outcome.stdout


def test_the_help_in_the_docs_is_current() -> None:
    script = Path(__file__).parents[1] / "docs" / "generate_cli.py"
    outcome = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
