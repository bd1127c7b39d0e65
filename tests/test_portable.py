"""A student in one file: every operator comes back, and what does not fit is one line that names the file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from netgraft.assemble import assemble
from netgraft.errors import CheckpointError
from netgraft.nets.blocks import calibrating, deploy
from netgraft.nets.checkpoint import save_weights
from netgraft.nets.designs import NAFNET, Design
from netgraft.nets.nafnet import NafNet, NafNetShape, localize
from netgraft.operators import OPERATORS, options_for
from netgraft.portable import HEADER, Student, load_student, save_student
from netgraft.sites import find_sites

SHAPE = NafNetShape(width=4, encoder_blocks=(1, 1), middle_blocks=1, decoder_blocks=(1, 1))
IMAGE = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))


def network() -> NafNet:
    torch.manual_seed(0)
    net = NafNet(SHAPE)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net.eval()


def student(assignment: dict[str, str], *, tlc: tuple[int, int] | None = None) -> Student:
    net = network()
    if tlc is not None:
        localize(net, tlc)
    sites = {site.path: site for site in find_sites(net, (64, 64))}
    modules: dict[tuple[str, str], nn.Module] = {}
    for path, name in assignment.items():
        if name != "keep":
            modules[path, name] = OPERATORS[name].start(net.get_submodule(path), sites[path])
    module = assemble(net, assignment, modules)
    with torch.no_grad(), calibrating(module):
        module(IMAGE)
    return Student(
        module=module,
        design=Design(architecture=NAFNET, shape=SHAPE, tlc=tlc),
        assignment=assignment,
        size=(64, 64),
        device="onnxruntime",
        threads=2,
        teacher="embedded",
    )


@torch.no_grad()
def output(module: nn.Module) -> Tensor:
    y: Tensor = module(IMAGE)
    return y


FITTING = sorted({name for site in find_sites(network()) for name in options_for(site, OPERATORS)[1:]})


@pytest.mark.parametrize("name", FITTING)
@pytest.mark.parametrize("deployed", [False, True])
def test_every_operator_comes_back(tmp_path: Path, name: str, deployed: bool) -> None:
    """To the last bit, and in a form that can be trained and deployed again."""
    place = {"block": "encoders.1.0", "down": "downs.0", "up": "ups.1"}[OPERATORS[name].kind]
    before = student({place: name, "encoders.0.0": "keep"})
    if deployed:
        before = dataclasses.replace(before, module=deploy(before.module))
    save_student(before, tmp_path / "s.safetensors")
    after = load_student(tmp_path / "s.safetensors")
    assert torch.equal(output(after.module), output(before.module))
    torch.testing.assert_close(output(deploy(after.module)), output(before.module), rtol=1e-4, atol=1e-4)
    assert after.assignment == {place: name}
    assert (after.design.shape, after.size, after.threads, after.teacher) == (SHAPE, (64, 64), 2, "embedded")
    assert not after.module.training
    after.module(IMAGE).sum().backward()


def test_local_statistics_come_back(tmp_path: Path) -> None:
    before = student({}, tlc=(8, 8))
    save_student(before, tmp_path / "s.safetensors")
    after = load_student(tmp_path / "s.safetensors")
    assert after.design.tlc == (8, 8)
    assert torch.equal(output(after.module), output(before.module))
    assert not torch.equal(output(after.module), output(network()))


def written(path: Path, changes: dict[str, Any]) -> Path:
    """A student's file with changes to its header."""
    save_student(student({"encoders.1.0": "conv3_res"}), path)
    with safetensors.safe_open(path, "pt") as file:
        header = json.loads(file.metadata()[HEADER])
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file(tensors, path, {HEADER: json.dumps(header | changes)})
    return path


SHAPE_ROW = {
    "width": 4,
    "encoder_blocks": [1, 1],
    "middle_blocks": 1,
    "decoder_blocks": [1, 1],
    "image_channels": 3,
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "newer"),
        ({"surprise": 1}, "surprise"),
        ({"size": [64]}, "size"),
        ({"size": [0, 64]}, "sizes"),
        ({"threads": "2"}, "threads"),
        ({"assignment": {"encoders.1.0": "conv3_re"}}, "did you mean 'conv3_res'"),
        ({"assignment": {"encoders.1.0": "os:system"}}, "operators of your own"),
        ({"assignment": {"encoders.1.0": "transposed"}}, "operator for encoders.1.0"),
        ({"assignment": {"encoders.7.0": "drop"}}, "site"),
        ({"assignment": {"encoders.1.0": "drop"}}, "its weights are not those"),
        ({"shape": SHAPE_ROW | {"width": 6}}, "its weights are not those"),
        ({"shape": SHAPE_ROW | {"middle_blocks": 10**9}}, "blocks"),
        ({"shape": SHAPE_ROW | {"encoder_blocks": [1]}}, "damaged"),
        ({"shape": SHAPE_ROW | {"encoder_blocks": [1, -1]}}, "damaged"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = written(tmp_path / "s.safetensors", changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_student(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_weights_are_no_student(tmp_path: Path) -> None:
    save_weights(network(), tmp_path / "teacher.safetensors")
    with pytest.raises(CheckpointError, match="holds no student"):
        load_student(tmp_path / "teacher.safetensors")
    with pytest.raises(CheckpointError, match="no such file"):
        load_student(tmp_path / "missing.safetensors")
    torch.save({"x": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="holds no student"):
        load_student(tmp_path / "x.pth")
