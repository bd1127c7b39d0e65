"""Networks as ONNX files. What a file computes is judged by ONNX Runtime against torch."""

import copy
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from netgraft.devices.onnx.graph import onnx_bytes, to_onnx
from netgraft.errors import ExportError
from netgraft.nets.blocks import deploy
from netgraft.nets.nafnet import LayerNorm2d, NafBlock, NafNet, NafNetShape, localize
from netgraft.operators import OPERATORS
from netgraft.sites import find_sites


def randomized(module: nn.Module) -> nn.Module:
    """Every parameter gets a value that matters."""
    generator = torch.Generator().manual_seed(0)
    for name, param in module.named_parameters():
        nn.init.normal_(param, mean=1.0 if "norm" in name and "weight" in name else 0.0, std=0.3, generator=generator)
    return module


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def run(content: bytes, x: Tensor) -> np.ndarray:
    return onnxruntime.InferenceSession(content).run(["y"], {"x": x.numpy()})[0]


def op_types(content: bytes) -> Counter[str]:
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    return Counter(node.op_type for node in model.graph.node)


@pytest.fixture(scope="module")
def block() -> nn.Module:
    return randomized(NafBlock(8)).eval()


@pytest.mark.parametrize("fast_forms", [True, False])
def test_a_block_computes_the_same_after_export(block: nn.Module, fast_forms: bool) -> None:
    x = noise(1, 8, 16, 24)
    content = onnx_bytes(block, x, fast_forms=fast_forms)
    with torch.no_grad():
        reference = block(x).numpy()
    np.testing.assert_allclose(run(content, x), reference, atol=1e-5 * np.abs(reference).max())
    ops = op_types(content)
    slow = {"LayerNormalization", "Transpose", "Split"}
    assert (slow & ops.keys()) == (set() if fast_forms else slow)
    assert not {"Shape", "Gather", "SplitToSequence"} & ops.keys()


@pytest.mark.parametrize("local", [False, True])
def test_a_network_of_fixed_size_is_made_of_these_operators_alone(local: bool) -> None:
    """The teacher, also with local statistics, and a student of operators for NPUs: nothing computes shapes."""
    sites = {"down": "strided3", "up": "resize", "block": "naf_relu"}
    teacher = NafNet(NafNetShape(width=4, encoder_blocks=(1, 1), middle_blocks=1, decoder_blocks=(1, 1)))
    student = copy.deepcopy(teacher)
    for site in find_sites(teacher, (32, 32)):
        group, _, name = site.path.rpartition(".")
        block = teacher.get_submodule(site.path)
        setattr(student.get_submodule(group), name, OPERATORS[sites[site.kind]].start(block, site))
    if local:
        localize(teacher, (16, 16))
    around = {"Conv", "Add"}
    norms = {"Sub", "Mul", "Sqrt", "Reciprocal"}
    attention = {"CumSum", "Pad", "Slice", "Div"} if local else {"ReduceMean"}
    x = torch.rand(1, 3, 32, 32)
    assert op_types(onnx_bytes(deploy(teacher), x)).keys() == around | norms | attention | {"DepthToSpace"}
    assert op_types(onnx_bytes(deploy(student), x)).keys() == around | {"Relu", "Resize"}


def test_the_fast_norm_is_as_exact_as_layer_norm_on_a_large_offset() -> None:
    """At mean 1000 and deviation 1, E[x^2] - E[x]^2 would lose all digits but one in single precision."""
    norm, x = LayerNorm2d(16), 1000 + noise(1, 16, 8, 8)
    exact = torch.nn.functional.layer_norm(x.double().permute(0, 2, 3, 1), (16,), eps=1e-6).permute(0, 3, 1, 2)
    np.testing.assert_allclose(run(onnx_bytes(norm, x), x), exact.numpy(), atol=1e-3)


def test_free_sides_take_other_sizes(tmp_path: Path) -> None:
    net = randomized(NafNet(NafNetShape(width=2, encoder_blocks=(0, 0), middle_blocks=1, decoder_blocks=(0, 0))))
    path = tmp_path / "new" / "net.onnx"
    to_onnx(net, noise(1, 3, 16, 16), path, dynamic=True)
    content = path.read_bytes()
    for size in ((16, 16), (20, 36)):
        x = noise(1, 3, *size)
        with torch.no_grad():
            np.testing.assert_allclose(run(content, x), net(x).numpy(), atol=1e-4)
    assert not {"Shape", "Gather"} & op_types(content).keys()
    assert [part.name for part in path.parent.iterdir()] == ["net.onnx"]


def test_export_says_nothing_and_leaves_no_paths(
    block: nn.Module, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        content = onnx_bytes(block, noise(1, 8, 4, 4))
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert str(Path(torch.__file__).parent).encode() not in content
    assert b"nafnet.py" not in content


def test_the_module_is_left_as_it_is() -> None:
    net = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    onnx_bytes(net, noise(1, 2, 4, 4))
    assert all(part.training for part in net.modules())
    assert all(param.requires_grad for param in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


class DataDependent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class WrongWidth(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, torch.zeros(1, 7, 1, 1))


@pytest.mark.parametrize(
    ("module", "why"),
    [(DataDependent(), "data-dependent"), (WrongWidth(), "expected input.* to have 7 channels")],
)
def test_what_onnx_cannot_express_is_refused_in_one_line(
    module: nn.Module, why: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"the file before")
    with pytest.raises(ExportError, match=rf"cannot express {type(module).__name__} in ONNX: .*{why}") as caught:
        to_onnx(module, noise(1, 4, 8, 8), path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert [part.name for part in tmp_path.iterdir()] == ["net.onnx"]
    assert path.read_bytes() == b"the file before"


def test_a_folder_that_cannot_be_written_is_an_export_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    with pytest.raises(ExportError, match=r"taken.*: cannot be written"):
        to_onnx(nn.Conv2d(1, 1, 1), noise(1, 1, 4, 4), tmp_path / "taken" / "net.onnx")
