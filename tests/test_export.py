"""Exports are what the network was, or they are not there at all."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from netgraft.devices import onnx_bytes
from netgraft.errors import ExportError
from netgraft.export import PARITY, export
from netgraft.nets.blocks import HalfResolution
from netgraft.nets.nafnet import NafNet, NafNetShape, start_residuals
from netgraft.restore import open_restorer, restore

torch.set_num_threads(1)


def nafnet() -> NafNet:
    """Sides must be multiples of 4."""
    torch.manual_seed(0)
    net = NafNet(NafNetShape(width=4, encoder_blocks=(1, 0), middle_blocks=1, decoder_blocks=(0, 1)))
    start_residuals(net, 0.3)
    return net


def images(h: int, w: int, count: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(1, 3, h, w, generator=generator) for _ in range(count)]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_both_files_compute_what_the_network_computes(tmp_path: Path) -> None:
    """At 20 rows, three quarters are 15: the size that the free file is tried at must still be a multiple of 4."""
    net, examples = nafnet().train(), images(20, 24)
    done = export(net, tmp_path / "export", "student", examples)
    assert all(part.training for part in net.modules())
    assert names(tmp_path / "export") == ["student.onnx", "student_dynamic.onnx"]
    assert (done.fixed.name, done.dynamic.name) == ("student.onnx", "student_dynamic.onnx")
    assert done.size_bytes == done.fixed.stat().st_size
    net.eval()
    worst = 0.0
    for path, size in ((done.fixed, (20, 24)), (done.dynamic, (20, 24)), (done.dynamic, (36, 8))):
        session = onnxruntime.InferenceSession(path)
        ((x, y),) = zip(session.get_inputs(), session.get_outputs(), strict=True)
        assert (x.name, y.name) == ("x", "y")
        assert x.shape[:2] == [1, 3]
        image = images(*size, count=1)[0]
        with torch.no_grad():
            gap = np.abs(session.run(["y"], {"x": image.numpy()})[0] - net(image).numpy()).max()
        worst = max(worst, float(gap))
    assert worst < 1e-5
    assert 0 < done.parity_max_abs < 1e-5
    fixed, dynamic = onnx.load(done.fixed), onnx.load(done.dynamic)
    assert [d.dim_value for d in fixed.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 20, 24]
    assert {p.key: p.value for p in dynamic.metadata_props} == {"size_multiple": "4"}
    assert not fixed.metadata_props


def test_a_block_at_half_resolution_doubles_what_sides_must_be(tmp_path: Path) -> None:
    """In the lowest level it needs even maps; the file says so, and a photo of any size goes through."""
    net = nafnet()
    net.middle_blks[0] = HalfResolution(16)
    assert net.size_multiple == 8
    done = export(net, tmp_path, "half", images(16, 16, count=1))
    assert open_restorer(done.dynamic).multiple == 8
    photo = np.random.default_rng(0).integers(0, 256, (12, 21, 3)).astype(np.uint8)
    gap = restore(photo, done.dynamic).astype(int) - restore(photo, net).astype(int)
    assert np.abs(gap).max() <= 1


class Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1, groups=3, bias=False)
        nn.init.constant_(self.conv.weight, factor)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y


class DeploysAs(Scale):
    """Its form for inference multiplies by another number than itself."""

    def __init__(self, factor: float, deployed: float) -> None:
        super().__init__(factor)
        self.deployed = deployed

    def deploy(self) -> nn.Module:
        return Scale(self.deployed)


def test_the_parity_is_the_largest_difference(tmp_path: Path) -> None:
    """x and 1.0005 x differ by 0.0005 times the brightest value."""
    examples = images(8, 8, count=3)
    done = export(DeploysAs(1.0, 1.0 + PARITY / 2), tmp_path, "near", examples)
    brightest = max(float(example.max()) for example in examples)
    assert done.parity_max_abs == pytest.approx(brightest * PARITY / 2, rel=1e-3)


@pytest.mark.parametrize("deployed", [1.01, float("nan"), float("inf")])
def test_an_export_that_disagrees_is_taken_away(deployed: float, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="wrong: the export differs") as caught:
        export(DeploysAs(1.0, deployed), tmp_path, "wrong", images(8, 8))
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []


def test_a_network_that_is_not_finite_itself_has_no_parity(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="differs"):
        export(Scale(float("nan")), tmp_path, "nan", images(8, 8))
    assert names(tmp_path) == []


class OneSize(nn.Module):
    """Depends on the size in a way that no file of free size can express."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.shape[2] == 8 else -x


def test_if_only_one_of_the_two_can_be_exported_none_is_left(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="half: ONNX Runtime does not run the export"):
        export(OneSize(), tmp_path, "half", images(8, 8))
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_an_export_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    with pytest.raises(ExportError, match="taken"):
        export(Scale(1.0), tmp_path / "taken", "x", images(8, 8))


def test_a_shorter_way_to_the_file_of_fixed_size_is_checked_like_the_exporter(tmp_path: Path) -> None:
    """It is given the deployed form, and its file must agree with the module."""
    examples = images(8, 8)
    seen = []

    def content(deployed: nn.Module) -> bytes:
        seen.append(type(deployed))
        return onnx_bytes(Scale(2.0), examples[0])

    done = export(DeploysAs(2.0, 2.0), tmp_path, "good", examples, content)
    assert seen == [Scale]
    assert done.fixed.read_bytes() == onnx_bytes(Scale(2.0), examples[0])
    with pytest.raises(ExportError, match="differs"):
        export(DeploysAs(1.0, 1.0), tmp_path, "wrong", examples, content)
    assert names(tmp_path) == ["good.onnx", "good_dynamic.onnx"]
