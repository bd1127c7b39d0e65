"""Runs in which each block is in single precision or in 8 bits, and networks that learn to be rounded."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from netgraft.config import RunConfig, parse_config
from netgraft.data.photos import photos
from netgraft.errors import ConfigError
from netgraft.imaging import write_image
from netgraft.nets.checkpoint import save_weights
from netgraft.nets.nafnet import NafNet, NafNetShape, start_residuals
from netgraft.nets.quantized import QuantizedBlock, has_rounding
from netgraft.pipeline import refit
from netgraft.stages import Run
from netgraft.stages.forms import Form
from netgraft.store import RunStore

torch.set_num_threads(1)

CHOSEN = {"encoders.0.0": "keep@int8", "middle_blks.0": "naf_static@int8", "decoders.0.0": "conv3_res"}


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
    for split, count in (("train", 2), ("validation", 1), ("test", 2)):
        (folder / "photos" / split).mkdir(parents=True)
        for photo in photos(split)[:count]:
            write_image(folder / "photos" / split / f"{photo.name}.png", photo.image[100:196, 100:212])
    return folder


def settings(root: Path, device: str, **finetune: Any) -> RunConfig:
    values: dict[str, Any] = {
        "size": [64, 64],
        "teacher": {"path": str(root / "teacher.safetensors")},
        "data": {"source": "sharp", "root": str(root / "photos"), "strength_px": [2.0, 6.0]},
        "saliency": {"metrics": ["snip"], "crops": 2, "crop": 32},
        "space": {
            "sites": ["encoders.0.0", "middle_blks.0", "decoders.0.0"],
            "operators": ["drop", "naf_static", "conv3_res"],
            "protect_top": 0,
            "protect_by": "snip",
        },
        "distill": {"steps": 2, "batch": 2, "crop": 32, "data_fraction": 1.0},
        "device": {
            "name": device,
            "samples": 2,
            "whole_samples": 2,
            "final_samples": 5,
            "check_networks": 3,
            "calibration": 2,
        },
        "search": {"budget": 8, "crops": 2, "calibration": 1, "max_loss_db": 3.0},
        "finetune": {"steps": 2, "batch": 2, "crop": 32} | finetune,
    }
    return parse_config(values, "test")


@pytest.fixture(scope="module")
def mixed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose choice is fixed, so that both precisions occur."""

    class Fixed(Run):
        @cached_property
        def assignment(self) -> dict[str, str]:  # type: ignore[override]
            return dict(CHOSEN)

    return Fixed(settings(root, "onnxruntime:mixed"), RunStore(tmp_path_factory.mktemp("mixed")))


def test_every_operator_that_convolves_is_on_offer_in_both_precisions(mixed: Run) -> None:
    single = ("keep", "drop", "naf_static", "conv3_res")
    rounded = ("keep@int8", "naf_static@int8", "conv3_res@int8")
    names = set(mixed.bench.block_sessions["block:8@1"]) - {"(reference)"}
    assert names == {*single, *rounded}
    assert set(mixed.space.options[0]) <= names
    for path in CHOSEN:
        # Rounding is an error on top.
        for name in ("naf_static", "conv3_res"):
            assert mixed.surrogates.errors[path, f"{name}@int8"] != mixed.surrogates.errors[path, name]
        assert 0 < mixed.surrogates.errors[path, "keep@int8"] < 0.1


def test_quality_is_judged_with_the_rounding(mixed: Run) -> None:
    """A student of blocks in 8 bits is another network than that of the same blocks, as a judge sees it."""
    rounded = dict.fromkeys(CHOSEN, "keep@int8")
    assert mixed.scores.psnr_db(rounded) != pytest.approx(mixed.scores.psnr_db({}), abs=1e-6)
    assert mixed.scores.psnr_db(rounded) == pytest.approx(mixed.scores.psnr_db({}), abs=0.5)


def test_assembled_blocks_take_their_ranges_from_what_they_get(mixed: Run) -> None:
    student = mixed.student_of(CHOSEN)
    block = student.get_submodule("middle_blks.0")
    assert isinstance(block, QuantizedBlock)
    seen: list[torch.Tensor] = []
    block.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        student(mixed.calibration)
    # Up to what the last step of calibration changes.
    assert float(block.rounded[0].high) == pytest.approx(float(seen[0].max()), rel=0.05)  # type: ignore[index, union-attr]


def test_what_ships_has_the_chosen_blocks_in_8_bits(mixed: Run) -> None:
    student, _ = mixed.finetuned
    assert not has_rounding(student)
    form = mixed.delivery.forms["mixed"]["student"]
    assert isinstance(form, Form), form
    graph = onnx.load(form.files[0]).graph
    scales = [node.name for node in graph.node if node.op_type == "DequantizeLinear"]
    assert scales
    made_by = {output: node for node in graph.node for output in node.output}
    rounded = {
        node.name
        for node in graph.node
        if node.op_type == "Conv" and node.input[1] in made_by and made_by[node.input[1]].op_type == "DequantizeLinear"
    }
    assert {name.partition("_")[0].split(".")[0] for name in rounded} <= {"encoders", "middle"}
    assert any(name.startswith("encoders.0.0.") for name in rounded)
    assert any(name.startswith("middle_blks.0.") for name in rounded)
    assert not any(name.startswith("decoders.0.0.") for name in rounded)
    restored = form.open().run(mixed.validation[0][:1].numpy())
    with torch.no_grad():
        wanted = student(mixed.validation[0][:1]).numpy()
    assert 0 < float(np.abs(restored - wanted).mean()) < 0.05


def test_weights_in_8_bits_count_one_byte(mixed: Run) -> None:
    single, rounded = (mixed.footprints["block:8@1", name] for name in ("keep", "keep@int8"))
    assert rounded.params == single.params
    assert rounded.macs == single.macs
    assert 0.25 < rounded.size_bytes / single.size_bytes < 0.5


def test_a_whole_run_mixes_precisions(root: Path, tmp_path: Path) -> None:
    figures = refit(settings(root, "onnxruntime:mixed"), tmp_path / "run")
    assert figures["device"]["precision"] == "mixed"
    assert (tmp_path / "run" / "report.html").stat().st_size > 0
    again = refit(settings(root, "onnxruntime:mixed"), tmp_path / "run")
    assert again["student"] == figures["student"]


def test_finetuning_in_8_bits_trains_other_weights_for_the_same_form(root: Path, tmp_path: Path) -> None:
    plain, rounding = (
        Run(settings(root, "onnxruntime:int8", quantized=quantized), RunStore(tmp_path / "run"))
        for quantized in (False, True)
    )
    one, other = plain.finetuned[0], rounding.finetuned[0]
    assert not has_rounding(other)
    x = plain.validation[0][:1]
    with torch.no_grad():
        assert not torch.allclose(one(x), other(x), atol=1e-6)
        assert torch.allclose(one(x), other(x), atol=0.1)
    assert isinstance(rounding.delivery.forms["int8"]["student"], Form)
    assert replace(plain.delivery.forms["int8"]["student"], open=print) != replace(  # type: ignore[type-var]
        rounding.delivery.forms["int8"]["student"],  # type: ignore[type-var]
        open=print,
    )


def test_finetuning_in_8_bits_for_a_device_without_is_refused_before_anything_is_trained(
    root: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"finetune\.quantized trains for 8 bits, and onnxruntime has none"):
        refit(settings(root, "onnxruntime", quantized=True), tmp_path / "run")
    assert not list((tmp_path / "run").glob("artifacts/surrogates/*"))
